"""Notebooks of `colab/`: run in a kernel of this interpreter, as a person runs them.

`python tests/running_notebooks.py quickstart` runs one as it is and keeps its outputs in it.
"""

import ast
import copy
import os
import re
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "colab").glob("*.ipynb"))}
#: Where notebooks run on Colab: what kept outputs say instead of the folder in which they ran.
_COLAB = "/content"


def read(name):
    """A notebook as it is committed."""
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def code_cells(notebook):
    """Its cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def with_parameters(notebook, parameters):
    """The notebook with a cell that sets parameters behind the one that has their defaults."""
    notebook = copy.deepcopy(notebook)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert set(parameters) <= assigned(cell.source)
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    place = notebook.cells.index(cell) + 1
    notebook.cells.insert(place, nbformat.v4.new_code_cell(source))
    return notebook


def assigned(source):
    """The names that a cell of nothing but assignments sets."""
    statements = ast.parse(source).body
    assert all(isinstance(each, ast.Assign) for each in statements)
    names = [node for each in statements for node in ast.walk(each) if isinstance(node, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def execute(notebook, folder):
    """Runs all cells in a folder, in place; what a cell raises ends it.

    Kernels have one device, and leave no trace in the user's home.
    """
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    (folder / "session").mkdir()
    jupyter = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")
    client = nbclient.NotebookClient(
        notebook,
        timeout=3000,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder / "session")}},
    )
    own = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    client.execute(env=os.environ | own | {name: str(folder / "jupyter") for name in jupyter})


def keep_outputs(name):
    """Runs a notebook as it is, and keeps what it shows in its file."""
    notebook = read(name)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
        where = re.compile(re.escape(str(Path(folder) / "session")))
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            if "text" in output:
                output.text = where.sub(_COLAB, output.text)
            data = output.get("data", {})
            data.update(
                {kind: where.sub(_COLAB, text) for kind, text in data.items() if "text" in kind}
            )
    nbformat.write(notebook, NOTEBOOKS[name])


if __name__ == "__main__":
    for each in sys.argv[1:]:
        keep_outputs(each)
