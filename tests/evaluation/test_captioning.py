"""The protocol captioning: reports that are written of a split, and a page that compares them."""

import json

import case_photographs as scenes
import numpy as np
import pytest

from retfm_jax.cli.evaluate import tables
from retfm_jax.errors import UserError
from retfm_jax.evaluation.evaluate import evaluate, measure
from retfm_jax.evaluation.options import CaptionConfig, Options
from retfm_jax.evaluation.protocols import default_protocol
from retfm_jax.evaluation.protocols.captioning import _standing
from retfm_jax.interop import model_card

FAST = Options(draws=20)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Nine cases for testing: four as they look, three otherwise, one broken, one in Chinese."""
    root = tmp_path_factory.mktemp("datasets")
    right = [scenes.example(n, "rgb"[n % 3], scenes.WRITTEN[n % 3]) for n in range(3)]
    scenes.write_cases(
        root,
        [
            *right,
            scenes.example(3, "rx", "Macular edema."),
            scenes.example(4, "r", "No macular edema. Drusen <script>alert(1)</script>."),
            scenes.example(5, "g", "Drusen. Extraordinary."),
            scenes.example(6, "bb", "drusen " * 20),
            scenes.example(7, "xx", "Drusen."),
            scenes.example(8, "r", {"zh": "黄斑水肿，玻璃膜疣。"}),
        ],
    )
    return root


@pytest.fixture(scope="module")
def found(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "e.json"
    evaluate(
        scenes.writer(root), protocols=["captioning"], dataset="cases", data_dir=str(root),
        split="test", out=out, options=FAST,
    )  # fmt: skip
    return out


def test_the_numbers_are_those_of_the_reports(found):
    document = json.loads(found.read_text())
    numbers = document["captioning"]
    assert document["data"]["records"] == 9
    assert document["data"]["intervals_by"] == "patient"
    assert numbers["words"]["reports"] == 8
    assert numbers["cases_left_out"] == numbers["photographs_left_out"] == 1
    assert numbers["references_cut"] == 1
    assert numbers["mean_log_probability"] == pytest.approx(-(4 * 1 + 2 * 2 + 2 * 3) / 8)
    of = numbers["findings"]["conditions"]
    counts = {name: [of[name][each] for each in ("named", "missed", "invented")] for name in of}
    assert counts["drusen"] == [2, 3, 0]
    assert counts["macular_oedema"] == [3, 0, 1]
    assert counts["retinal_haemorrhage"] == [1, 0, 1]
    assert numbers["findings"]["contradictions"]["value"] == pytest.approx(1 / 8)
    assert numbers["vocabulary"]["written"] == 8
    assert "<unk>" in numbers["vocabulary"]["most_frequent_never_written"]
    said = " ".join(document["data"]["notes"])
    assert "1 cases have no photograph that can be used and are left out: c7/0" in said
    assert "1 of 8 references are in another language" in said
    assert "of 1 cases some photographs cannot be used" in said


def test_whole_references_are_harder_than_those_that_are_cut(found):
    numbers = json.loads(found.read_text())["captioning"]
    spelled, whole = numbers["words"], numbers["words_of_whole_references"]
    assert whole["mean_words_of_references"] > spelled["mean_words_of_references"]
    assert whole["bleu_1"]["value"] < spelled["bleu_1"]["value"]
    assert whole["mean_words"] == spelled["mean_words"]


def test_training_reports_are_what_the_network_is_compared_with(found):
    baselines = json.loads(found.read_text())["captioning"]["baselines"]
    constant, nearest = baselines["constant"], baselines["nearest"]
    assert (constant["report"], constant["stands_there"]) == ("Normal eye.", 3)
    assert constant["words"]["distinct_reports"] == 1
    assert (constant["training_cases"], constant["of"]) == (5, 5)
    assert nearest["words"]["distinct_reports"] == 3
    network = json.loads(found.read_text())["captioning"]["findings"]
    assert nearest["findings"]["f1"] == network["f1"], "both see the color"
    ahead = network["f1"]["value"] - constant["findings"]["f1"]["value"]
    higher = constant["f1_of_the_network_is_higher_by"]
    assert higher["value"] == pytest.approx(ahead, abs=2e-6)
    assert higher["low"] < ahead < higher["high"]
    assert nearest["f1_of_the_network_is_higher_by"]["value"] == 0


def test_a_card_has_the_numbers_of_the_network_and_of_what_it_is_compared_with(found):
    card = "\n".join(model_card._evaluation(json.loads(found.read_text())))
    for where in ("captioning", "captioning, baselines, nearest"):
        assert f"| {where}, findings | f1 |" in card
    assert "drusen" not in card


def test_every_case_is_written_beside_the_numbers(found):
    rows = [json.loads(line) for line in found.with_name("e_reports.jsonl").open()]
    assert [row["case"] for row in rows] == [f"c{n}/0" for n in (0, 1, 2, 3, 4, 5, 6, 8)]
    assert rows[1]["report"] == "drusen. retinal hemorrhage."
    assert rows[1]["f1"] == rows[1]["rouge_l"] == 1
    assert rows[4]["contradicted"] == ["macular_oedema"]
    assert (rows[4]["missed"], rows[4]["invented"][0]) == (["drusen"], "macular_oedema")


def test_the_page_marks_both_texts_and_runs_nothing(found):
    page = found.with_suffix(".html").read_text()
    assert "<script" not in page
    assert "Drusen</mark> &lt;script&gt;alert(1)&lt;/script&gt;" in page.replace(
        ">drusen", ">Drusen"
    )
    for standing in ("worst", "median", "best"):
        assert f"<h3>{standing}</h3>" in page
    assert (
        '<mark class="contradicted" title="macular edema: one names it, the other denies it">'
        in (page.replace("oedema", "edema"))
    )
    assert page.count("data:image/jpeg") >= 6
    assert "ROUGE-L" in page
    assert "METEOR" not in page


def test_the_console_has_a_row_for_each_writer(root):
    results = measure(
        scenes.writer(root), protocols=["captioning"], dataset="cases", data_dir=str(root),
        split="test", options=FAST,
    )  # fmt: skip
    (shown,) = tables(results)
    assert "the network" in str(shown)
    assert "nearest training case" in str(shown)


def test_without_training_reports_the_output_says_so(root, tmp_path):
    model = scenes.writer(tmp_path)
    common = {"protocols": ["captioning"], "data_dir": str(root), "options": FAST}
    itself = measure(model, dataset="cases", split="train", **common).document
    assert itself["captioning"]["baselines"] == {}
    assert "the training split itself" in itself["captioning"]["baselines_left_out"]
    options = Options(draws=2, caption=CaptionConfig(training_cases=0))
    none = measure(model, dataset="cases", split="test", **common | {"options": options}).document
    assert none["captioning"]["baselines_left_out"] == "nobody asked for them"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocols": ["captioning", "linear_probe"]}, "linear_probe compares with classes or"),
        ({"protocols": ["zero_shot"]}, "ask for captioning, linear_probe"),
        ({"options": Options(draws=2, languages=("en",))}, "languages is an option of tasks on"),
        ({"options": Options(draws=2, on_error="refuse")}, "1 images cannot be used: c7/0"),
        ({"split": "all"}, "such as train.validation.test"),
        ({"split": "tset"}, "no split 'tset'"),
        ({"dataset": "nothing"}, "nothing"),
        (
            {"options": Options(draws=2, caption=CaptionConfig(meteor="nothing.jar"))},
            "nothing.jar: no such file",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(root, change, message):
    asked = {
        "protocols": ["captioning"], "dataset": "cases", "data_dir": str(root), "split": "test",
        "options": FAST, **change,
    }  # fmt: skip
    with pytest.raises(UserError, match=message) as caught:
        measure(scenes.writer(root), **asked)
    assert "\n" not in str(caught.value)


def test_a_network_without_words_is_told_how_to_get_them(root):
    model = scenes.writer(root, words=("<unk>",))
    with pytest.raises(UserError, match="words"):
        measure(model, protocols=["captioning"], dataset="cases", data_dir=str(root), split="test")


def test_a_network_that_writes_is_asked_for_reports():
    assert default_protocol((), (), True) == "captioning"


@pytest.mark.parametrize("count", range(1, 12))
def test_no_case_stands_twice_on_the_page(count):
    shown = _standing([*np.random.default_rng(count).permutation(count)])
    assert (
        len({index for index, _ in shown})
        == len(shown)
        == min(count, 3 * (min(3, count // 3) or 1))
    )
