"""The protocol segment: masks of a split against what is drawn, with a page that shows both."""

import json
import re

import mask_photographs as scenes
import numpy as np
import pytest

from retfm_jax.cli.evaluate import tables
from retfm_jax.errors import UserError
from retfm_jax.evaluation.evaluate import evaluate, measure
from retfm_jax.evaluation.options import Options
from retfm_jax.evaluation.protocols import default_protocol
from retfm_jax.mask_decisions import MaskDecisions
from retfm_jax.model import RetinalModel

FAST = Options(draws=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return scenes.write_mask_folder(tmp_path_factory.mktemp("photographs"), 5)


def fitted(model, thresholds=(51 / 255, 0.5, 204 / 255)):
    decisions = MaskDecisions(model.structures, thresholds, {"images": 9})
    return RetinalModel(model.method, {}, model.state, model.config, mask_decisions=decisions)


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "e.json"
    evaluate(
        fitted(scenes.reader()), protocols=["segment"], dataset=str(folder), data_dir="",
        split="all", out=out, options=FAST,
    )  # fmt: skip
    return out


def test_the_numbers_are_those_of_the_masks(folder, found):
    document = json.loads(found.read_text())
    numbers = document["segment"]
    assert numbers["images"] == document["data"]["records"] == 5
    assert document["data"]["split"] == "all"
    assert numbers["thresholds"] == {"disc": 51 / 255, "vessels": 0.5, "cup": 204 / 255}
    hits = pixels = 0
    for seed in range(5):
        _, drawn = scenes.scene(60, 80, seed)
        inside = drawn["field"] > 0
        truth, moved = drawn["disc"][inside], np.roll(drawn["disc"], seed, axis=1)[inside]
        hits += 2 * int((truth & moved).sum())
        pixels += int(truth.sum() + moved.sum())
    row = numbers["classes"]["disc"]
    assert (
        row["dice"]["value"] == row["best_dice"]["value"] == pytest.approx(hits / pixels, abs=1e-6)
    )
    assert row["threshold"] == 51 / 255
    assert 0.5 < numbers["macro"]["best_dice"]["value"] < 1
    assert 0 < numbers["classes"]["vessels"]["centerline_dice"]["value"] < 1
    assert numbers["vertical_cup_disc_ratio"]["images"] == 5
    assert numbers["vertical_cup_disc_ratio"]["mean_absolute_error"]["value"] < 0.05
    assert numbers["decisions"]["fitted_on"] == {"images": 9}


def test_the_page_shows_the_worst_the_median_and_the_best(found):
    page = found.with_suffix(".html").read_text()
    assert found.with_suffix(".png").stat().st_size > 10_000
    for structure in scenes.STRUCTURES:
        assert f"<h3><bdi>{structure}</bdi></h3>" in page
    standings = re.findall(r"<figcaption>(\w+), Dice ([\d.]+)", page)
    assert [standing for standing, _ in standings] == ["worst", "median", "best"] * 3
    dices = [float(dice) for _, dice in standings]
    assert dices[2::3] == [1.0] * 3, "the first photograph's colors are where its masks are"
    assert all(low <= high for low, high in zip(dices[:-1:3], dices[1::3], strict=False))
    assert page.count("data:image/jpeg") == 27
    assert "thresholds that were chosen" in page


def test_the_console_has_a_row_for_each_structure(folder):
    results = measure(
        scenes.reader(("disc", "cup"), "exclusive"), protocols=["segment"], dataset=str(folder),
        data_dir="", split="all", options=FAST,
    )  # fmt: skip
    shown = [str(table) for table in tables(results)]
    assert len(shown) == 2
    assert [line.split()[0] for line in shown[0].splitlines()[-3:]] == ["disc", "cup", "mean"]
    assert "0.500" in shown[0]
    assert "absolute error" in shown[1]
    said = " ".join(results.document["data"]["notes"])
    assert "exclude each other" in said
    assert "no thresholds were chosen" in said
    numbers = results.document["segment"]
    assert "best_dice" not in numbers["classes"]["disc"]
    ratio = numbers["vertical_cup_disc_ratio"]
    assert ratio["mean_absolute_error"]["value"] == ratio["bias"] == 0, "a disc holds its cup"


@pytest.mark.parametrize(
    ("protocols", "split", "options", "message"),
    [
        (["segment", "linear_probe"], "all", {}, "linear_probe compares with classes or texts"),
        (["segment"], "all", {"languages": ("en",)}, "languages is an option of tasks on classes"),
        (["segment"], "all", {"mistakes": 3}, "mistakes is an option"),
        (["segment"], "al", {}, "no split 'al'"),
        (["zero_shot"], "test", {}, "ask for segment, linear_probe"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(folder, protocols, split, options, message):
    with pytest.raises(UserError, match=message) as caught:
        measure(
            scenes.reader(), protocols=protocols, dataset=str(folder), data_dir="", split=split,
            options=Options(draws=2, **options),
        )  # fmt: skip
    assert "\n" not in str(caught.value)


def test_thresholds_between_those_that_are_counted_are_refused(folder):
    with pytest.raises(UserError, match=r"take 0\.3686274509803922"):
        measure(
            fitted(scenes.reader(), (0.37, 0.5, 0.5)), protocols=["segment"], dataset=str(folder),
            data_dir="", split="all", options=FAST,
        )  # fmt: skip


def test_a_network_without_a_decoder_is_told_how_to_get_one(folder):
    model = scenes.reader(())
    with pytest.raises(UserError, match=r"retfm train, config segment, with config\.init\.image"):
        measure(model, protocols=["segment"], dataset=str(folder), data_dir="", split="all")


def test_a_network_that_finds_structures_is_asked_for_them():
    assert default_protocol((), ("disc",)) == "segment"
