"""The labeler: what reports say, and what must hold of any report."""

import pickle
from pathlib import Path

import pytest
import yaml

from retfm_jax.data_builders.synthetic_fundus.population import LABELS, POPULATIONS, draw_patient
from retfm_jax.data_builders.synthetic_fundus.reports import write_reports
from retfm_jax.knowledge.labeler import Labeler
from retfm_jax.knowledge.labels import label_reports
from retfm_jax.knowledge.signs import DASHES
from retfm_jax.knowledge.vocabulary import load_vocabulary

SIDES = {"left": "L:", "right": "R:", "both": "B:", None: ""}
MARKS = {"present": "", "absent": "-", "uncertain": "?"}
SENTENCES = {
    language: [
        (group, *line.rsplit(" => ", 1))
        for group, block in yaml.safe_load(
            Path(__file__).with_name(f"reports_{language}.yaml").read_text(encoding="utf-8")
        ).items()
        for line in block.splitlines()
    ]
    for language in ("en", "zh")
}
ALL = [sentence for _, sentence, _ in SENTENCES["en"] + SENTENCES["zh"]]


def said(labels):
    found = {SIDES[e.side] + MARKS[e.status] + e.condition for e in labels.evidence}
    return found or {"none"}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences(labeler, language):
    assert len(SENTENCES[language]) >= 200
    wrong = [
        f"[{group}] {text}: {' '.join(sorted(said(labeler.label(text))))}, not {expected}"
        for group, text, expected in SENTENCES[language]
        if said(labeler.label(text)) != set(expected.split())
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dash", DASHES)
@pytest.mark.parametrize(
    "form",
    [
        "{}({})",
        "{} ({})",
        "{}（{}）",
        "{}（ {} ）",
        "{}[{}]",
        "{}【{}】",
        "{}: {}",
        "{}：{}",
        "{} {}",
        "{}{}",
    ],
)
def test_every_minus_in_every_bracket_is_absence(labeler, dash, form):
    """Input methods offer a dozen characters for a minus, and two widths of brackets."""
    for term, condition in (("drusen", "drusen"), ("出血", "retinal_haemorrhage")):
        for end in ("", ".", "。", ", cataract (+)", "，白内障（＋）"):
            labels = labeler.label(f"OD: {form.format(term, dash)}{end}")
            assert labels.absent == (condition,), labels
            assert labels.right == (("cataract",) if "c" in end or "白" in end else ())


@pytest.mark.parametrize("dash", DASHES)
def test_a_dash_between_words_denies_nothing(labeler, dash):
    for text in (
        f"drusen {dash} moderate",
        f"{dash} drusen",
        f"OD {dash} drusen",
        f"出血 {dash} 右眼",
    ):
        assert labeler.label(text).patient, text


def test_what_is_denied_or_not_the_patient_s_is_no_label_of_the_loss(labeler):
    """A condition of the array is one that the report affirms or suspects."""
    ids = labeler.vocabulary.ids
    for sentence, expected in [(text, said) for _, text, said in SENTENCES["en"] + SENTENCES["zh"]]:
        row = label_reports([sentence], labeler=labeler)[0]
        affirmed = {word[word.find(":") + 1 :].lstrip("?") for word in expected.split()}
        affirmed = {c for c in affirmed if c in labeler.vocabulary}
        implied = {a for c in affirmed for a in labeler.vocabulary.ancestors(c)}
        suspects = {"glaucoma_suspect", "glaucoma"}
        found = {ids[column] for column in row.nonzero()[0]}
        assert found - affirmed - implied <= suspects, sentence


def test_every_term_says_its_condition(labeler):
    for condition in labeler.vocabulary:
        if condition.absence_of:
            continue
        for term in (*condition.terms(), *condition.abbreviations):
            for written in (term, term.upper()):
                evidence = labeler.label(written + ".").evidence
                assert [(e.condition, e.status) for e in evidence] == [(condition.id, "present")], (
                    written
                )


def test_evidence_is_a_span_of_the_original(labeler):
    for sentence in ALL:
        report = f"  {sentence}\n{sentence}"
        for item in labeler.label(report).evidence:
            assert report[item.start : item.end] == item.text
            assert item.text.strip() == item.text != ""


def test_ancestors_are_implied_with_the_status_of_the_child(labeler):
    labels = labeler.label("Moderate NPDR OD. Possible CNV, possible wet AMD OS.")
    assert {"moderate_npdr", "npdr", "diabetic_retinopathy"} <= set(labels.right)
    assert {"wet_amd", "amd", "maculopathy"} <= set(labels.left)
    assert {"wet_amd", "amd", "maculopathy"} <= set(labels.uncertain)
    assert "diabetic_retinopathy" not in labels.uncertain
    for sentence in ALL:
        found = labeler.label(sentence).patient
        for condition in found:
            assert set(labeler.vocabulary.ancestors(condition)) <= set(found)


def test_denying_a_grade_denies_no_parent(labeler):
    labels = labeler.label("No PDR. Mild NPDR.")
    assert labels.absent == ("pdr",)
    assert "diabetic_retinopathy" in labels.patient


def test_the_patient_has_what_an_eye_has(labeler):
    for sentence in ALL:
        labels = labeler.label(sentence)
        assert (set(labels.left) | set(labels.right)) - {"normal"} <= set(labels.patient)
        assert set(labels.uncertain) <= set(labels.patient)
        assert not set(labels.absent) & set(labels.patient)


def test_normal_stands_alone_and_only_when_stated(labeler):
    vocabulary = labeler.vocabulary
    for sentence in ALL:
        found = labeler.label(sentence).patient
        if "normal" in found:
            assert all(vocabulary[c].kind == "state" for c in found)
    assert labeler.label("No diabetic retinopathy.").patient == ()
    assert labeler.label("").patient == ()
    labels = labeler.label("Left eye: normal. Right eye: drusen.")
    assert labels.left == ("normal",)
    assert labels.patient == labels.right == ("drusen",)


def test_seen_here_and_denied_there_is_present(labeler):
    labels = labeler.label("No haemorrhage near the fovea. Haemorrhages in the periphery.")
    assert labels.patient == ("retinal_haemorrhage",)
    assert labels.absent == ()


def test_certain_wins_over_suspected(labeler):
    labels = labeler.label("Suspected macular hole. Macular hole in the left eye.")
    assert "macular_hole" not in labels.uncertain
    assert "macular_hole" in labels.left


def test_a_suspected_disease_makes_a_suspect(labeler):
    for report in ("Suspected glaucoma.", "Glaucoma suspect.", "可疑青光眼。", "青光眼？"):
        labels = labeler.label(report)
        assert set(labels.patient) == {"glaucoma", "glaucoma_suspect"}
        assert labels.uncertain == ("glaucoma",)


def test_texts_of_the_eyes_equal_headings(labeler):
    left, right = "Drusen, no haemorrhage", "黄斑裂孔，可疑白内障"
    apart = labeler.label_sides(left, right)
    joined = labeler.label(f"Left eye: {left}. Right eye: {right}.")
    assert apart.statuses == joined.statuses
    assert {e.source for e in apart.evidence} == {"left", "right"}
    for item in apart.evidence:
        assert {"left": left, "right": right}[item.source][item.start : item.end] == item.text


def test_a_missing_eye_is_unknown(labeler):
    labels = labeler.label_sides(left="normal fundus")
    assert (labels.left, labels.right, labels.patient) == (("normal",), (), ("normal",))


def test_the_order_of_unrelated_sentences_changes_nothing(labeler):
    one, two = "Drusen in the left eye.", "Macular hole in the right eye."
    assert labeler.label(f"{one} {two}").statuses == labeler.label(f"{two} {one}").statuses


def test_wrapped_lines_are_one_sentence(labeler):
    labels = labeler.label("No microaneurysms, hard\nexudates or\n  haemorrhages.\nDrusen.")
    assert labels.patient == ("drusen",)
    assert set(labels.absent) == {"microaneurysms", "hard_exudates", "retinal_haemorrhage"}


def test_repeating_and_copying_change_nothing(labeler):
    copy = pickle.loads(pickle.dumps(labeler))
    for sentence in ALL[::7]:
        first = labeler.label(sentence)
        assert labeler.label(sentence) == first
        assert copy.label(sentence) == first


def test_conditions_of_an_extension_are_labeled(tmp_path):
    path = tmp_path / "more.yaml"
    path.write_text(
        "- id: roth_spots\n  name: {en: Roth spots, zh: Roth斑}\n  parent: retinal_haemorrhage\n",
        encoding="utf-8",
    )
    labels = Labeler(load_vocabulary(extend=path)).label("OD: Roth spots. OS: 未见Roth斑。")
    assert set(labels.right) == {"roth_spots", "retinal_haemorrhage"}
    assert labels.absent == ()
    assert labels.statuses["left"] == {"roth_spots": "absent"}


def test_a_small_vocabulary_of_ones_own_is_enough(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("- id: blue_dot\n  name: {en: blue dot}\n", encoding="utf-8")
    labels = Labeler(load_vocabulary(path)).label("Normal fundus, C/D 0.8, two blue dots, drusen.")
    assert labels.patient == ("blue_dot",)


def test_synthetic_reports_are_read_as_they_were_meant(labeler):
    """The writer of the synthetic reports and this reader know nothing of each other."""
    right = wrong = 0
    for number in range(150):
        patient = draw_patient(POPULATIONS["clinic"], 11, "train", number)
        for report in write_reports(patient).whole.values():
            labels = labeler.label(report)
            for eye in patient.eyes:
                truth, found = set(eye.labels), set(getattr(labels, eye.side)) & set(LABELS)
                right += len(truth & found)
                wrong += len(truth ^ found)
    assert wrong < 0.01 * right, f"{wrong} labels wrong, {right} right"
