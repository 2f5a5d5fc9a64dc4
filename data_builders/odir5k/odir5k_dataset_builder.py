"""TFDS builder of ODIR-5K as it is found: Kaggle's release or the original annotation table."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from retfm_jax.data.building.builder import RowsBuilder
from retfm_jax.data.building.rows import FilePicture, PatientRow, Row, compose_report
from retfm_jax.data.cells import identifier, is_empty, same_name, text
from retfm_jax.data.importing import tables
from retfm_jax.errors import UserError
from retfm_jax.knowledge.vocabulary import Condition, load_vocabulary

#: Label -> the columns that mean it: the full names, and the letters of the original table.
_LABEL_COLUMNS = {
    "normal": ("Normal", "N"),
    "diabetic_retinopathy": ("Diabetes", "D"),
    "glaucoma": ("Glaucoma", "G"),
    "cataract": ("Cataract", "C"),
    "amd": ("Age related Macular Degeneration", "A"),
    "hypertensive_retinopathy": ("Hypertension", "H"),
    "pathologic_myopia": ("Pathological Myopia", "M"),
    "other_abnormality": ("Other diseases/abnormalities", "O"),
}
_COLUMNS = (
    "ID",
    "Left-Fundus",
    "Right-Fundus",
    "Left-Diagnostic Keywords",
    "Right-Diagnostic Keywords",
    *("|".join(names) for names in _LABEL_COLUMNS.values()),
)

#: Keywords that speak of the picture and not of the eye.
_OF_THE_PICTURE = re.compile(r"\b(image|photograph\w*|dust)\b")
_TABLES = ("full_df.csv", "data.csv", "*nnotation*.csv", "data.xlsx", "*nnotation*.xlsx")
_FOLDERS = ("preprocessed_images", "Training Images", "*Training*", "*Images*", "*images*")
#: Folders of the official division (OIA-ODIR), their splits here, and their patients as published.
_OFFICIAL = {
    "training set": ("train", 3500),
    "off-site test set": ("validation", 500),
    "on-site test set": ("test", 1000),
}


class Builder(RowsBuilder):
    """Patients with both eyes; see README.md beside this file."""

    pkg_dir_path = epath.Path(__file__).parent
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download ODIR-5K from https://www.kaggle.com/datasets/andrewmvd/ocular-disease-recognition-odir5k
    (or the original release) and give the folder that holds full_df.csv and preprocessed_images; or
    OIA-ODIR from https://github.com/nkicsl/OIA-ODIR, and give the folder that holds its three sets.
    """

    def label_names(self) -> Sequence[str]:
        return tuple(_LABEL_COLUMNS)

    def read_rows(self, source: Path) -> list[Row]:
        official = _official(source)
        if not official:
            path = _find(source, _TABLES, "annotation table (full_df.csv)")
            root = _find(source, _FOLDERS, "folder of images (preprocessed_images)")
            return self._rows(path, root)
        rows: list[Row] = []
        for name, (split, published) in _OFFICIAL.items():
            if name not in official:
                said = f"OIA-ODIR's folder {name!r} is not there: no patient is in {split}"
                self.problems.notes.append(said)
                continue
            folder = official[name]
            found = self._rows(_annotation(folder), _child(folder, "images") or folder)
            rows += [dataclasses.replace(row, split=split) for row in found]
            if len(found) != published:
                said = f"OIA-ODIR publishes {published} patients in {name!r}, {len(found)} are here"
                self.problems.notes.append(said)
        return rows

    def _rows(self, path: Path, root: Path) -> list[Row]:
        """Patients of a table whose photographs lie in a folder."""
        if path.suffix == ".xlsx":
            table = tables.read_xlsx(path, self.problems)
        else:
            table = tables.read_csv(path, self.problems)
        tables.require_columns(table, _COLUMNS)
        # A row per image: then as many rows as the patient has eyes. A row per patient: two eyes.
        rows_of = collections.Counter(line.cells["ID"] for line in table.rows)
        per_image = max(rows_of.values(), default=1) > 1
        patients: dict[str, PatientRow] = {}
        for line in table.rows:
            try:
                eyes = rows_of[line.cells["ID"]] if per_image else 2
                said = {column: text(cell) for column, cell in line.cells.items()}
                row = _patient(said, path, line.row, root, eyes)
            except ValueError as error:
                self.problems.unreadable(path, line.row, str(error), line.cells["ID"])
                continue
            known = patients.setdefault(row.record_id, row)
            if _content(known) != _content(row):
                self.problems.add(
                    "duplicate_id", row,
                    f"says something else of the patient than row {known.row}",
                    "row left out",
                )  # fmt: skip
        return list(patients.values())


def _find(source: Path, patterns: Sequence[str], what: str) -> Path:
    """The first match, the source itself before its folders: archives nest them variously."""
    wants_folder = patterns is _FOLDERS
    for pattern in patterns:
        for depth in ("", "*/", "*/*/"):
            for path in sorted(source.glob(depth + pattern)):
                if path.is_dir() == wants_folder:
                    return path
    raise UserError(
        f"{source} holds no {what}; give the folder of the unpacked ODIR-5K release as source"
    )


def _child(folder: Path, name: str) -> Path | None:
    """The folder in a folder that is called so, whatever its letter case and blanks."""
    for child in sorted(folder.iterdir()):
        if child.is_dir() and child.name.casefold().replace("_", " ") == name:
            return child
    return None


def _official(source: Path) -> dict[str, Path]:
    """The sets of the official division that hold annotations, as little deep as there are any."""
    for depth in ("", "*/", "*/*/"):
        for folder in [source] if not depth else sorted(source.glob(depth)):
            sets = {name: _child(folder, name) for name in _OFFICIAL} if folder.is_dir() else {}
            found = {
                name: child
                for name, child in sets.items()
                if child is not None and _child(child, "annotation") is not None
            }
            if found:
                return found
    return {}


def _annotation(folder: Path) -> Path:
    """The table of a set of the official division: the English one of two."""
    below = _child(folder, "annotation")
    assert below is not None  # `_official` takes no other folder
    every = [path for path in sorted(below.iterdir()) if path.suffix in (".xlsx", ".csv")]
    english = [path for path in every if "english" in path.name.casefold()]
    for path in english or every:
        if not path.name.startswith(("~$", ".")):
            return path
    raise UserError(
        f"{below} holds no table (the English annotation, .xlsx or .csv): unpack it there"
    )


def _content(row: PatientRow) -> tuple:
    return row.left, row.right, row.report, row.labels


def _patient(
    cells: Mapping[str, str], path: Path, number: int, root: Path, eyes: int
) -> PatientRow:
    patient = identifier(cells["ID"])
    if not patient:
        raise ValueError("no patient ID")
    said, pictures, there = {}, {}, []
    for eye in ("Left", "Right"):
        said[eye] = _keywords(cells[f"{eye}-Diagnostic Keywords"])
        name = cells[f"{eye}-Fundus"]
        pictures[eye] = FilePicture(str(root), name) if name else None
        if name and (root / name).exists():
            there.append(eye)
    if len(there) == eyes == 1:
        # Kaggle's table names the missing eye of a one-eyed patient, too: no fault of the copy.
        pictures = {eye: pictures[eye] if eye in there else None for eye in pictures}
    labels = tuple(label for label in _LABEL_COLUMNS if _is_present(cells, label))
    of_eyes = {eye: _eye_labels(words) for eye, words in said.items()}
    found = of_eyes["Left"] | of_eyes["Right"]
    # The source labels patients. What the keywords say of each eye is believed where both eyes
    # together say what the source says of the patient.
    agree = (found - {"normal"} or found) == set(labels)
    english = {eye: _report(words, "en") for eye, words in said.items()}
    report = compose_report(english["Left"], english["Right"])
    chinese = {eye: _report(words, "zh") for eye, words in said.items()}
    if all(bool(chinese[eye]) == bool(english[eye]) for eye in said):
        report |= compose_report(chinese["Left"], chinese["Right"])
    return PatientRow(
        record_id=patient,
        file=str(path),
        row=number,
        left=pictures["Left"],
        right=pictures["Right"],
        report=report,
        left_report=english["Left"] | chinese["Left"],
        right_report=english["Right"] | chinese["Right"],
        labels=labels,
        left_labels=tuple(of_eyes["Left"]) if agree else None,
        right_labels=tuple(of_eyes["Right"]) if agree else None,
    )


def _keywords(text: str) -> tuple[str, ...]:
    words = (re.sub(r"\s+", " ", word).strip() for word in re.split("[,，;；]", text))
    return tuple(dict.fromkeys(word for word in words if not is_empty(word)))


def _condition(word: str) -> Condition | None:
    """What a keyword means, None where the vocabulary does not know it."""
    # The annotators leave the word out, but mean nothing else by proliferative retinopathy.
    word = re.sub(r"proliferative retinopathy", "proliferative diabetic retinopathy", word)
    # "Suspected glaucoma" stands in the vocabulary as it stands in charts.
    word = re.sub(r"^suspected (.+)", r"\1 suspect", word)
    return load_vocabulary().find(word)


def _report(words: Sequence[str], language: str) -> dict[str, str]:
    """The keywords as written, or by their Chinese names where each of them has one."""
    if language == "en":
        return {"en": ", ".join(words)} if words else {}
    conditions = [_condition(word) for word in words if not _OF_THE_PICTURE.search(word)]
    known = [condition for condition in conditions if condition is not None]
    if not known or len(known) < len(conditions):
        return {}
    return {"zh": "、".join(dict.fromkeys(condition.name["zh"] for condition in known))}


def _eye_labels(words: Sequence[str]) -> set[str]:
    """The classes that an eye's keywords mean; "normal" only where nothing else is said."""
    vocabulary = load_vocabulary()
    labels = set()
    for word in words:
        if _OF_THE_PICTURE.search(word):
            continue
        condition = _condition(word)
        means = {"other_abnormality"}
        if condition is not None:
            # A suspicion counts as its disease, as the source's own labels have it.
            own = {condition.id, condition.suspicion_of, *vocabulary.ancestors(condition.id)}
            means = own & set(_LABEL_COLUMNS) or means
        labels |= means
    return labels - {"normal"} or labels


def _is_present(cells: Mapping[str, str], label: str) -> bool:
    column = next(name for name in _LABEL_COLUMNS[label] if name in cells)
    value = same_name(cells[column], ("0", "1"))
    if value is None:
        raise ValueError(f"column {column!r} is {cells[column]!r}, not 0 or 1")
    return value == "1"
