"""Generated reports are measured as published, and by what they say of findings."""

import json
import math

import numpy as np
import pytest
from golden_files import golden_path

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics import captions, clinical
from retfm_jax.knowledge.labeler import Labeler

WORDS = ("leakage", "drusen", "disc", ".", "no", "macula")


@pytest.fixture(scope="module")
def golden():
    return json.loads(golden_path("caption_metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def labeler():
    return Labeler()


def sentences(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 12))) for _ in range(count)]


def test_corpus_and_sentences_equal_the_published_scorers(golden):
    pairs = golden["hypotheses"], golden["references"]
    whole, each = captions.measure(*pairs, draws=20).values, captions.by_report(*pairs)
    for name in captions.NAMES:
        published = name.upper()
        assert whole[name].value == pytest.approx(golden["corpus"][published], rel=1e-12)
        np.testing.assert_allclose(each[name], golden["sentences"][published], rtol=1e-12)


def longest_common(first: list[str], second: list[str]) -> int:
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            better = max(table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else better
    return int(table[-1, -1])


def test_rouge_is_the_longest_common_subsequence_of_the_textbook():
    said, written = sentences(40, 0), sentences(40, 1)
    for score, ours, theirs in zip(
        captions.by_report(said, written)["rouge_l"], said, written, strict=True
    ):
        common = longest_common(ours.split(), theirs.split())
        p, r = common / len(ours.split()), common / len(theirs.split())
        expected = 2.44 * p * r / (r + 1.44 * p) if common else 0
        assert score == pytest.approx(expected, rel=1e-12)


def test_the_order_of_the_reports_and_repeated_cases_mean_nothing_to_the_values():
    said, written = sentences(12, 2), sentences(12, 3)
    order = np.random.default_rng(4).permutation(12)
    ours = captions.measure(said, written, draws=10).values
    theirs = captions.measure(
        [said[i] for i in order], [written[i] for i in order], draws=10
    ).values
    for name in captions.NAMES:
        assert ours[name].value == pytest.approx(theirs[name].value, rel=1e-12)


def test_images_of_a_case_are_resampled_together():
    said, written = sentences(30, 5), sentences(30, 6)
    cases = np.repeat(np.arange(30), 4)

    def width(groups):
        found = captions.measure([s for s in said for _ in range(4)],
                                 [w for w in written for _ in range(4)], groups)  # fmt: skip
        return found.values["rouge_l"].high - found.values["rouge_l"].low

    assert width(cases) / width(None) == pytest.approx(2, rel=0.2)


def test_resampled_values_are_those_of_the_resampled_reports(monkeypatch):
    said, written = sentences(6, 7), sentences(6, 8)
    weights = np.array([[2, 0, 1, 1, 0, 2]], np.float32).T
    seen = []

    def once(groups, statistic, draws, seed):
        seen.append(statistic(weights)[0])
        return np.stack(seen)

    monkeypatch.setattr(captions, "bootstrap", once)
    captions.measure(said, written)
    again = np.repeat(np.arange(6), weights[:, 0].astype(int))
    expected = captions.measure([said[i] for i in again], [written[i] for i in again]).values
    for name, value in zip(captions.NAMES[:5], seen[0], strict=False):  # not CIDEr's frequencies
        assert value == pytest.approx(expected[name].value, rel=1e-6)


def test_reports_that_repeat_are_counted():
    found = captions.measure(["a b", "a  b", "c", "d"], ["a b"] * 4, draws=5)
    assert (found.distinct, found.repeated, found.words) == (3, 0.5, (1.5, 2.0))
    assert found.to_json()["share_repeated"] == 0.5
    assert found.loops == 0
    looping = captions.measure(["a b c a b c a", "a b c"], ["a"] * 2, draws=5)
    assert looping.loops == 2 / 6  # abc and bca once more, of five and one


def test_a_long_report_is_measured_in_time():
    long = " ".join(np.random.default_rng(9).choice(WORDS, 5000))
    assert captions.by_report([long, "drusen"], [long, "drusen"])["rouge_l"][0] == 1


@pytest.mark.parametrize("measure", [captions.measure, captions.by_report])
def test_nothing_and_unequal_numbers_are_refused(measure):
    with pytest.raises(UserError, match="no report"):
        measure([], [])
    with pytest.raises(ValueError, match="lengths"):
        measure(["a"], ["a", "b"])


AGREE = [
    ("Drusen in the macula. No hemorrhage.", "Drusen. No hemorrhage."),
    ("黄斑水肿，未见出血。", "黄斑水肿。"),
    ("Macular edema of the right eye.", "Macular edema in the right eye, drusen in the left eye."),
]


def test_findings_are_named_missed_and_invented_in_both_languages(labeler):
    references = ["Drusen in the macula. Macular edema. No hemorrhage.", "右眼黄斑水肿，未见出血。"]
    generated = ["Drusen, retinal hemorrhage.", "右眼黄斑水肿，玻璃膜疣。"]
    found = clinical.measure(generated, references, labeler, draws=50)
    of = found.conditions
    assert {n: of["drusen"][n] for n in ("named", "missed", "invented")} == {
        "named": 1,
        "missed": 0,
        "invented": 1,
    }
    assert (of["macular_oedema"]["named"], of["macular_oedema"]["missed"]) == (1, 1)
    assert of["retinal_haemorrhage"]["invented"] == 1
    named = sum(row["named"] for row in of.values())
    missed = sum(row["missed"] for row in of.values())
    invented = sum(row["invented"] for row in of.values())
    assert found.values["precision"].value == pytest.approx(named / (named + invented))
    assert found.values["recall"].value == pytest.approx(named / (named + missed))
    assert found.values["f1"].value == pytest.approx(2 * named / (2 * named + missed + invented))
    assert found.values["contradictions"].value == 0.5  # the hemorrhage that the first denies
    assert found.eyes["recall"].value == 1


def test_a_report_agrees_with_itself_and_an_empty_one_with_nothing(labeler):
    written = [text for pair in AGREE for text in pair]
    same = clinical.measure(written, written, labeler, draws=20)
    assert {same.values[name].value for name in ("precision", "recall", "f1", "macro_f1")} == {1}
    assert same.values["contradictions"].value == 0
    nothing = clinical.measure([""] * len(written), written, labeler, draws=20)
    assert nothing.values["recall"].value == nothing.values["macro_f1"].value == 0
    assert math.isnan(nothing.values["precision"].value)
    assert nothing.to_json()["precision"]["value"] is None


def test_the_wrong_eye_is_right_of_the_patient_and_wrong_of_the_eyes(labeler):
    found = clinical.measure(
        ["Drusen of the left eye."], ["Drusen of the right eye."], labeler, draws=5
    )
    assert found.values["f1"].value == 1
    assert found.eyes["f1"].value == 0


def test_what_a_reference_only_suspects_counts_neither_way(labeler):
    suspected = labeler.label("Suspected choroidal neovascularization.").statuses["patient"]
    affirmed = labeler.label("Choroidal neovascularization.").statuses["patient"]
    assert clinical.agreement(affirmed, suspected) == ((), (), (), ())
    assert clinical.agreement({}, suspected) == ((), (), (), ())
    assert clinical.agreement(suspected, affirmed).missed == ()


def test_a_reference_that_says_nothing_is_counted(labeler):
    found = clinical.measure(["Drusen."], ["fundus image 3"], labeler, draws=5)
    assert (found.silent, found.conditions["drusen"]["invented"]) == (1, 1)
    assert found.eyes == {}


def shown(text, marks):
    return [(text[mark.start : mark.end].lower(), mark.kind, mark.condition) for mark in marks]


def test_words_of_both_reports_are_marked_by_how_they_agree(labeler):
    reference = "Drusen of the right eye, macular edema. No hemorrhage. Suspected glaucoma."
    generated = "Drusen of the left eye, retinal hemorrhage. Cataract. No macular edema."
    found = clinical.marked(labeler.label(generated), labeler.label(reference))
    assert shown(reference, found.reference) == [
        ("drusen", "other_eye", "drusen"),
        ("macular edema", "contradicted", "macular_oedema"),
        ("hemorrhage", "contradicted", "retinal_haemorrhage"),
    ]
    assert shown(generated, found.generated) == [
        ("drusen", "other_eye", "drusen"),
        ("retinal hemorrhage", "contradicted", "retinal_haemorrhage"),
        ("cataract", "invented", "cataract"),
        ("macular edema", "contradicted", "macular_oedema"),
    ]
    alike = labeler.label(reference)
    same = clinical.marked(alike, alike)
    assert {mark.kind for mark in same.reference} == {"named"}
    assert same.generated == same.reference
    silent = clinical.marked(labeler.label(""), alike)
    assert {mark.kind for mark in silent.reference} == {"missed"}
    assert silent.generated == ()


def test_a_sentence_that_another_one_overrules_is_not_marked(labeler):
    text = "右眼未见出血，左眼视网膜出血。"
    labels = labeler.label(text)
    found = clinical.marked(labels, labels)
    assert [text[mark.start] for mark in found.generated] == [text[text.rindex("视网膜")]]


def test_two_writers_are_compared_on_the_same_cases(labeler):
    references = ["Drusen.", "Macular edema.", "Cataract.", "Drusen. Cataract."] * 5
    same = clinical.f1_difference(references, references, references, labeler, draws=20)
    assert (same.value, same.has_interval) == (0, False)
    worse = ["Drusen."] * 20
    found = clinical.f1_difference(references, worse, references, labeler, draws=50)
    of_worse = clinical.measure(worse, references, labeler, draws=50).values["f1"]
    assert found.value == pytest.approx(1 - of_worse.value)
    assert found.low == pytest.approx(1 - of_worse.high)
    assert found.high == pytest.approx(1 - of_worse.low)


def test_the_findings_of_each_report_make_its_f1(labeler):
    references = ["Drusen. Macular edema.", "Drusen.", "photograph 3"]
    generated = ["Drusen.", "Cataract.", "photograph 4"]
    found = clinical.by_report(generated, references, labeler)
    for row in range(2):
        alone = clinical.measure(
            generated[row : row + 1], references[row : row + 1], labeler, draws=1
        )
        assert found[row] == pytest.approx(alone.values["f1"].value)
    assert math.isnan(found[2])
