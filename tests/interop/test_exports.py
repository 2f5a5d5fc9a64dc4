"""An export computes what this package computes, and goes without it."""

import dataclasses
import json

import numpy as np
import pytest
from exported_models import CLASSES, MODELS, VIT, make, run_without
from PIL import Image

from retfm_jax.decisions import default_decisions
from retfm_jax.errors import UserError
from retfm_jax.experiments import exporting
from retfm_jax.experiments.exporting import PARITY, export_program, write_program
from retfm_jax.interop.formats import get_form
from retfm_jax.interop.formats.programs import load_program

#: Takes what the programs in some folders give.
_ALONE = """
import sys

for folder, out in {folders!r}:
    sys.path.insert(0, folder)
    sys.modules.pop("model", None)
    import model

    program = model.load()
    found = program.outputs({paths!r})
    if program.run_texts is not None:
        found.update(program.text_outputs({texts!r}))
    import numpy as np

    np.savez(out, **found)
"""
_TEXTS = ["右眼可见硬性渗出", "Drusen of the macula, OD: “naïve” ｆｕｌｌ"]


@pytest.fixture(scope="session")
def models():
    return {name: make() for name, make in MODELS.items()}


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Files of several kinds, deep, transparent and turned ones among them."""
    folder = tmp_path_factory.mktemp("photographs")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(folder / "a.jpg", quality=95, exif=turned)
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(folder / "b.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 16).save(folder / "c.png")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="session")
def exports(models, tmp_path_factory):
    """Folders by form and network, each made once."""
    made = {}

    def export(form, name):
        if (form, name) not in made:
            out = tmp_path_factory.mktemp("exports") / f"{name}_{form}"
            write_program(models[name], get_form(form), out)
            made[form, name] = out
        return made[form, name]

    return export


#: What the user of a form need not have.
_WITHOUT = {
    "torch": ("retfm_jax", "jax", "flax", "transformers", "onnxruntime"),
    "onnx": ("retfm_jax", "jax", "flax", "torch", "transformers", "onnx", "onnxscript"),
    "stablehlo": ("retfm_jax", "flax", "torch", "transformers", "onnxruntime"),
    "saved_npz": ("retfm_jax", "jax", "flax", "torch", "transformers", "onnxruntime"),
}
_CASES = [
    *(("torch", name) for name in MODELS),
    *(("onnx", name) for name in ("pairs", "grades")),
    *(("stablehlo", name) for name in ("patients", "grades")),
    *(("saved_npz", name) for name in MODELS),
]


@pytest.fixture(scope="session")
def alone(exports, photographs, tmp_path_factory):
    """Outputs of a form's programs, by network, in a process that cannot import what is refused."""
    found = {}

    def run(form):
        if form not in found:
            names = [name for other, name in _CASES if other == form]
            out = tmp_path_factory.mktemp(f"alone_{form}")
            folders = [(str(exports(form, name)), str(out / f"{name}.npz")) for name in names]
            code = _ALONE.format(folders=folders, paths=photographs, texts=_TEXTS)
            run_without(_WITHOUT[form], code)
            found[form] = {name: np.load(out / f"{name}.npz") for name in names}
        return found[form]

    return run


@pytest.mark.parametrize(("form", "name"), _CASES)
def test_a_program_computes_the_same_without_this_package(form, name, models, alone, photographs):
    found = alone(form)[name]
    exact = exporting._exact(models[name])
    expected = {"image_embedding": exact.encode_images(photographs)}
    if exact.method.text is not None:
        expected["text_embedding"] = exact.encode_texts(_TEXTS)
    if exact.classes:
        expected["class_probabilities"] = exact.predict(photographs)
    assert {*found} >= {*expected}
    for output, value in expected.items():
        np.testing.assert_allclose(found[output], value, atol=1e-5)


def test_programs_decide_as_the_model_does(models, exports, photographs):
    decisions = models["grades"].decisions
    probabilities = models["grades"].predict(photographs)
    said = load_program(exports("torch", "grades")).decide(photographs)
    assert len(said) == len(photographs)
    sets = decisions.sets(probabilities)
    for row, each in enumerate(said):
        best = decisions.classes[decisions.predicted(probabilities)[row]]
        assert each["classes"] == [best]
        inside = [n for n, is_in in zip(decisions.classes, sets[row], strict=True) if is_in]
        assert each["set"] == inside
        assert sum(each["probabilities"].values()) == pytest.approx(1)


def test_batches_of_any_size_and_texts_of_any_length_run_in_onnxruntime(exports):
    for form in ("onnx", "stablehlo"):
        name = {"onnx": "pairs", "stablehlo": "patients"}[form]
        program = load_program(exports(form, name))
        size = program.preprocessing.size
        pixels = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), np.uint8)
        whole = program.run_images(pixels)["image_embedding"]
        parts = [program.run_images(pixels[n : n + 1])["image_embedding"] for n in range(5)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-6)
    texts = load_program(exports("onnx", "pairs")).run_texts
    tokens = np.array([[101, 5, 6, 102, 0, 0, 0]], np.int32)
    cut = texts(tokens[:, :4])["text_embedding"]
    np.testing.assert_allclose(texts(tokens)["text_embedding"], cut, atol=2e-6)


def test_eight_bits_are_measured_and_near(exports):
    folder = exports("onnx", "grades")
    report = json.loads((folder / PARITY).read_text())["int8"]["image.onnx"]
    assert report["least_cosine"] > 0.98
    full, small = report["bytes"]
    assert small < full
    assert min(report["a_second"]) > 0
    table = (folder / "README.md").read_text()
    assert f"{report['least_cosine']:.4f}" in table
    assert load_program(folder, int8=True).predict(np.zeros((9, 9, 3), np.uint8)).shape == (1, 3)


def test_a_folder_says_what_it_is(exports, models):
    folder = exports("torch", "grades")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md", "classes.json", "model.py", "parity.json", "preprocessing.json", "weights.pt"
    }  # fmt: skip
    classes = json.loads((folder / "classes.json").read_text())
    assert classes == models["grades"].decisions.to_json()
    parity = json.loads((folder / PARITY).read_text())
    assert parity["outputs"]["class_probabilities"]["largest_difference"] <= 1e-5
    assert json.loads((folder / "preprocessing.json").read_text())["contrast"] == "clahe"


def test_an_export_that_differs_leaves_nothing(models, tmp_path, monkeypatch):
    form = get_form("torch")
    run = form.run
    monkeypatch.setattr(
        form, "run", lambda *given: {name: x + 2e-5 for name, x in run(*given).items()}
    )
    with pytest.raises(UserError, match="differs from this package in image_embedding"):
        write_program(models["tower"], form, tmp_path / "out")
    monkeypatch.setattr(
        form, "run", lambda *given: {name: x * np.nan for name, x in run(*given).items()}
    )
    with pytest.raises(UserError, match="differs"):
        write_program(models["tower"], form, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_mistakes_are_told_before_anything_is_computed(models, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="did you mean 'torch'"):
        export_program("nowhere", "torhc", tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(UserError, match="is not empty: give a new folder"):
        export_program("nowhere", "torch", tmp_path / "taken")
    monkeypatch.setattr(exporting, "_SPARE", 1 << 60)
    with pytest.raises(UserError, match="GB free, and this export needs"):
        write_program(models["tower"], get_form("torch"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.fixture(scope="module")
def plain():
    """A vision transformer of DINOv2's form with classes, whose preprocessing others have."""
    form = {"activation": "gelu", "pre_norm": False, "patch_bias": True, "layer_scale": True}
    image = dataclasses.replace(VIT, norm_eps=1e-6, registers=2, **form)
    decisions = default_decisions(CLASSES, "exclusive")
    decisions = dataclasses.replace(decisions, temperature=1.7)
    model = make("finetune", image, decisions, classes=CLASSES, outcome="exclusive")
    picture = dataclasses.replace(model.data_config.image, field_of_view="whole", contrast="none")
    data = dataclasses.replace(model.data_config, image=picture)
    model.config = dataclasses.replace(model.config, data=data)
    return model


def test_transformers_computes_the_calibrated_probabilities(plain, tmp_path):
    from transformers import AutoModelForImageClassification

    made = write_program(plain, get_form("transformers"), tmp_path / "out")
    assert made.parity["class_probabilities"].largest <= 1e-5
    assert made.parity["image_features"].largest <= 1e-4
    assert made.measured["processor"] == {"photographs": 16, "same_pixels": 16}
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert tuple(model.config.id2label.values()) == CLASSES


def test_timm_has_the_network_or_what_it_would_read_is_read_back(plain, models, tmp_path):
    made = write_program(plain, get_form("timm"), tmp_path / "out")
    assert made.parity["class_probabilities"].largest <= 1e-5
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["label_names"] == list(CLASSES)
    assert said["model_args"]["reg_tokens"] == 2
    assert made.measured["read_by"] in (tmp_path / "out" / "README.md").read_text()
    timm = pytest.importorskip("timm")
    timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)


@pytest.mark.parametrize(
    ("form", "name", "reason"),
    [
        ("transformers", "grades", "ViTModel, which is nearest to this image tower, has no pool"),
        ("transformers", "pairs", "no model of CLIP's residual networks"),
        ("transformers", "categories", "no terms for this network's preprocessing .resize pad"),
        ("transformers", "tower", "has no activation swiglu"),
        ("timm", "pairs", "CLIP's residual networks otherwise"),
        ("timm", "categories", "begin with 64 channels, this one with 8"),
        ("timm", "tower", "have no rotations for positions"),
        ("timm", "grades", "no terms for this network's preprocessing"),
    ],
)
def test_a_form_that_does_not_fit_says_so_in_one_sentence(form, name, reason, models):
    network = exporting._exported(exporting._exact(models[name]))
    with pytest.raises(UserError, match=reason) as raised:
        get_form(form).check(network)
    assert "\n" not in str(raised.value)


def test_a_method_that_tells_no_outputs_leaves_as_stablehlo(models, monkeypatch):
    network = exporting._exported(models["tower"])
    monkeypatch.setattr(type(network.method), "outputs", ())
    with pytest.raises(UserError, match="stablehlo takes every network"):
        get_form("torch").check(network)
    get_form("stablehlo").check(network)
