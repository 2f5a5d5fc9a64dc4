"""The notebooks of `colab/` begin alike, and stop where a command fails.

`tests/smoke/test_notebooks.py` runs them.
"""

import re
import tomllib

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image
from running_notebooks import NOTEBOOKS, ROOT, code_cells, execute, read

from retfm_jax import notebook as commands

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HOME = PROJECT["urls"]["Repository"]


@pytest.fixture(params=NOTEBOOKS)
def kept(request):
    """A notebook as it is committed."""
    return request.param, read(request.param)


def test_a_command_that_fails_stops_the_notebook(tmp_path):
    lines = (
        "%load_ext retfm_jax.notebook",
        "NAME = 'no such task'\n%retfm tasks '{NAME}' \\\n    --data_dir nowhere",
        "print('reached')",
    )
    cells = [nbformat.v4.new_code_cell(line) for line in lines]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ended with status 1"):
        execute(notebook, tmp_path)
    _, failed, never = notebook.cells
    said, error = failed.outputs
    assert said.text == "retfm tasks: no task or public set 'no such task'\n"
    # Whoever reads it looks at the command's own sentence, not into this package.
    assert error.ename == "CommandFailed"
    assert error.traceback == ["retfm tasks ended with status 1: the lines above say why"]
    assert never.execution_count is None
    assert not never.outputs


def test_an_interrupted_command_says_what_it_saved(tmp_path, monkeypatch):
    """It has the signal as well, as all of a terminal's processes do."""
    said, script = [], tmp_path / "command"
    script.write_text("#!/bin/sh\necho step 1\necho saved\nexit 75\n")
    script.chmod(0o755)
    monkeypatch.setattr(commands.sys, "executable", str(script))

    def say(line):
        said.append(line)
        if line == "step 1":
            raise KeyboardInterrupt

    monkeypatch.setattr(commands, "say", say)
    with pytest.raises(KeyboardInterrupt):
        commands.retfm("train")
    assert said == ["step 1", "saved"]


def test_pictures_stand_beside_each_other_at_one_height(tmp_path):
    wide, high = np.zeros((10, 40, 3), np.uint8), np.full((20, 20, 3), 255, np.uint8)
    Image.fromarray(high).save(tmp_path / "high.png")
    whole = commands._opened(commands.show(wide, tmp_path / "high.png", width=500).data)
    assert whole.size == (500, 100)
    pixels = np.asarray(whole)
    assert pixels[:, :390].max() < 30
    assert pixels[:, 410:].min() > 225


def test_the_first_cell_has_the_notebooks_own_badge(kept):
    name, notebook = kept
    place = HOME.removeprefix("https://github.com/")
    address = f"https://colab.research.google.com/github/{place}/blob/main/colab/{name}.ipynb"
    first = notebook.cells[0].source
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    assert f"[![Open in Colab]({badge})]({address})" in first


def test_all_begin_alike(kept):
    """What is set before JAX is imported, and what is installed, is said in one way."""
    name, notebook = kept
    first, *rest = code_cells(notebook)
    assert first.source == code_cells(read("quickstart"))[0].source
    setting = 'os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"'
    assert setting in first.source
    assert not re.search(r"\bimport jax\b", first.source)
    extras = {
        extra
        for names in re.findall(r'"([\w,]+)" if|else "(\w+)"', first.source)
        for name in names
        for extra in name.split(",")
        if extra
    }
    assert extras
    assert extras <= set(PROJECT["optional-dependencies"])
    assert f"git+{HOME}" in first.source
    assert any("compute_dtype" in cell.source for cell in rest), name


def test_commands_are_those_that_stop_a_notebook(kept):
    _, notebook = kept
    for cell in code_cells(notebook):
        assert not re.search(r"!\s*retfm|get_ipython|subprocess", cell.source), cell.source


def test_addresses_of_the_project_are_its_home_and_neighbors_exist(kept):
    _, notebook = kept
    for cell in notebook.cells:
        assert set(re.findall(r"https://github\.com/\w+/retfm_jax", cell.source)) <= {HOME}
        for path in re.findall(r"/blob/main/([\w/.]+)", cell.source):
            assert (ROOT / path).is_file(), path
        for neighbor in re.findall(r"\]\((\w+\.ipynb)\)", cell.source):
            assert (ROOT / "colab" / neighbor).is_file(), neighbor
