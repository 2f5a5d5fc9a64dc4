"""What is missing or out of range is said in one message, before anything is embedded."""

import dataclasses
import re

import numpy as np
import pytest
from colour_world import CLASSES, ColourModel, image, patient

from retfm_jax.errors import UserError
from retfm_jax.evaluation import evaluate as evaluation
from retfm_jax.evaluation.evaluate import Options, evaluate, quick_metrics
from retfm_jax.evaluation.protocols import protocol_names
from retfm_jax.evaluation.protocols.few_shot import Shots, parse_shots
from retfm_jax.evaluation.protocols.fine_tune import FineTuneConfig
from retfm_jax.evaluation.report_labels import label_by_reports, with_labels
from retfm_jax.knowledge.labels import shared_labeler


class Records(list):
    """A source as a built dataset gives it."""

    name, split, label_names, ordered = "clinic", "test", CLASSES, False

    def __init__(self, records, kind="patient", label_names=CLASSES):
        super().__init__(records)
        self.kind, self.label_names = kind, label_names
        self.identity = {"name": self.name}


class Blind(ColourModel):
    """A model that must not be asked for anything."""

    def encode_images(self, *images):
        raise AssertionError("embedded before the requirements were looked at")

    encode_texts = encode_patients = encode_patient_texts = image_features = encode_images


def run(tmp_path, monkeypatch, model, source=None, train=None, protocols=("zero_shot",), **options):
    if source is None:
        source = Records(patient(n, CLASSES[n % 4], CLASSES[n % 4]) for n in range(8))
    if train is None:
        train = Records(patient(100 + n, CLASSES[n % 4], CLASSES[n % 4]) for n in range(8))
    opened = {"test": source, "train": train}
    monkeypatch.setattr(evaluation, "open_task", lambda name, split, *_: opened[split])
    return evaluate(
        model,
        protocols=protocols,
        dataset="clinic",
        data_dir="",
        split="test",
        out=tmp_path / "o.json",
        options=Options(**{"languages": ("en",), "draws": 10} | options),
    )


TUNING = FineTuneConfig()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ("fr",)}, "language fr: give one of en, zh"),
        ({"languages": ("en", "en")}, "one occurs twice"),
        ({"prompts": "reports"}, "did you mean 'report'"),
        ({"draws": -1}, "draws -1: give a whole number from 1 to"),
        ({"draws": 0}, "draws 0"),
        ({"draws": 10**12}, "draws 1000000000000"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**70}, "seed 1180591620717411303424"),
        ({"folds": 0}, "folds 0"),
        ({"fit_augmentations": -2}, "fit_augmentations -2"),
        ({"test_augmentations": -2}, "test_augmentations -2"),
        ({"fine_tune": dataclasses.replace(TUNING, epochs=0)}, "epochs 0"),
        ({"fine_tune": dataclasses.replace(TUNING, batch_size=0)}, "batch_size 0"),
        (
            {"fine_tune": dataclasses.replace(TUNING, head_learning_rate=float("nan"))},
            "head_learning_rate nan: give a number from 0 to 1000",
        ),
        (
            {"fine_tune": dataclasses.replace(TUNING, backbone_learning_rate=-1.0)},
            "backbone_learning_rate -1.0",
        ),
        ({"fine_tune": dataclasses.replace(TUNING, layer_decay=1.5)}, "layer_decay 1.5"),
        ({"fine_tune": dataclasses.replace(TUNING, drop_path=1.0)}, "drop_path 1.0"),
        ({"protocols": ()}, "no protocol is named"),
        ({"protocols": ("zero_shot", "zero_shot")}, "a protocol occurs twice"),
        ({"protocols": ("linear_probe",), "shots": (Shots(per_class=9),)}, "too few patients"),
    ],
)
def test_options_out_of_range_are_refused_before_any_work(tmp_path, monkeypatch, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        run(tmp_path, monkeypatch, Blind(patients=True), **options)
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "1,,5", "101%", "0%", "1.5", "5,5", "nan"])
def test_shots_that_make_no_sense_are_refused(text):
    with pytest.raises(UserError, match="shots"):
        parse_shots(text)


@pytest.mark.parametrize("out", ["folder.json", "file/o.json", "o.txt"])
def test_where_nothing_can_be_written_nothing_is_begun(tmp_path, out):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"o\.json|folder\.json|JSON"):
        evaluate(
            Blind(),
            protocols=("zero_shot",),
            dataset="nothing",
            data_dir="",
            split="test",
            out=tmp_path / out,
        )


def unlabeled(record, report=""):
    unknown = np.full(len(CLASSES), -1, np.int8)
    fields = {"labels": unknown}
    fields |= {"report": {"en": report, "zh": ""}, "left_labels": unknown, "right_labels": unknown}
    return dataclasses.replace(record, **fields)


def silent(count=4):
    return Records(unlabeled(patient(n, "drusen", "normal")) for n in range(count))


OTHER = Records((patient(n, "drusen", "normal") for n in range(4)), label_names=tuple("abcd"))
ONE = Records(patient(n, "drusen", "drusen") for n in range(4))


@pytest.mark.parametrize(
    "protocol", [p for p in protocol_names() if p not in ("segment", "captioning")]
)
@pytest.mark.parametrize("what", ["no record", "nothing said", "nothing to learn from"])
def test_every_protocol_says_what_it_lacks(tmp_path, monkeypatch, protocol, what):
    if what == "nothing to learn from":
        if protocol in ("zero_shot", "classify", "retrieval"):
            return
        arguments = {"train": silent(), "source": ONE}
    else:
        arguments = {"source": Records([]) if what == "no record" else silent()}
    with pytest.raises(UserError) as error:
        run(tmp_path, monkeypatch, Blind(patients=True), protocols=(protocol,), **arguments)
    assert "clinic" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": OTHER}, "no label of the dataset is known"),
        (
            {"protocols": ("retrieval",), "source": Records([patient(0, "drusen", None)])},
            "the split has 1 in en: at least two records of clinic, split test, must have",
        ),
        (
            {"protocols": ("zero_shot", "retrieval"), "languages": ("zh",)},
            "retrieval needs reports in zh; the split has none",
        ),
        ({"protocols": ("clip_adapter",), "source": ONE, "train": ONE}, "has 0 labeled images"),
        (
            {
                "protocols": ("linear_probe",),
                "source": ONE,
                "train": Records(patient(50 + n, "drusen", "drusen") for n in range(4)),
            },
            r"the 8 images to learn from \(all data\) are all of class 'drusen'",
        ),
        ({"protocols": ("tip_adapter",), "train": OTHER}, "have other classes"),
    ],
)
def test_data_that_cannot_serve_is_refused_before_any_work(
    tmp_path, monkeypatch, arguments, message
):
    with pytest.raises(UserError, match=message):
        run(tmp_path, monkeypatch, Blind(patients=True), **arguments)


REPORTS = {
    "drusen": "Left eye: drusen. Right eye: drusen.",
    "normal": "Left eye: normal fundus. Right eye: normal fundus.",
    "cataract": "Both eyes: cataract, no drusen.",
}


def reported(first, count):
    names = list(REPORTS)
    return Records(
        unlabeled(patient(first + n, names[n % 3], names[n % 3]), REPORTS[names[n % 3]])
        for n in range(count)
    )


def test_labels_come_from_the_reports_where_there_are_none(tmp_path, monkeypatch, capsys):
    document = run(
        tmp_path,
        monkeypatch,
        ColourModel(patients=True),
        reported(0, 9),
        reported(100, 9),
        ("zero_shot", "linear_probe"),
    )
    assert "labels are read from the reports by the labeler" in capsys.readouterr().out
    assert document["data"]["labels_from"] == "the reports, read by the labeler"
    assert "Labels are of the reports, read by the labeler." in (tmp_path / "o.html").read_text()
    levels = document["zero_shot"]["en"]["levels"]
    assert levels["patient"]["counts"]["positives"] == {"normal": 3, "drusen": 3, "cataract": 3}
    assert levels["eye"]["overall"]["aca"]["value"] == 1.0
    assert document["linear_probe"]["all data"]["folds"][0]["overall"]["aca"]["value"] == 1.0


def test_labels_of_the_dataset_win_over_its_reports(tmp_path, monkeypatch, capsys):
    document = run(tmp_path, monkeypatch, ColourModel(patients=True))
    assert document["data"]["labels_from"] == "the dataset"
    assert "labeler" not in capsys.readouterr().out


def test_a_run_measures_itself_by_its_reports_where_nothing_else_has_labels():
    own = Records([patient(0, CLASSES[0], CLASSES[1])])
    none = Records([unlabeled(own[0], "")])
    assert with_labels(own, shared_labeler()) is own
    assert with_labels(none, shared_labeler()) is none
    model = ColourModel(patients=True)
    source = with_labels(reported(0, 9), shared_labeler())
    assert quick_metrics(model, source, model.config.evaluation)["zero_shot/en/eye/aca"] == 1.0


def test_reports_leave_unknown_what_they_do_not_settle():
    texts = (
        "Left eye: drusen. Right eye: no drusen, cataract.",
        "Drusen.",  # of no side
        "Left eye: possible drusen.",
        "",
    )
    records = [unlabeled(patient(n, "drusen", "drusen"), text) for n, text in enumerate(texts)]
    (found,) = label_by_reports([Records(records)], shared_labeler())
    column = found.label_names.index("drusen")
    assert set(found.label_names) >= {"drusen", "cataract"}
    said = [
        [getattr(found[n], f"{view}labels")[column] for view in ("", "left_", "right_")]
        for n in range(4)
    ]
    assert said[0] == [1, 1, 0]
    assert said[1][0] == 1
    assert said[1][1:] == [-1, -1]
    assert said[2] == [-1, -1, -1]
    assert said[3] == [-1, -1, -1]
    other = found.label_names.index("cataract")
    assert [found[0].left_labels[other], found[0].right_labels[other]] == [0, 1]


class Broken(ColourModel):
    """A network whose weights hold NaN."""

    def encode_images(self, images):
        return super().encode_images(images) * np.nan


@pytest.mark.parametrize(
    "protocol",
    [p for p in protocol_names() if p not in ("classify", "segment", "captioning", "fine_tune")],
)
@pytest.mark.parametrize("kind", ["patient", "image"])
def test_embeddings_that_are_no_numbers_are_one_message(tmp_path, monkeypatch, protocol, kind):
    if kind == "image":
        if protocol == "retrieval":
            return
        source = Records((image(n, CLASSES[n % 2]) for n in range(6)), kind)
        train = Records((image(50 + n, CLASSES[n % 2]) for n in range(6)), kind)
    else:
        source = train = None
    with pytest.raises(UserError, match="no finite number"):
        run(tmp_path, monkeypatch, Broken(), source, train, (protocol,))


def test_training_that_diverges_is_one_message(tmp_path, monkeypatch):
    source = Records((image(n, CLASSES[n % 2]) for n in range(6)), "image")
    train = Records((image(50 + n, CLASSES[n % 2]) for n in range(6)), "image")
    tuning = FineTuneConfig(1000.0, 1000.0, epochs=3, batch_size=4)
    model = ColourModel()
    model.params["visual"]["kernel"] = model.params["visual"]["kernel"] * np.inf
    with pytest.raises(UserError, match="no finite numbers"):
        run(tmp_path, monkeypatch, model, source, train, ("fine_tune",), fine_tune=tuning)


@pytest.mark.parametrize(
    "records",
    [
        [patient(0, "drusen", "cataract"), patient(1, "drusen", None)],
        [patient(n, "drusen", "drusen") for n in range(3)],  # one class only
        [patient(0, "drusen", "normal")],  # one patient
        [patient(0, "drusen", None), patient(1, None, "normal")],
    ],
)
def test_few_cases_give_numbers_with_their_caveats(tmp_path, monkeypatch, records):
    document = run(tmp_path, monkeypatch, ColourModel(patients=True), Records(records))
    for level in document["zero_shot"]["en"]["levels"].values():
        assert level["caveats"] or level["left_out"]
        numbers = level.get("overall") or level["macro"]
        for value in numbers.values():
            assert value["low"] is None or value["low"] < value["high"]


def test_what_was_asked_stands_in_the_results(tmp_path, monkeypatch):
    document = run(tmp_path, monkeypatch, ColourModel(patients=True), prompts="report")
    asked = document["zero_shot"]["en"]["prompts"]
    assert set(asked) == {"patient", "left", "right"}
    assert "Left eye: drusen." in asked["left"]["drusen"]
    for by_class in asked.values():
        for prompts in by_class.values():
            assert sum(prompts.values()) == pytest.approx(1, abs=1e-4)
    assert document["settings"]["prompt_words"] == "templates"
