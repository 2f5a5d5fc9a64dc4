"""The notebooks of `colab/` keep what they show."""

import json
import re

import pytest
from running_notebooks import NOTEBOOKS, code_cells, read

#: Beginnings of paths of a machine, which outputs are not to tell.
_MACHINE = re.compile(r"(?<![\w.])/(?:var|root|home|work|tmp|usr|Users|mnt|opt)/")


@pytest.fixture(params=NOTEBOOKS)
def kept(request):
    """A notebook as it is committed."""
    return request.param, read(request.param)


def outputs_of(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def test_outputs_are_kept_and_whole(kept):
    _, notebook = kept
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = outputs_of(notebook)
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/jpeg" in output.get("data", ()) for output in outputs) >= 1
    assert all(cell.outputs for cell in cells if cell.source.startswith("%retfm"))


def test_outputs_tell_nothing_of_the_machine_that_made_them(kept):
    _, notebook = kept
    for output in outputs_of(notebook):
        text = json.dumps({**output, "data": without_pictures(output)})
        assert not _MACHINE.search(text), text[:500]


def without_pictures(output):
    return {kind: data for kind, data in output.get("data", {}).items() if "image" not in kind}


def test_notebooks_are_small_enough_to_be_looked_at(kept):
    name, _ = kept
    assert NOTEBOOKS[name].stat().st_size < 600_000
