"""Figures of the documentation show what the code does, and fit into the page of a telephone."""

import importlib.util
import re
import xml.etree.ElementTree
from pathlib import Path

import jax
import numpy as np
import pytest

from retfm_jax.config import MeshConfig, load_config
from retfm_jax.methods import make_method
from retfm_jax.runtime.mesh import make_mesh, partition_spec, place_batch
from retfm_jax.trees import flatten

DOCS = Path(__file__).parents[1] / "docs"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def diagrams():
    spec = importlib.util.spec_from_file_location("docs_diagrams", DOCS / "diagrams.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(diagrams):
    return {
        name: xml.etree.ElementTree.fromstring(svg) for name, svg in diagrams.diagrams().items()
    }


def test_every_figure_stands_on_one_page(drawn):
    shown = [
        name
        for page in DOCS.rglob("*.md")
        for name in re.findall(r"generated/diagrams/(\w+)\.svg", page.read_text("utf-8"))
    ]
    assert sorted(shown) == sorted(drawn)


def test_nothing_is_outside_of_a_figure_and_letters_can_be_read(drawn, diagrams):
    for name, figure in drawn.items():
        left, top, width, height = map(float, figure.get("viewBox").split())
        assert (left, top, width) == (0, 0, diagrams.WIDTH)
        assert figure.find(f"{SVG}title").text
        for text in figure.iter(f"{SVG}text"):
            assert float(text.get("font-size")) >= 12
            long = diagrams.LETTER * float(text.get("font-size")) * len(text.text)
            x, y = float(text.get("x")), float(text.get("y"))
            if text.get("transform"):
                assert y - long >= 0, (name, text.text)
                continue
            begins = x - long * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
            assert begins >= 0, (name, text.text)
            assert begins + long <= width, (name, text.text)
            assert 10 <= y <= height, (name, text.text)
        for box in figure.iter(f"{SVG}rect"):
            assert 0 <= float(box.get("x")) <= width - float(box.get("width"))
            assert 0 <= float(box.get("y")) <= height - float(box.get("height"))


def test_colors_are_those_of_the_page(drawn):
    style = (DOCS / "_static" / "diagrams.css").read_text("utf-8")
    for figure in drawn.values():
        for part in figure.iter():
            for color in filter(None, (part.get("fill"), part.get("stroke"))):
                assert color in ("none", "currentColor") or f"{color[4:-1]}:" in style


def test_weights_of_pairs_are_those_of_the_paper(diagrams):
    weights = diagrams.coupling_weights()
    normal, drusen, both = 0, 1, 3
    assert weights[normal, 2] == weights[normal, 4] == 0  # the other normal reports
    assert weights[drusen, both] == pytest.approx(1 - 2**-0.5)
    assert weights[both, both] == weights[drusen, normal] == weights[drusen, 7] == 1


def test_samples_lie_on_the_devices_as_shown(diagrams):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:4])
    placed = place_batch({"sample": np.arange(16)}, mesh)["sample"]
    shown = diagrams.device_samples()
    for shard in placed.addressable_shards:
        device = list(mesh.devices.flat).index(shard.device)
        assert sorted(shown[:, device].ravel()) == shard.data.tolist()


def test_arrays_of_the_figure_are_those_of_a_network(diagrams):
    config = load_config("retclip_vit_b16")
    shapes, _ = jax.eval_shape(make_method(config.method, config.model).init, jax.random.key(0))
    shapes = flatten(shapes)
    divided = []
    for _, path, shape in diagrams.ARRAYS:
        assert path.startswith("queue") or shapes[path].shape == shape
        divided.append("fsdp" in partition_spec(path, shape, fsdp=2))
    assert divided == [True, False, False]
