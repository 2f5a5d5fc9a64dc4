"""Labeled photographs: classes, outcome and patients, looked at once, of folders and datasets."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from retfm_jax.config import DataConfig
from retfm_jax.data import labeled
from retfm_jax.data.labeled import open_labeled
from retfm_jax.errors import UserError

ALL = ("train", "validation", "test")


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((24, 24)).save(path)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Sixty patients with two eyes each in folders of three classes, without splits."""
    root = tmp_path_factory.mktemp("flat") / "clinic"
    for patient in range(60):
        for side in ("left", "right"):
            name = ("normal", "amd", "dr")[patient % 3]
            write(root / name / f"{patient}_{side}.png", 2 * patient + (side == "left"))
    return root


def test_a_flat_folder_is_divided_by_patient(flat):
    data = open_labeled(DataConfig(dataset=str(flat)), ALL)
    assert data.classes == ("amd", "dr", "normal")
    assert data.outcome == "exclusive"
    sources = data.sources
    assert sum(len(source) for source in sources.values()) == 120
    patients = [set(source.patients) for source in sources.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 60
    assert all(source.patients_known for source in sources.values())
    assert any("70/10/20%" in sentence for sentence in data.said)
    for source in sources.values():
        for index in range(0, len(source), 7):
            record = source[index]
            assert record.patient_id == source.patients[index]
            np.testing.assert_array_equal(record.labels, source.labels[index])
            assert record.categories == (data.classes[record.labels.argmax()],)
    np.testing.assert_allclose(sources["train"].prevalence.sum(), 1)


def test_where_nothing_tells_the_patient_it_is_said(tmp_path):
    for number in range(20):
        write(tmp_path / ("a", "b")[number % 2] / f"x{number}y.png", number)
    data = open_labeled(DataConfig(dataset=str(tmp_path), shares=(0.5, 0.25, 0.25)), ALL)
    assert not data.sources["train"].patients_known
    assert any("nobody says which photographs are of one patient" in each for each in data.said)


def test_a_class_that_training_lacks_is_named(tmp_path):
    """Of four folds, two evaluate the one patient of a class."""
    for number in range(24):
        write(tmp_path / ("amd", "dr")[number % 2] / f"{number}_left.png", number)
    for side in ("left", "right"):
        write(tmp_path / "rare" / f"99_{side}.png", 100 + (side == "left"))
    said = []
    for fold in range(4):
        data = open_labeled(DataConfig(dataset=str(tmp_path), fold=(fold, 4)), ALL)
        said += [sentence for sentence in data.said if sentence.startswith("not learned")]
    sentence = "not learned, for no training photograph shows them: rare (2 of {})"
    assert sorted(said) == [sentence.format("test"), sentence.format("validation")]


def test_a_photograph_is_never_on_both_sides(tmp_path):
    """Also where it is there twice, under names of two patients."""
    for number in range(40):
        write(tmp_path / ("a", "b")[number % 2] / f"{number}_left.png", number)
        write(tmp_path / ("a", "b")[number % 2] / f"{number + 40}_left.png", number)
    sources = open_labeled(DataConfig(dataset=str(tmp_path)), ALL).sources
    number_of = {
        split: {int(source[index].record_id[2:].split("_")[0]) % 40 for index in range(len(source))}
        for split, source in sources.items()
    }
    assert sum(map(len, number_of.values())) == len(set.union(*number_of.values())) == 40


def test_classes_can_be_chosen_and_others_are_left_out_and_counted(flat):
    config = DataConfig(dataset=str(flat), classes=("normal", "dr"))
    data = open_labeled(config, ALL)
    assert data.classes == ("normal", "dr")
    assert sum(len(source) for source in data.sources.values()) == 80
    assert any("have none or several of the classes" in sentence for sentence in data.said)
    again = open_labeled(config, ALL)
    assert again.sources["train"].identity == data.sources["train"].identity
    other = open_labeled(dataclasses.replace(config, classes=("dr", "normal")), ALL)
    assert other.sources["train"].identity != data.sources["train"].identity
    turned = data.reordered(("dr", "normal"))
    assert turned.sources["test"].identity == other.sources["test"].identity


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"classes": ("normal", "amdd")}, r"no class 'amdd'.*did you mean 'amd'"),
        ({"classes": ("amd", "amd")}, "names 'amd' twice"),
        ({"classes": ("amd",), "outcome": "exclusive"}, "two or more"),
        ({"patient_regex": "("}, "no regular expression"),
        ({"dataset": "nowhere_at_all"}, "nowhere_at_all"),
    ],
)
def test_what_cannot_be_learned_is_said(flat, entries, message):
    with pytest.raises(UserError, match=message):
        open_labeled(DataConfig(**{"dataset": str(flat), **entries}), ALL)


def test_the_training_split_alone_gives_the_same_photographs(flat):
    config = DataConfig(dataset=str(flat))
    alone = open_labeled(config).sources
    assert set(alone) == {"train"}
    assert alone["train"].identity == open_labeled(config, ALL).sources["train"].identity


class Built:
    """A built dataset with two photographs to a patient and three findings."""

    kind, name, label_names, ordered = "image", "built", ("a", "b", "c"), False

    def __init__(self, split, labels, first=0):
        self.split, self._labels, self._first = split, labels, first
        self.identity = {"dataset": "built", "split": split}

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        from retfm_jax.data.records import ImageRecord

        number = self._first + index
        labels = np.array(self._labels[index], np.int8)
        return ImageRecord(str(number), f"P{number // 2}", b"x", {}, (), (), labels)


def opening(monkeypatch, **splits):
    """Lets `open_splits` find these splits of a built dataset, and counts what is read."""
    read = []

    def open_splits(name, wanted, data_dir, reading=None):
        for split in wanted:
            if split not in splits:
                raise UserError(f"no split {split}")
            read.append(split)
        return {split: splits[split] for split in wanted}

    monkeypatch.setattr(labeled, "open_splits", open_splits)
    monkeypatch.setattr(labeled, "holds_records", lambda *_: True)
    return read


def test_findings_of_a_built_dataset_keep_what_is_unknown(monkeypatch):
    rows = [[1, 0, -1], [1, 1, -1], [0, 0, -1], [-1, -1, -1], [0, 1, -1]] * 20
    opening(monkeypatch, train=Built("train", rows), test=Built("test", rows, 1000))
    data = open_labeled(DataConfig(dataset="built"), ALL)
    assert data.classes == ("a", "b")  # nobody shows c
    assert data.outcome == "findings"
    assert len(data.sources["test"]) == 80
    assert len(data.sources["train"]) + len(data.sources["validation"]) == 80
    patients = [set(source.patients) for source in data.sources.values()]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert any("20 have no labels" in sentence for sentence in data.said)
    assert any("12.5% of training" in sentence for sentence in data.said)
    np.testing.assert_allclose(data.sources["test"].prevalence, [0.5, 0.5])
    one = open_labeled(DataConfig(dataset="built", outcome="exclusive"), ALL).sources["test"]
    assert len(one) == 40
    assert (one.labels.sum(1) == 1).all()


def test_official_validation_stays_and_folds_divide_it_with_training(monkeypatch):
    rows = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]] * 10
    splits = {
        name: Built(name, rows, 100 * number)
        for number, name in enumerate(("train", "validation", "test"))
    }
    opening(monkeypatch, **splits)
    data = open_labeled(DataConfig(dataset="built"), ALL)
    assert data.outcome == "exclusive"
    assert [len(data.sources[split]) for split in ALL] == [40, 40, 40]
    assert len(open_labeled(DataConfig(dataset="built")).sources["train"]) == 40
    held = []
    for number in range(4):
        folded = open_labeled(DataConfig(dataset="built", fold=(number, 4)), ALL).sources
        assert len(folded["train"]) == 60
        assert len(folded["test"]) == 40
        assert {r.record_id for r in map(folded["test"].__getitem__, range(3))} <= {
            str(number) for number in range(200, 240)
        }
        held += folded["validation"].patients
    assert len(held) == 80
    assert len(set(held)) == 40


def test_labels_of_a_million_are_arrays_and_nothing_is_read(monkeypatch):
    """A source of files tells labels and patients without opening one."""
    from retfm_jax.data.class_files import FileSource, LabeledFile

    count = 100_000
    files = [
        LabeledFile(f"/nowhere/{n}", f"{n}", (("a", "b")[n % 2],), f"P{n // 2}")
        for n in range(count)
    ]
    source = FileSource("many", "train", ("a", "b"), files, patients_known=True)
    monkeypatch.setattr(labeled, "open_splits", lambda *_: {"train": source})
    monkeypatch.setattr(labeled, "holds_records", lambda *_: False)
    data = open_labeled(DataConfig(dataset="many"))
    assert data.sources["train"].labels.shape == (count, 2)
    assert data.sources["train"].labels.nbytes == 2 * count
    np.testing.assert_allclose(data.sources["train"].prevalence, 0.5)
