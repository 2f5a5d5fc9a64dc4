"""Photographs with classes on disk: what counts, who the patients are, and what is never read."""

import dataclasses
import os
import shutil
from types import SimpleNamespace

import pytest
import yaml
from colour_world import CLASSES, photograph

from retfm_jax.config import DataConfig
from retfm_jax.data import tasks
from retfm_jax.data.class_files import Reading
from retfm_jax.errors import UserError
from retfm_jax.evaluation.evaluate import _reading
from retfm_jax.evaluation.options import DEFAULTS


def put(path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photograph(CLASSES[seed % 4], seed))


def ids(source) -> set[str]:
    return {record.record_id for record in source}


@pytest.fixture
def refuge(tmp_path):
    """REFUGE's layout with masks, forty photographs, in a folder that can be moved."""
    for label in ("Glaucoma", "Non-Glaucoma"):
        for number in range(20):
            put(tmp_path / f"a/refuge/Training400/{label}/{label[0]}{number}.jpg", number)
            put(tmp_path / f"a/refuge/Annotation/Masks/{label}/{label[0]}{number}.bmp", number)
    return tmp_path / "a"


def test_the_split_does_not_depend_on_where_the_release_lies(refuge, tmp_path, monkeypatch):
    wanted = ids(tasks.open_task("REFUGE", "test", str(refuge)))
    assert 0 < len(wanted) < 40
    assert not any(name.startswith("/") for name in wanted)
    shutil.copytree(refuge, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    for folder in ("elsewhere", "./a", "a/../a/"):
        assert ids(tasks.open_task("REFUGE", "test", folder)) == wanted
    first, second = (tasks.open_task("REFUGE", "test", folder) for folder in ("a", "elsewhere"))
    assert first.identity == second.identity
    (tmp_path / "a" / "refuge").rename(tmp_path / "a" / "REFUGE")  # as Windows may have it
    assert ids(tasks.open_task("REFUGE", "test", "a")) == wanted


def test_masks_are_passed_over_and_the_number_is_compared(refuge):
    said = tasks.said_of(tasks.open_task("REFUGE", "train", str(refuge)))
    assert said.facts["images_published"] == 400
    assert said.facts["images_here"] == 40
    assert said.facts["passed_over"]["annotation"]["count"] == 40
    assert any("publishes 400 images, 40 are here" in sentence for sentence in said.sentences)
    assert any("by image" in sentence for sentence in said.sentences)


def test_every_task_states_how_many_images_its_source_publishes():
    for name, task in tasks.described_tasks().items():
        images = task.get("images")
        numbers = images.values() if isinstance(images, dict) else [images]
        assert all(number == "any" or number > 0 for number in numbers), name
    counts = {name: task["images"] for name, task in tasks.described_tasks().items()}
    assert counts["IDRiD"] == {"train": 413, "test": 103}
    assert counts["MESSIDOR"] == 1744


def test_pairs_of_eyes_stay_together(tmp_path):
    root = tmp_path / "messidor2"
    names = [f"2007_{number}_PP.png" for number in range(40)]
    for number, name in enumerate(names):
        put(root / "IMAGES" / name, number)
    rows = [f"{name},{number % 5},1" for number, name in enumerate(names)]
    header = "image_id,adjudicated_dr_grade,adjudicated_gradable\n"
    (root / "messidor_data.csv").write_text(header + "\n".join(rows) + "\nungraded.png,,0\n")
    by_image = tasks.open_task("MESSIDOR", "train", str(tmp_path))
    assert tasks.counts_by(by_image) == "image"
    assert any("messidor-2.csv" in sentence for sentence in by_image.said.sentences)
    assert any("no label: 1 images" in sentence for sentence in by_image.said.sentences)
    pairs = [f"{first};{second}" for first, second in zip(names[::2], names[1::2], strict=True)]
    (root / "messidor-2.csv").write_text("left;right\n" + "\n".join(pairs) + "\n")
    test = tasks.open_task("MESSIDOR", "test", str(tmp_path))
    assert tasks.counts_by(test) == "patient"
    there = {os.path.basename(name) for name in ids(test)}
    assert 0 < len(there) < 40
    for first, second in zip(names[::2], names[1::2], strict=True):
        assert (first in there) == (second in there)


def test_eyes_in_class_folders_are_of_one_patient_and_counted_on_both_sides(tmp_path):
    for number in range(6):
        for split, eye in (("train", "left"), ("test", "right")):
            put(tmp_path / f"mine/{split}/{CLASSES[number % 2]}/{number}_{eye}.png", number)
    source = tasks.open_task(str(tmp_path / "mine"), "test", "")
    assert {record.patient_id for record in source} == {str(number) for number in range(6)}
    said = tasks.said_of(source)
    assert "6 patients have photographs in test and train" in said.facts["patients_in_two_splits"]
    assert "guess" in said.facts["patients"]


def test_a_regular_expression_and_a_table_tell_patients_of_class_folders(class_folder):
    assert tasks.counts_by(tasks.open_task(str(class_folder), "test", "")) == "image"
    reading = Reading(patient_regex=r"([0-9])\.png")
    source = tasks.open_task(str(class_folder), "test", "", reading)
    assert {record.patient_id for record in source} == {"0", "1", "2", "3"}
    assert tasks.counts_by(source) == "patient"
    with pytest.raises(UserError, match="matches none of"):
        tasks.open_task(str(class_folder), "test", "", Reading(patient_regex="^P"))
    table = class_folder / "patients.csv"
    table.write_text("image,patient_id\ntest/normal/0.png,p\ntest/drusen/1.png,p\n")
    source = tasks.open_task(str(class_folder), "test", "")
    assert [record.patient_id for record in source].count("p") == 2


def test_hidden_folders_are_no_classes_and_strays_are_said(class_folder):
    put(class_folder / "test/.ipynb_checkpoints/0.png")
    put(class_folder / "train/__MACOSX/0.png")
    put(class_folder / "test/stray.png")
    (class_folder / "test/normal/._0.png").write_bytes(b"\0\5\x16\7")
    (class_folder / "test/normal/list.txt").write_text("0.png")
    (class_folder / "test/normal/9.png").write_text("nothing")
    os.mkfifo(class_folder / "test/normal/pipe.png")
    source = tasks.open_task(str(class_folder), "test", "")
    assert source.label_names == ("drusen", "glaucoma", "normal")
    assert len(source) == 12
    over = tasks.said_of(source).facts["passed_over"]
    assert {reason: found["count"] for reason, found in over.items()} == {
        "broken": 1, "special": 1, "other": 1, "outside": 1, "hidden": 1,
    }  # fmt: skip
    assert source.said.broken == ("test/normal/9.png",)


def test_a_class_in_other_letter_case_is_the_same_class(class_folder):
    (class_folder / "test/normal").rename(class_folder / "test/Normal")
    source = tasks.open_task(str(class_folder), "test", "")
    assert {record.categories for record in source} == {(name,) for name in CLASSES[:3]}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("Normal", "'Normal' and 'normal'"),
        ("normal ", "'normal' and 'normal '"),
        ("e\u0301", r"e\\u0301.*'\\xe9'"),
        ("mild npdr", "'mild npdr' and 'mild_npdr'"),
    ],
)
def test_one_class_in_two_folders_is_refused(class_folder, other, said):
    for name in ("\xe9", "mild_npdr", other):
        shutil.copytree(class_folder / "train/normal", class_folder / "train" / name)
    with pytest.raises(UserError, match=f"{said}.*, which are one name written in several ways"):
        tasks.open_task(str(class_folder), "train", "")


def test_class_folders_may_be_links_to_another_disk(class_folder, tmp_path):
    shutil.move(class_folder / "test/normal", tmp_path / "disk")
    (class_folder / "test/normal").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/loop").symlink_to(tmp_path / "disk")
    assert len(tasks.open_task(str(class_folder), "test", "")) == 12


FILES = "classes: {a: a, b: b}\nfiles: {test: {a: 'in/*', b: 'in/*'}}\n"


def task_file(tmp_path, text: str, links: bool = False):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    return tasks.open_task(str(path), "test", str(tmp_path / "data"), Reading(follow_links=links))


@pytest.fixture
def secret(tmp_path):
    for number in range(3):
        put(tmp_path / f"secret/{number}.png", number)
        put(tmp_path / f"data/in/{number}.png", number)
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        ("'in/*'", "'../secret/*'"),
        ("'in/*'", "'in/../../secret/*'"),
        ("'in/*'", "/etc/*"),
        ("'in/*'", "'C:\\secret\\*'"),
        ("classes", "folder: ../secret\nclasses"),
        ("classes", "folder: /etc\nclasses"),
    ],
)
def test_patterns_do_not_leave_the_release(secret, change):
    with pytest.raises(UserError, match="leads outside the release"):
        task_file(secret, FILES.replace(*change, 1))


def test_links_do_not_leave_the_release_without_the_switch(secret):
    (secret / "data/in/link.png").symlink_to(secret / "secret/0.png")
    (secret / "data/in/more").symlink_to(secret / "secret")
    source = task_file(secret, FILES)
    assert len(ids(source)) == 3
    assert source.said.facts["passed_over"]["link"]["count"] == 2
    assert len(ids(task_file(secret, FILES, links=True))) == 4
    shutil.rmtree(secret / "data/in")
    (secret / "data/in").symlink_to(secret / "secret")
    with pytest.raises(UserError, match="follow_links"):
        task_file(secret, FILES.replace("in/*", "**/*"))


TABLE = {
    "classes": {"a": "0", "b": "1"},
    "tables": {"test": {"file": "t.csv", "images": "in", "image": "i", "label": "g"}},
}


@pytest.mark.parametrize("name", ["../../secret/0.png", "/etc/hostname", "in/../../../x.png"])
def test_tables_do_not_leave_the_release(secret, name):
    (secret / "data/t.csv").write_text(f"i,g\n0.png,0\n{name},1\n")
    with pytest.raises(UserError, match=r"t\.csv row 3: .*outside|row 3: .*does not exist"):
        task_file(secret, yaml.safe_dump(TABLE))
    for change in ({"file": "../t.csv"}, {"images": "../secret"}, {"file": "/etc/passwd"}):
        bad = {**TABLE, "tables": {"test": {**TABLE["tables"]["test"], **change}}}
        with pytest.raises(UserError, match="leads outside the release"):
            task_file(secret, yaml.safe_dump(bad))


def test_a_table_takes_files_of_another_spelling_and_says_so(secret):
    (secret / "data/t.csv").write_text("i,g,who\n0.PNG,0,p\n1.png,1,p\n2.png,1,q\n")
    table = {**TABLE["tables"]["test"], "patient": "who"}
    source = task_file(secret, yaml.safe_dump({**TABLE, "tables": {"test": table}}))
    assert [record.patient_id for record in source] == ["p", "p", "q"]
    assert any("spelled in another way" in sentence for sentence in source.said.sentences)
    (secret / "data/t.csv").write_text("i,g\n0.jpg,0\n")
    with pytest.raises(UserError, match=r"row 2: .*0.jpg does not exist; close by: 'in/0.png'"):
        task_file(secret, yaml.safe_dump(TABLE))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "no task"),
        ("[1, 2]", "no task"),
        ("classes: {a: a}\nfiles: [1]", "mappings of splits"),
        ("classes: {a: a}\nfiles: {test: 'in/*'}", "mapping of names to texts"),
        ("classes: {a: a}\nfiles: {test: {a: [x]}}", "mapping of names to texts"),
        ("classes: {glaucoma: a}\nfiles: {test: {glaucomma: 'in/*'}}", "did you mean 'glaucoma'"),
        ("classes: {a: a}\nfiles: {tset: {a: 'in/*'}}", "'tset' is no split"),
        ("classes: {a: a}\nfiles: {'': {a: 'in/*'}}", "'' is no split"),
        ("classes: {a: a}\nfiles: {test: {a: ''}}", "pattern of 'a' is empty"),
        ("classes: {}\nfiles: {test: {a: 'in/*'}}", "names no class"),
        ("classes: {a: x, b: x}\ntables: {test: {file: t, image: i, label: g}}", "two classes"),
        ("classes: {a: a}\ntables: {test: {file: t.csv, image: i}}", "has no `label`"),
        ("classes: {a: a}\ntables: {test: {file: t, image: i, label: g, sufix: x}}", "no `sufix`"),
        ("classes: {a: a}\nfolders: x\nfiles: {test: {a: 'in/*'}}", "did you mean `folder`"),
        ("classes: {a: a}\nimages: many\nfiles: {test: {a: 'in/*'}}", "`images` is a number"),
        ("classes: {a: a}\nshares: {test: 0.5}\nfiles: {'': {a: 'in/*'}}", "do not sum to 1"),
        ("classes: {a: a}\nshares: [1]\nfiles: {'': {a: 'in/*'}}", "`shares` is a mapping"),
        ("classes: {a: a}\npairs: x\nfiles: {test: {a: 'in/*'}}", "`pairs` is a mapping"),
        ("classes: {a: a}\nsource: [1]\nfiles: {test: {a: 'in/*'}}", "`source` is a text"),
    ],
)
def test_a_task_of_another_shape_is_one_message(secret, text, message):
    with pytest.raises(UserError, match=message):
        task_file(secret, text)


def test_patients_of_a_built_dataset_are_not_a_matter_of_names(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "open_dataset", lambda *_: object())
    with pytest.raises(UserError, match="patient_regex reads file names"):
        tasks.open_task("clinic", "test", str(tmp_path), Reading(patient_regex="x"))


def test_photographs_in_two_splits_or_two_classes_are_said(class_folder):
    shutil.copy(class_folder / "train/normal/0.png", class_folder / "test/normal/x.png")
    shutil.copy(class_folder / "test/normal/1.png", class_folder / "test/drusen/y.png")
    said = " ".join(tasks.open_task(str(class_folder), "test", "").said.sentences)
    assert "1 photographs of test are in train as well, byte for byte" in said
    assert "test/normal/x.png = train/normal/0.png" in said
    assert "1 photographs of test are in several classes" in said


def test_all_is_every_photograph_once_divided_or_not(class_folder):
    def names(folder, split):
        source = tasks.open_task(str(folder), split, "")
        return sorted((source[i].record_id, tuple(source[i].labels)) for i in range(len(source)))

    found = names(class_folder, "all")
    assert found == sorted([*names(class_folder, "train"), *names(class_folder, "test")])
    flat = class_folder.parent / "flat"
    shutil.copytree(class_folder / "train", flat)
    there = sorted(str(path.relative_to(flat)) for path in flat.rglob("*.png"))
    assert [name for name, _ in names(flat, "all")] == there
    assert not any("%" in said for said in tasks.open_task(str(flat), "all", "").said.sentences)


def test_links_among_class_folders_bring_no_class_into_another(class_folder):
    (class_folder / "test/normal/up").symlink_to(class_folder)
    (class_folder / "test/normal/shared").symlink_to(class_folder / "train/drusen")
    (class_folder / "test/drusen/shared").symlink_to(class_folder / "train/drusen")
    source = tasks.open_task(str(class_folder), "test", "")
    shared = len(list((class_folder / "train/drusen").iterdir()))
    assert len(source) == 12 + 2 * shared
    assert any("in several classes" in sentence for sentence in source.said.sentences)


def test_an_image_has_one_grade_and_counts_once(secret):
    (secret / "data/t.csv").write_text("i,g\n0.png,0\n1.png,1\n0.png,0\n")
    source = task_file(secret, yaml.safe_dump(TABLE))
    assert len(source) == 2
    assert any("name an image again" in sentence for sentence in source.said.sentences)
    (secret / "data/t.csv").write_text("i,g\n0.png,0\n1.png,1\n0.PNG,1\n")
    with pytest.raises(UserError, match=r"row 4: '0.PNG' is b here and a in row 2"):
        task_file(secret, yaml.safe_dump(TABLE))


def test_what_a_network_was_trained_on_is_known_by_its_name():
    own = DataConfig(dataset="eyes", shares=(0.5, 0.25, 0.25), patient_regex="(.*)_")
    model = SimpleNamespace(classes=("a", "b"), data_config=own)
    with pytest.raises(UserError, match="by its name, what the network was trained on"):
        _reading(model, "/elsewhere/eyes", "all", DEFAULTS)
    then = _reading(model, "/elsewhere/eyes", "test", DEFAULTS)
    assert (then.patient_regex, then.division.shares) == (own.patient_regex, own.shares)
    assert _reading(model, "/elsewhere/clinic", "all", DEFAULTS).patient_regex is None
    given = dataclasses.replace(DEFAULTS, reading=Reading(exclude="list.csv"))
    for folder in ("eyes", "clinic"):
        assert _reading(model, folder, "test", given).exclude == "list.csv"
