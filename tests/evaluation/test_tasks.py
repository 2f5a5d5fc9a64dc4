"""What `--dataset` may name, and what is said where it cannot be used."""

import shutil
import types

import numpy as np
import pytest
import yaml
from colour_world import CLASSES, photograph

from retfm_jax.data import tasks
from retfm_jax.errors import UserError
from retfm_jax.knowledge.prompts import prompts_of
from retfm_jax.knowledge.vocabulary import load_vocabulary
from retfm_jax.zero_shot import model_prompts


def test_a_folder_of_class_folders_is_a_task(class_folder):
    source = tasks.open_task(str(class_folder), "train", "nowhere")
    assert source.label_names == ("drusen", "glaucoma", "normal")
    assert len(source) == 18
    record = source[0]
    assert record.labels.tolist() == [1, 0, 0]
    assert record.image == (class_folder / "train" / "drusen" / "0.png").read_bytes()
    assert source.identity != tasks.open_task(str(class_folder), "test", "").identity


def test_val_is_validation(class_folder):
    shutil.copytree(class_folder / "test", class_folder / "val")
    assert tasks.open_task(str(class_folder), "validation", "").split == "validation"


def test_a_wrong_class_name_is_said_with_the_right_one(class_folder):
    (class_folder / "test" / "glaucoma").rename(class_folder / "test" / "glaucomma")
    with pytest.raises(UserError, match=r"'glaucomma' is no class of .*train.*mean 'glaucoma'"):
        tasks.open_task(str(class_folder), "test", "")


def test_an_empty_class_is_said(class_folder):
    shutil.rmtree(class_folder / "test" / "drusen")
    (class_folder / "test" / "drusen").mkdir()
    with pytest.raises(UserError, match=r"class folder .*drusen holds no image"):
        tasks.open_task(str(class_folder), "test", "")


def test_a_single_image_is_said(class_folder):
    for name in ("drusen", "glaucoma"):
        shutil.rmtree(class_folder / "test" / name)
    for number in range(1, 4):
        (class_folder / "test" / "normal" / f"{number}.png").unlink()
    with pytest.raises(UserError, match="holds 1 images; nothing can be measured"):
        tasks.open_task(str(class_folder), "test", "")


def test_a_single_class_and_a_missing_split_are_said(class_folder):
    with pytest.raises(UserError, match="has no split 'validation'; it has test, train"):
        tasks.open_task(str(class_folder), "validation", "")
    with pytest.raises(UserError, match=r"has no split 'trian'.*did you mean 'train'\?$"):
        tasks.open_task(str(class_folder), "trian", "")
    for name in ("drusen", "glaucoma"):
        shutil.rmtree(class_folder / "train" / name)
    with pytest.raises(UserError, match=r"holds 1 class folders \(normal\)"):
        tasks.open_task(str(class_folder), "train", "")


def test_a_folder_of_something_else_and_a_misspelled_task_are_said(tmp_path):
    with pytest.raises(UserError, match="nor a folder of classes: make"):
        tasks.open_task(str(tmp_path), "test", str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'IDRiD'"):
        tasks.open_task("idrd", "test", str(tmp_path))


#: Classes of public sets for which there is no one condition; zero-shot leaves them out.
WITHOUT_CONDITION = {
    "advanced_glaucoma", "any_disease", "blurred_with_suspected_pdr", "blurred_without_pdr",
    "congenital_disc_abnormality", "dragged_disc", "early_glaucoma", "haemorrhagic_retinopathy",
    "myopic_fundus", "no_pathologic_myopia", "other_abnormality", "other_retinal_disease",
    "peripheral_degeneration_and_break", "retinal_traction", "retinal_vascular_occlusion",
    "vitreomacular_interface_disease",
}  # fmt: skip


def test_every_described_task_speaks_of_known_conditions():
    vocabulary = load_vocabulary()
    for name, task in tasks.described_tasks().items():
        for label in () if task.get("masks") else task["classes"]:
            assert label in vocabulary or label in WITHOUT_CONDITION, f"{name}: {label}"
        assert ("dataset" in task) + ("set" in task) == 1


IDRID = "B. Disease Grading"
#: A task of one's own on the same release.
OWN = {
    "folder": "idrid",
    "classes": {"no_diabetic_retinopathy": "0", "pdr": "4"},
    "tables": {
        split: {
            "file": f"{IDRID}/2. Groundtruths/{letter}. IDRiD_Disease Grading_{name} Labels.csv",
            "images": f"{IDRID}/1. Original Images/{letter}. {name} Set",
            "image": "Image name",
            "label": "Retinopathy grade",
            "suffix": ".jpg",
        }
        for split, letter, name in (("train", "a", "Training"), ("test", "b", "Testing"))
    },
}


@pytest.fixture
def idrid(tmp_path):
    """IDRiD's official layout, four photographs."""
    truths = tmp_path / "idrid" / IDRID / "2. Groundtruths"
    truths.mkdir(parents=True)
    for split, letter in (("Training", "a"), ("Testing", "b")):
        folder = tmp_path / "idrid" / IDRID / "1. Original Images" / f"{letter}. {split} Set"
        folder.mkdir(parents=True)
        rows = ["Image name,Retinopathy grade,Risk of macular edema ,,"]
        for number, grade in ((1, 0), (2, 4)):
            (folder / f"IDRiD_00{number}.jpg").write_bytes(photograph("normal", number))
            rows.append(f"IDRiD_00{number},{grade},{number},,")
        table = truths / f"{letter}. IDRiD_Disease Grading_{split} Labels.csv"
        table.write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_table_of_grades_is_read_with_the_blanks_of_its_columns(idrid):
    source = tasks.open_task("idrid", "test", str(idrid))
    assert source.label_names[0] == "no_diabetic_retinopathy"
    assert [int(record.labels.argmax()) for record in source] == [0, 4]
    edema = tasks.open_task("IDRiD_DME", "train", str(idrid))
    assert [int(record.labels.argmax()) for record in edema] == [1, 2]


def test_faults_of_a_table_are_named_with_file_and_row(idrid):
    folder = idrid / "idrid" / IDRID
    table = folder / "2. Groundtruths" / "b. IDRiD_Disease Grading_Testing Labels.csv"
    whole = table.read_text()
    table.write_text(whole.replace("IDRiD_002,4", "IDRiD_002,7"))
    with pytest.raises(
        UserError, match=r"Testing Labels\.csv row 3: Retinopathy grade is '7', none of 0, 1, 2"
    ):
        tasks.open_task("IDRiD", "test", str(idrid))
    table.write_text(whole.replace("Retinopathy grade", "Grade"))
    with pytest.raises(UserError, match="has no column 'Retinopathy grade' or"):
        tasks.open_task("IDRiD", "test", str(idrid))
    table.write_text(whole.replace("IDRiD_002", "IDRiD_099"))
    with pytest.raises(UserError, match=r"row 3: .*IDRiD_099.jpg does not exist"):
        tasks.open_task("IDRiD", "test", str(idrid))


def test_a_release_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"task FIVES: put FIVES .* into"):
        tasks.open_task("FIVES", "test", str(tmp_path))
    (tmp_path / "fives").mkdir()
    with pytest.raises(UserError, match=r"holds no release of fives in a layout that is known"):
        tasks.open_task("FIVES", "test", str(tmp_path))


def test_a_release_without_splits_is_divided_the_same_way_every_time(tmp_path):
    for name in ("Glaucoma", "Non-Glaucoma"):
        folder = tmp_path / "refuge" / name
        folder.mkdir(parents=True)
        for number in range(20):
            (folder / f"{name[0]}{number}.png").write_bytes(photograph("normal", number))
    parts = {
        split: {record.record_id for record in tasks.open_task("REFUGE", split, str(tmp_path))}
        for split in ("train", "test")
    }
    assert len(parts["train"]) + len(parts["test"]) == 40
    assert not parts["train"] & parts["test"]
    assert len(parts["train"]) > len(parts["test"]) > 0


def test_images_with_exactly_one_class_are_taken_from_a_built_dataset(monkeypatch):
    from colour_world import image

    records = [image(number, CLASSES[number % 4]) for number in range(12)]
    both = image(99, "normal")
    both.labels[3] = 1

    class Built(list):
        name, split, kind, label_names = "odir5k", "test", "image", CLASSES
        ordered = False

    task = {"dataset": "odir5k", "per_class": 2, "classes": {"normal": "normal", "cat": "cataract"}}
    monkeypatch.setattr(tasks, "open_dataset", lambda *_: Built([both, *records]))
    source = tasks._described_sources("TINY", task, ("test",), None)["test"]
    assert (source.name, source.label_names) == ("TINY", ("normal", "cat"))
    assert [record.record_id for record in source] == ["i0", "i3", "i4", "i7"]
    np.testing.assert_array_equal(source[1].labels, [0, 1])


def test_other_findings_count_where_classes_are_wanted_alone(monkeypatch):
    from colour_world import image

    records = [image(number, CLASSES[number]) for number in range(4)]
    records[0].labels[1] = 1

    class Built(list):
        name, split, kind, label_names = "grades", "test", "image", CLASSES
        ordered = False

    monkeypatch.setattr(tasks, "open_dataset", lambda *_: Built(records))
    task = {"dataset": "grades", "classes": {"normal": "normal", "cataract": "cataract"}}
    for alone, expected in ((False, ["i0", "i3"]), (True, ["i3"])):
        source = tasks._described_sources("T", {**task, "alone": alone}, ("test",), None)["test"]
        assert [record.record_id for record in source] == expected


def test_a_built_dataset_may_have_the_name_of_a_task(monkeypatch, tmp_path):
    built = object()
    monkeypatch.setattr(tasks, "open_dataset", lambda *_: built)
    assert tasks.open_task("idrid", "test", str(tmp_path)) is built
    with pytest.raises(UserError, match="task IDRiD: put IDRiD"):
        tasks.open_task("IDRiD", "test", str(tmp_path))


def test_prompts_speak_of_what_the_images_are(idrid, tmp_path):
    task = OWN | {"modality": "oct"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(task))
    source = tasks.open_task(str(path), "train", str(tmp_path))
    assert (tasks.modality_of(source), source[0].attributes) == ("oct", ("oct",))
    text, *seen = prompts_of("knowledge", "oct")("drusen", "en", None)
    assert text == "A retinal OCT scan of drusen"
    assert "A retinal OCT scan of wavy pigment epithelium" in seen
    assert "Drusen." in prompts_of("report", "oct")("drusen", "en", None)
    path.write_text(yaml.safe_dump(task | {"modality": "mri"}))
    with pytest.raises(UserError, match="modality 'mri'; there are cfp, ffa, oct"):
        tasks.open_task(str(path), "train", str(tmp_path))


def test_a_model_is_asked_of_the_images_that_it_was_made_for():
    data = types.SimpleNamespace(image=types.SimpleNamespace(modality="oct"))
    model = types.SimpleNamespace(data_config=data)
    assert model_prompts(model, "name")("drusen", "en", None) == ("A retinal OCT scan of drusen",)
    (text,) = model_prompts(model, "name", "cfp")("drusen", "en", None)
    assert text == "A fundus photograph of drusen"


def test_prompt_styles():
    report = prompts_of("report")("drusen", "en", "left")
    assert all("eft eye" in text for text in report)
    knowledge = prompts_of("knowledge")("drusen", "en", None)
    assert prompts_of("name")("drusen", "en", None) == knowledge[:1]
    assert len(knowledge) > 1
    assert tasks.unknown_classes(("drusen", "other diagnosis")) == ("other diagnosis",)


def test_a_task_of_ones_own_in_a_file(idrid, tmp_path):
    own = tmp_path / "grades.yaml"
    own.write_text(yaml.safe_dump(OWN))
    source = tasks.open_task(str(own), "test", str(idrid))
    assert (source.name, len(source)) == ("grades", 2)
    own.write_text("classes: [a, b]\n")
    with pytest.raises(UserError, match=r"grades.yaml is no task: it needs `classes`"):
        tasks.open_task(str(own), "test", str(idrid))
    with pytest.raises(UserError, match=r"cannot read the task .*nothing.yaml"):
        tasks.open_task(str(tmp_path / "nothing.yaml"), "test", str(idrid))


def test_one_condition_under_two_names_is_found():
    names = ["normal", "DR", "mass", "diabetic retinopathy", "正常眼底", "drusen", "own class"]
    assert tasks.same_conditions(names) == [
        ("normal", "正常眼底"),
        ("DR", "diabetic retinopathy"),
    ]
    assert tasks.same_conditions(["normal", "drusen", "own", "other"]) == []
