"""A network that writes reports leaves for PyTorch, and writes the same reports there."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from case_photographs import photograph
from exported_models import random_network
from golden_files import Golden

import retfm_jax
from retfm_jax.config import DataConfig, from_dict
from retfm_jax.errors import UserError
from retfm_jax.experiments import exporting
from retfm_jax.experiments.exporting import write_program
from retfm_jax.interop.formats import get_form, onnx
from retfm_jax.interop.formats.base import Exported
from retfm_jax.interop.formats.programs import load_program
from retfm_jax.interop.hub_folder import write_hub_folder
from retfm_jax.methods import make_method
from retfm_jax.model import RetinalModel

WORDS = (".", "<unk>", "disc", "drusen", "edema", "eye", "left", "macular", "正", "常")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other cost more than such small networks do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> RetinalModel:
    """Words attend to the patches of three photographs at most, of a vision transformer."""
    tower = {"kind": "vit", "image_size": 32, "patch_size": 16, "width": 32, "layers": 1}
    config = from_dict(
        {
            "method": "ffa_captioner",
            "model": {
                "image": {**tower, "heads": 2},
                "captioner": {
                    "width": 32, "mlp_width": 48, "layers": 2, "heads": 2, "positions": 12
                },
                "vocabulary": len(WORDS) + 1,
                "images": "all",
                "places": 3,
            },
            "data": {
                "case_images": 3,
                "image": {"size": 32},
                "text": {"context_length": 9, "words": WORDS},
            },
        }
    )  # fmt: skip
    method = make_method(config.method, config.model)
    return RetinalModel(method, *random_network(method), config)


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "torch"
    return write_program(model, get_form("torch"), out), out


@pytest.fixture(scope="module")
def program(made):
    return load_program(made[1])


CASES = [
    [photograph(0), photograph(1)],
    [None, photograph(2)],
    photograph(1, 5),
    [photograph(color, 7) for color in (0, 1, 2, 0, 1)],
]


def test_reports_are_what_they_are_here(made, model, program):
    parity = made[0].parity
    assert parity["word_log_probabilities"].shape == (6, 8, 11)
    assert parity["report_words"].shape == (2, 6, 9)
    assert parity["report_words"].largest == 0
    assert max(each.largest for each in parity.values()) < 1e-5
    written = [program.caption(case) for case in CASES]
    assert written == model.captions(CASES)
    assert len(set(written)) > 1
    assert written != [program.caption(case, beams=1) for case in CASES]
    ids, score = program.write(CASES[0], length=4, length_penalty=1.0)
    assert len(ids) <= 4
    said = program.read(CASES[0], [0, *ids][:-1])
    steps = [said[place, word] for place, word in enumerate(ids)]
    assert score == pytest.approx(np.mean(steps), abs=1e-5)


def test_a_report_as_text_is_read_as_its_words(program):
    text = "Macular edema; unheard. 正常"
    ids = [0, 8, 5, 1, 2, 1, 9, 10]
    np.testing.assert_array_equal(program.read(CASES[1], text), program.read(CASES[1], ids))


def test_a_missing_eye_moves_no_other(program):
    right = program.read([None, photograph(2)], "eye")
    np.testing.assert_array_equal(program.read(["", photograph(2), b""], "eye"), right)
    assert np.abs(program.read([photograph(2)], "eye") - right).max() > 1e-3


def test_the_program_prints_the_report_of_its_photographs(made, program, tmp_path):
    for name, color in (("left.png", 0), ("right.png", 1)):
        (tmp_path / name).write_bytes(photograph(color))
    command = [sys.executable, made[1] / "model.py", "left.png", "right.png", "--beams", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == program.caption(CASES[0], beams=1)


def test_a_folder_says_its_words_and_what_was_compared(made):
    _, folder = made
    shared = {"README.md", "model.py", "parity.json", "preprocessing.json"}
    assert {path.name for path in folder.iterdir()} == shared | {"words.json", "weights.pt"}
    said = json.loads((folder / "words.json").read_text())
    assert (tuple(said["words"]), said["context_length"]) == (WORDS, 9)
    assert json.loads((folder / "preprocessing.json").read_text())["case_images"] == 3
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-to-text"
    assert 'program.caption(["left.jpg", "right.jpg"])' in card
    assert "have the same words in all 12 searches" in card
    assert "from retfm_jax" not in (folder / "model.py").read_text()


@pytest.mark.parametrize(
    ("photographs", "options", "message"),
    [
        ([None, ""], {}, "has no photograph"),
        (CASES[0], {"beams": 0}, "beams must be from 1 to 11"),
        (CASES[0], {"length": 13}, "length must be from 1 to 12"),
    ],
)
def test_what_cannot_be_written_is_refused(photographs, options, message, program):
    with pytest.raises(ValueError, match=message):
        program.caption(photographs, **options)


def test_the_published_network_writes_the_published_words():
    golden = Golden("ffa_captioner.npz")
    method, params, state = golden.network("ffa_captioner", golden.config["heads"])
    network = Exported("published", method, params, state, DataConfig())
    built, out = onnx._torch_network(network), golden["out"]
    for number, images in enumerate(golden["in"]["image"]):
        planes = torch.from_numpy(images)
        with torch.inference_mode():
            patches = built.normalized_images(planes)["patch_features"].numpy()
        for name, beams in (("greedy", 1), ("beam", 3)):
            ids, score = built.captioner.write(patches, [*range(len(planes))], beams, 14, 0.0)
            wanted = out[name][number]
            np.testing.assert_array_equal(ids, wanted[: len(ids)])
            assert not wanted[len(ids) :].any()
        assert score == pytest.approx(out["beam_score"][number, 0], rel=1e-5)


def test_other_words_are_refused():
    expected = {"report_words": np.ones((2, 1, 3), np.int32), "report_scores": np.ones((2, 1))}
    found = {**expected, "report_words": expected["report_words"] + [0, 0, 1]}
    with pytest.raises(UserError, match="writes other reports than this package") as raised:
        exporting._compared(expected, found, get_form("torch"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("form", ["onnx", "stablehlo", "saved_npz", "timm", "transformers"])
def test_other_forms_say_in_one_sentence_which_one_there_is(form, model, tmp_path):
    with pytest.raises(UserError, match=f"there is no {form} export: export it to torch") as raised:
        write_program(model, get_form(form), tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_for_the_hub_says_how_reports_are_written(model, tmp_path):
    write_hub_folder(tmp_path / "out", model.stored)
    assert retfm_jax.load(tmp_path / "out").words == WORDS
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'model.caption(["left.jpg", "right.jpg"])' in card
    assert "encode_images" not in card
    assert "Reports consist of 10 words" in card


def test_a_network_without_words_cannot_leave(model, tmp_path):
    config = from_dict({"method": "ffa_captioner", "model": {"vocabulary": 11}})
    silent = RetinalModel(model.method, model.params, model.state, config)
    with pytest.raises(UserError, match="its weights do not hold"):
        write_program(silent, get_form("torch"), tmp_path / "out")
