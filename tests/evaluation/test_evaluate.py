"""`retfm evaluate` from a folder or a split to numbers, pictures and a page."""

import json
import os

import numpy as np
import pytest
from colour_world import CLASSES, ColourModel, patient, photograph

from retfm_jax.errors import UserError
from retfm_jax.evaluation import evaluate as evaluation
from retfm_jax.evaluation.evaluate import Options, evaluate, quick_metrics
from retfm_jax.evaluation.protocols import fine_tune, protocol_names
from retfm_jax.evaluation.protocols.few_shot import Shots
from retfm_jax.evaluation.protocols.fine_tune import FineTuneConfig

PNG = b"\x89PNG"


class Patients(list):
    """A source of patients, as a built dataset gives it."""

    name, kind, label_names = "clinic", "patient", CLASSES
    ordered = False

    def __init__(self, count, split="test", seed=0):
        generator = np.random.default_rng(seed)
        super().__init__(
            patient(1000 * seed + number, *generator.choice(CLASSES, 2)) for number in range(count)
        )
        self.split = split


def test_every_protocol_learns_from_shots_of_a_folder_of_ones_own(class_folder, tmp_path):
    options = Options(
        languages=("en",),
        shots=(Shots(per_class=3),),
        folds=2,
        fine_tune=FineTuneConfig(1e-2, 3e-2, epochs=15, batch_size=9),
    )
    others = ("retrieval", "classify", "segment", "captioning")
    protocols = [name for name in protocol_names() if name not in others]
    out = tmp_path / "out" / "mine.json"
    document = evaluate(
        ColourModel(),
        protocols=protocols,
        dataset=str(class_folder),
        data_dir="",
        split="test",
        out=out,
        options=options,
    )
    assert json.loads(out.read_text()) == document
    level = document["zero_shot"]["en"]["levels"]["image"]
    assert level["kind"] == "single-label"
    aca = level["overall"]["aca"]
    assert (aca["value"], aca["high"]) == (1.0, 1.0)
    assert 0.3 < aca["low"] < 1.0  # all of 4 images of each class say that much and no more
    assert "quadratic_kappa" not in level["overall"]
    for name in protocols[1:]:
        found = document[name]["3 shots"]
        assert found["support"] == [9, 9]
        assert found["over_folds"]["aca"]["mean"] > 0.9, name
        assert len(found["over_folds"]["aca"]["folds"]) == 2
    assert out.with_suffix(".png").read_bytes()[:4] == PNG
    html = out.with_suffix(".html").read_text()
    assert html.count("<h2") == len(protocols) + 2  # settings, and words
    assert "http" not in html


def test_photographs_of_the_test_split_are_not_learned_from(class_folder, tmp_path, capsys):
    (class_folder / "test" / "normal" / "0.png").write_bytes(
        (class_folder / "train" / "normal" / "3.png").read_bytes()
    )
    document = evaluate(
        ColourModel(),
        protocols=("linear_probe",),
        dataset=str(class_folder),
        data_dir="",
        split="test",
        out=tmp_path / "o.json",
        options=Options(languages=("en",), fit_augmentations=2, test_augmentations=2),
    )
    found = document["linear_probe"]["all data"]
    assert found["support"] == [17]
    assert "over_folds" not in found
    assert found["folds"][0]["overall"]["aca"]["value"] == 1.0
    assert len(document["dropped_from_training"]["same_photograph"]) == 1
    assert "the test split has the same photograph" in capsys.readouterr().out


def test_patients_get_both_levels_retrieval_and_galleries(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation, "open_task", lambda *_: Patients(12))
    out = tmp_path / "clinic.json"
    document = evaluate(
        ColourModel(patients=True),
        protocols=("zero_shot", "retrieval"),
        dataset="clinic",
        data_dir="",
        split="test",
        out=out,
        options=Options(languages=("en", "zh")),
    )
    assert set(document["zero_shot"]) == {"en", "zh"}
    assert set(document["zero_shot"]["zh"]["levels"]) == {"patient", "eye"}
    # There are no Chinese reports: nothing to retrieve.
    assert set(document["retrieval"]) == {"en"}
    assert (tmp_path / "clinic_gallery_en.png").read_bytes()[:4] == PNG


def test_patients_of_the_test_split_are_not_learned_from(monkeypatch, tmp_path):
    train, test = Patients(12, "train", seed=1), Patients(6, "test")
    train.append(test[0])
    monkeypatch.setattr(
        evaluation, "open_task", lambda name, split, *_: train if split == "train" else test
    )
    document = evaluate(
        ColourModel(patients=True),
        protocols=("linear_probe",),
        dataset="clinic",
        data_dir="",
        split="test",
        out=tmp_path / "o.json",
        options=Options(languages=("en",)),
    )
    assert document["training_images"] == 24
    dropped = document["dropped_from_training"]["same_photograph"]
    assert dropped == ["p0/left", "p0/right"]


def test_metrics_of_a_run_are_plain_numbers():
    config = ColourModel().config.evaluation
    metrics = quick_metrics(ColourModel(patients=True), Patients(10), config)
    assert metrics["zero_shot/en/eye/auroc"] > 0.9
    assert metrics["zero_shot/zh/patient/auroc"] > 0.5
    assert 0 <= metrics["retrieval/en/image_to_report/recall_at_5"] <= 1
    assert not any(name.startswith("retrieval/zh") for name in metrics)
    assert all(isinstance(value, float) for value in metrics.values())


def test_fine_tuning_compiles_one_network_for_all_shots(class_folder, tmp_path, monkeypatch):
    made, whole = [], fine_tune.FineTuning
    monkeypatch.setattr(fine_tune, "FineTuning", lambda *a: made.append(whole(*a)) or made[-1])
    document = evaluate(
        ColourModel(),
        protocols=("fine_tune",),
        dataset=str(class_folder),
        data_dir="",
        split="test",
        out=tmp_path / "o.json",
        options=Options(
            shots=(Shots(per_class=1), Shots(per_class=2)),
            folds=1,
            draws=3,
            fine_tune=FineTuneConfig(epochs=1, batch_size=4),
        ),
    )
    assert list(document["fine_tune"]) == ["1 shot", "2 shots"]
    assert len(made) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocols": ("zero_shoot",)}, "no such protocol .*did you mean 'zero_shot'"),
        ({"out": "numbers.txt"}, "written as JSON"),
        ({"protocols": ("retrieval",)}, "retrieval needs reports in en or zh; the split has none"),
        ({"options": Options(prompts="poem")}, "give one of report, name, knowledge"),
        ({"options": Options(train_split="validation")}, "has no split 'validation'"),
    ],
)
def test_what_cannot_be_done_is_said(class_folder, tmp_path, change, message):
    arguments = {
        "protocols": ("linear_probe",),
        "dataset": str(class_folder),
        "data_dir": "",
        "split": "test",
        "out": tmp_path / "o.json",
    }
    with pytest.raises(UserError, match=message):
        evaluate(ColourModel(), **(arguments | change))
    assert not (tmp_path / "o.json").exists()


def test_a_file_that_is_no_image_is_named_and_left_out(class_folder, tmp_path, caplog):
    def counts():
        evaluate(
            ColourModel(),
            protocols=("zero_shot",),
            dataset=str(class_folder),
            data_dir="",
            split="test",
            out=tmp_path / "o.json",
        )
        written = json.loads((tmp_path / "o.json").read_text())
        return written["zero_shot"]["en"]["levels"]["image"]["counts"]

    whole = counts()
    assert not caplog.records
    (class_folder / "test" / "drusen" / "9.jpg").write_text("no image")
    assert counts() == whole
    assert "test/drusen/9.jpg" in caplog.text


def test_training_on_nothing_new_is_refused(class_folder, tmp_path):
    for name in CLASSES[:3]:
        for number in range(4):
            target = class_folder / "test" / name / f"{number}.png"
            target.write_bytes(photograph(name, 100 * CLASSES.index(name) + number))
        for number in (4, 5):
            (class_folder / "train" / name / f"{number}.png").unlink()
    with pytest.raises(UserError, match="has 0 labeled images that are not in the test split"):
        evaluate(
            ColourModel(),
            protocols=("linear_probe",),
            dataset=str(class_folder),
            data_dir="",
            split="test",
            out=tmp_path / "o.json",
        )


def test_names_of_any_kind_come_out_as_they_are(tmp_path):
    plain = ["IOP $5_{ $", "正常", "[bold]", "a_b\\frac^", "x" * 200]
    names = [*plain, "<script>", os.fsdecode(b"\xff")]
    root = tmp_path / "my <set> $"
    for split in ("train", "test"):
        for index, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            for number in range(2):
                data = photograph(CLASSES[index % 4], 10 * index + number + 500 * (split == "test"))
                (root / split / name / f"{number} $.png").write_bytes(data)
    out = tmp_path / "o.json"
    evaluate(
        ColourModel(sees=0.2),
        protocols=("linear_probe",),
        dataset=str(root),
        data_dir="",
        split="test",
        out=out,
        options=Options(languages=("en",), draws=3),
    )
    classes = json.loads(out.read_text())["linear_probe"]["all data"]["folds"][0]["classes"]
    assert set(classes) == set(names)
    assert out.with_suffix(".png").read_bytes()[:4] == PNG
    html = out.with_suffix(".html").read_text()
    assert "<script" not in html
    for name in ("&lt;script&gt;", *plain):
        assert name in html
    assert "my &lt;set&gt; $" in html
