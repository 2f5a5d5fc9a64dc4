"""The examples of docstrings, run with a tiny network in a folder of two photographs."""

import doctest
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import retfm_jax
from retfm_jax.models.bert import BertConfig

sys.path.insert(0, str(Path(__file__).parent / "extras"))
from inference import network

#: Modules with examples, and how many docstrings have some.
_MODULES = {"retfm_jax.model": 8, "retfm_jax.table": 1}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the examples start from."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for gray, side in ((40, "left"), (200, "right")):
            Image.fromarray(np.full((40, 48, 3), gray, np.uint8)).save(f"{side}.jpg")
        text = BertConfig(21128, width=16, layers=1, heads=2, mlp_width=16, positions=12)
        model = network("retclip", text=text)
        model.save("run")
        classifier = network("classifier", classes=("normal", "drusen"), outcome="exclusive")
        yield {"retfm_jax": retfm_jax, "model": model, "classifier": classifier}


@pytest.mark.parametrize("name", _MODULES)
def test_the_examples_of_docstrings_are_true(name, names):
    module = importlib.import_module(name)
    examples = [found for found in doctest.DocTestFinder().find(module) if found.examples]
    assert len(examples) == _MODULES[name]
    for example in examples:
        example.globs |= names
        said = []
        failed, _ = doctest.DocTestRunner().run(example, out=said.append)
        assert not failed, "".join(said)
