"""The notebooks of `colab/` run from their first cell to their last, at a small size.

They need no PyTorch, no libtpu and no constraints: notebooks are opened where dependencies are the
newest that an interpreter gets.
"""

import pytest
from running_notebooks import NOTEBOOKS, code_cells, execute, read, with_parameters

_TEXT = '{"width": 32, "heads": 2, "mlp_width": 32, "layers": 1, "positions": 64}'
_TINY = (
    "--config.data.image.size=32 --config.data.prefetch=1 --config.train.batch_size=8 "
    "--config.train.log_every=1"
)
_TWO_TOWERS = (
    f"{_TINY} --config.train.steps=2 --config.model.image.image_size=32 "
    f"--config.model.text='{_TEXT}'"
)
_VIT = (
    f"{_TINY} --config.model.image.image_size=32 --config.model.image.width=32 "
    "--config.model.image.layers=2 --config.model.image.heads=2"
)
#: Notebook -> what its parameters are here.
SMALL = {
    "quickstart": {"PATIENTS": 60, "STEPS": 2, "CHANGES": _TWO_TOWERS},
    "finetune_your_photographs": {
        "PATIENTS": 24,
        "CHANGES": f"{_VIT} --config.train.epochs=1 --config.optimizer.warmup_epochs=0",
    },
    "your_reports": {"PATIENTS": 60, "CHANGES": _TWO_TOWERS},
    "compare_models": {
        "PATIENTS": 60,
        "CHANGES": {
            "quickstart": _TWO_TOWERS,
            "mae_synthetic": f"{_VIT} --config.train.steps=2 --config.model.decoder.width=16 "
            "--config.model.decoder.heads=2",
        },
    },
    "segment": {
        "PATIENTS": 12,
        "CHANGES": f"{_VIT} --config.train.epochs=1 --config.optimizer.warmup_epochs=0 "
        "--config.data.masks.working_size=48 --config.model.decoder.channels=4",
    },
}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_to_its_end(name, tmp_path):
    notebook = with_parameters(read(name), SMALL[name])
    execute(notebook, tmp_path)
    commands = [cell for cell in code_cells(notebook) if "%retfm" in cell.source]
    assert len(commands) > 2
    assert all(cell.outputs for cell in commands)
    assert sum("image/jpeg" in kinds for kinds in displayed(notebook)) >= 1


def displayed(notebook):
    """Kinds of everything that the cells display."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [output.data for output in outputs if "data" in output]
