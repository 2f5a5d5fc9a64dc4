"""Descriptions of public data sets: their layouts, labels, splits, counts and terms, as data.

A description is one YAML file, `data_builders/NAME.yaml`. Its entries::

    title          one line: what the set is
    source         who published it, with the article that its users cite
    licence, url   its terms of use, and where its owners give it
    folder         where its release lies below a data folder; or several places, looked at in order
    modality       cfp (where nothing is said), ffa, oct: what prompts call the images
    about          what its users should know, in Markdown
    unverified     sentences on what nobody could check yet
    images         how many are published: of all, or by split ("any": nobody says)
    versions       other totals that are known -> what they are
    shares         of the splits where the release has none: train, validation, test
    pairs          a table of the release that pairs the eyes of patients: file, left, right
    patients_apart `true`: the release's own splits share patients, who are left out of training
                   where they are in the test set or in validation, and of validation where they are
                   in the test set
    absent         files that tables name and the release lacks, as is known
    record         how records are called, such as "{split}/{name}"; by default by their files
    derive         column -> {from, find}: what a regular expression finds in another column or in
                   the file's path ("path")
    labels         name -> label, see below
    masks          name of a structure -> mask, see below
    field          the mask of the field of view, where the release has it
    layouts        name -> layout; the first one that fits is read
    tasks          name of a task -> label, see below

A label has `column` (or several, of which the first filled one counts) and `classes`, our condition
-> how the source writes it (one code or a list); `ordered: true` for grades; `unknown`: codes that
mean that nobody knows; `images`: class -> how many there are in the whole release, with `counted`,
who says so. Or it has `findings`, our condition -> its column of 0 and 1 (or several);
"not NAME" is the opposite of a column.

A mask has `file`, the path of an image's mask (or several), with columns in braces, `**/` where any
folder may hold it. What its values mean: nothing is said of masks of 0 and one other value, else
`values` are the gray values that show the structure (128-255) and `unknown` those of which nobody
knows. `missing`: what an image without a mask means: "fault" (where nothing is said), "absent" or
"unknown". `where`, column -> what its cells must match, else nobody looked for the structure;
`absent`, the same of images on which it is known to be absent.

A layout is a list of parts, or has `parts` and its own `images`. A part has either `table` (path of
a CSV, text or XLSX file, or several) and `image`, the path of a row's image (or several), with
columns in braces, `**/` where any folder may hold it; `header`, where rows stand above the one that
holds this name; `columns`, where the table names none; `where`, column -> what its cells must
match. Or it has `files`, a regular expression of the paths of images below the release, whose named
groups are columns; what its group `above` matches, folders that archives put in between, does not
belong to an image's name. Besides: `split`, `set` (columns that are the same everywhere) and
`optional: true`. Columns `split` and `patient` say what they are called. Letter case of columns and
of files does not count.

A task has `label`, or `masks`: the structures that it asks for. It may have `layouts` (those that
it takes), `folder`, `images`, `shares`, `classes` (some of the label's), `only` (a regular
expression of the names of its images), `per_class` (at most so many of each, by the order of their
names); or it is one on a built dataset, see `data.tasks`.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from retfm_jax.data import masks
from retfm_jax.data.building.splits import SPLITS, split_name
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.knowledge.prompts import MODALITIES

#: Of splits where a release has none, unless its description has others.
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
#: How tables write that a finding is there, and that it is not.
PRESENT, ABSENT = ("1", "yes", "true", "positive"), ("0", "no", "false", "negative")
#: In front of a column: the finding is there where the column says no.
NOT = "not "


@dataclasses.dataclass(frozen=True)
class Label:
    """What a set says of its images in one respect.

    Attributes:
      name: of the label.
      columns: that hold its codes, of which the first filled one counts; () of findings.
      classes: our condition -> its codes; of findings, its columns of 0 and 1.
      findings: whether each condition is there or not, instead of exactly one of them.
      ordered: whether the classes are grades, from the lowest on.
      unknown: codes that mean that nobody knows.
      images: how many of each class the whole release holds, {} where nobody says.
      counted: who says so.
    """

    name: str
    columns: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    findings: bool = False
    ordered: bool = False
    unknown: tuple[str, ...] = ()
    images: Mapping[str, int] = dataclasses.field(default_factory=dict)
    counted: str = ""

    @property
    def read(self) -> tuple[str, ...]:
        """Columns that the label is read from."""
        if not self.findings:
            return self.columns
        named = (column.removeprefix(NOT) for each in self.classes.values() for column in each)
        return tuple(dict.fromkeys(named))


@dataclasses.dataclass(frozen=True)
class Part:
    """Images of a layout that are found in one way; see the module.

    Attributes:
      split: of all of them, None where columns say it or nobody does.
      table, image: the tables that may be there, of which the first one is read, and the paths that
        a row's image may have.
      header: a name in the row of columns, where that is not the table's first row; columns: names,
        where the table has none; where: column -> what its cells must match.
      files: matches the paths of images below the release; None of a table.
      values: columns that are the same for all images.
      optional: whether a release may lack it.
    """

    split: str | None = None
    table: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    header: str | None = None
    columns: tuple[str, ...] = ()
    where: Mapping[str, re.Pattern[str]] = dataclasses.field(default_factory=dict)
    files: re.Pattern[str] | None = None
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class MaskFiles:
    """Masks of one structure, or of the field of view; see the module.

    Attributes:
      file: paths that an image's mask may have.
      codes: meaning of its values.
      missing: what an image without one means.
      where: column -> what its cells must match; else nobody looked for the structure.
      absent: column -> what its cells match where the structure is known to be absent.
    """

    file: tuple[str, ...]
    codes: masks.Codes = masks.BINARY
    missing: Literal["fault", "absent", "unknown"] = "fault"
    where: Mapping[str, re.Pattern[str]] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, re.Pattern[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way in which a release lies on disk.

    Attributes:
      name: of the layout.
      parts: of which all lie in one folder, optional ones aside.
      images: how many there are in this layout, of all or by split; None as in all layouts.
    """

    name: str
    parts: tuple[Part, ...]
    images: int | Mapping[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class Derived:
    """A column that is found in another one.

    Attributes:
      column: its name.
      source: the column that is looked into, or "path".
      find: its one group, else all that it matches, is the cell; "" where it matches nothing.
    """

    column: str
    source: str
    find: re.Pattern[str]


@dataclasses.dataclass(frozen=True)
class PublicSet:
    """A public data set; its attributes are the entries of its description, see the module.

    Attributes:
      name: of the set, which is the name of its file.
      title, source, licence, url, modality, about: texts.
      folders: where its release may lie below a data folder, in the order in which they are tried.
      unverified: sentences.
      images, versions, shares: of its counts and splits; `shares` where the release has none.
      pairs: of a table of pairs, {} where there is none.
      patients_apart: whether patients whom the release's splits share stay in one of them.
      absent: names of files that the release lacks.
      record: how records are called, "" by their files.
      derived, labels, masks, field, layouts: how it is read.
      tasks: name -> entries of the task.
    """

    name: str
    title: str
    source: str
    licence: str
    url: str
    folders: tuple[str, ...]
    modality: str = "cfp"
    about: str = ""
    unverified: tuple[str, ...] = ()
    images: int | Mapping[str, int] | None = None
    versions: Mapping[int, str] = dataclasses.field(default_factory=dict)
    shares: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(SHARES))
    pairs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    patients_apart: bool = False
    absent: tuple[str, ...] = ()
    record: str = ""
    derived: tuple[Derived, ...] = ()
    labels: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    masks: Mapping[str, MaskFiles] = dataclasses.field(default_factory=dict)
    field: MaskFiles | None = None
    layouts: tuple[Layout, ...] = ()
    tasks: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Conditions of all labels, each once."""
        return tuple(dict.fromkeys(name for each in self.labels.values() for name in each.classes))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that its labels are read from, each once."""
        return tuple(dict.fromkeys(name for each in self.labels.values() for name in each.read))


_TEXTS = ("title", "source", "licence", "url")


def parse(said: Any, name: str, where: str) -> PublicSet:
    """Makes a set of its description.

    Args:
      said: what its YAML file holds: texts, lists and mappings.
      name: of the set.
      where: the file, for messages.

    Raises:
      UserError: the description lacks an entry, or has an unknown or impossible one.
    """
    known = {field.name for field in dataclasses.fields(PublicSet)}
    said = _mapping(said, where, {*known - {"name", "derived", "folders"}, "derive", "folder"})
    for entry in _TEXTS:
        if not isinstance(said.get(entry), str):
            raise UserError(f"{where}: `{entry}` is missing; it is a text")
    modality = said.get("modality", "cfp")
    if modality not in MODALITIES:
        raise UserError(f"{where}: modality {modality!r}; there are {', '.join(MODALITIES)}")
    labels = {
        key: _label(key, value, f"{where}: label {key}")
        for key, value in _mapping(said.get("labels", {}), f"{where}: labels").items()
    }
    layouts = tuple(
        _layout(key, value, f"{where}: layout {key}")
        for key, value in _mapping(said.get("layouts", {}), f"{where}: layouts").items()
    )
    drawn = {
        key: _mask(value, f"{where}: mask {key}")
        for key, value in _mapping(said.get("masks", {}), f"{where}: masks").items()
    }
    shares = _mapping(said.get("shares", SHARES), f"{where}: shares", SPLITS)
    return PublicSet(
        name=name,
        **{entry: " ".join(said[entry].split()) for entry in _TEXTS},
        folders=_folders(said.get("folder"), where),
        modality=modality,
        about=said.get("about", ""),
        unverified=_texts(said.get("unverified", []), f"{where}: unverified"),
        images=images_of(said.get("images"), f"{where}: images"),
        versions={
            _number(total, f"{where}: versions"): what
            for total, what in _mapping(said.get("versions", {}), f"{where}: versions").items()
        },
        shares={split: float(share) for split, share in shares.items()},
        pairs=_mapping(said.get("pairs", {}), f"{where}: pairs", ("file", "left", "right")),
        patients_apart=_flag(said.get("patients_apart", False), f"{where}: patients_apart"),
        absent=_texts(said.get("absent", []), f"{where}: absent"),
        record=said.get("record", ""),
        derived=tuple(
            Derived(column, each["from"], _regex(each["find"], f"{where}: derive {column}"))
            for column, each in _mapping(said.get("derive", {}), f"{where}: derive").items()
        ),
        labels=labels,
        masks=drawn,
        field=_mask(said["field"], f"{where}: field") if "field" in said else None,
        layouts=layouts,
        tasks={
            key: _task(value, labels, drawn, layouts, f"{where}: task {key}")
            for key, value in _mapping(said.get("tasks", {}), f"{where}: tasks").items()
        },
    )


def images_of(said: Any, where: str) -> int | dict[str, int] | None:
    """Reads a published number of images, of all or by split; None where nobody says it.

    Args:
      said: a text, or a mapping of splits to texts.
      where: the entry, for messages.

    Raises:
      UserError: it is no number, or not of a split.
    """
    if said in (None, "any"):
        return None
    if not isinstance(said, dict):
        return _number(said, where)
    for split in said:
        if split not in SPLITS:
            raise UserError(f"{where}: {split!r} is no split: {', '.join(SPLITS)}")
    return {split: _number(number, where) for split, number in said.items()}


def _folders(said: Any, where: str) -> tuple[str, ...]:
    folders = _texts([] if said is None else said, f"{where}: folder")
    if not folders:
        raise UserError(f"{where}: `folder` is missing; it is a path below a data folder")
    return folders


def _flag(said: Any, where: str) -> bool:
    if str(said) not in ("true", "True", "false", "False"):
        raise UserError(f"{where}: {said!r} is neither true nor false")
    return str(said).lower() == "true"


def _number(said: Any, where: str) -> int:
    try:
        return int(said)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {said!r} is no number") from error


def _mapping(said: Any, where: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise UserError(f"{where}: {said!r} where a mapping is wanted")
    for key in said:
        if known is not None and key not in known:
            raise UserError(f"{where}: no entry `{key}`{did_you_mean(key, known)}")
    return said


def _texts(said: Any, where: str) -> tuple[str, ...]:
    """One text or a list of them."""
    said = [said] if isinstance(said, str) else said
    if not isinstance(said, list) or not all(isinstance(each, str) for each in said):
        raise UserError(f"{where}: {said!r} where a text or a list of texts is wanted")
    return tuple(said)


def _regex(said: Any, where: str) -> re.Pattern[str]:
    try:
        return re.compile(said, re.IGNORECASE)
    except (TypeError, re.error) as error:
        raise UserError(f"{where}: {said!r} is no regular expression: {error}") from error


def _is_true(said: Any, where: str) -> bool:
    if said not in ("true", "false"):
        raise UserError(f"{where}: {said!r} is not true or false")
    return said == "true"


_OF_LABEL = ("column", "classes", "findings", "ordered", "unknown", "images", "counted")


def _label(name: str, said: Any, where: str) -> Label:
    said = _mapping(said, where, _OF_LABEL)
    if ("classes" in said) == ("findings" in said):
        raise UserError(f"{where}: give `classes` with a `column`, or `findings`")
    key = "classes" if "classes" in said else "findings"
    classes = {
        condition: _texts(codes, f"{where}: {condition}")
        for condition, codes in _mapping(said[key], f"{where}: {key}").items()
    }
    codes = [code.casefold() for each in classes.values() for code in each]
    if key == "classes" and len(set(codes)) < len(codes):
        raise UserError(f"{where}: two classes have the code {max(codes, key=codes.count)!r}")
    images = _mapping(said.get("images", {}), f"{where}: images", classes)
    if bool(images) != bool(said.get("counted")):
        raise UserError(f"{where}: `images` of classes and `counted`, who says so, go together")
    return Label(
        name,
        _texts(said.get("column", []), f"{where}: column"),
        classes,
        key == "findings",
        _is_true(said.get("ordered", "false"), f"{where}: ordered"),
        _texts(said.get("unknown", []), f"{where}: unknown"),
        {condition: _number(number, f"{where}: images") for condition, number in images.items()},
        said.get("counted", ""),
    )


_OF_MASK = ("file", "values", "unknown", "missing", "where", "absent")
_MISSING = ("fault", "absent", "unknown")


def _mask(said: Any, where: str) -> MaskFiles:
    said = _mapping(said, where, _OF_MASK)
    if "file" not in said:
        raise UserError(f"{where}: it wants `file`, the path of an image's mask")
    missing = said.get("missing", "fault")
    if missing not in _MISSING:
        raise UserError(f"{where}: missing {missing!r}; there are {', '.join(_MISSING)}")
    if "unknown" in said and "values" not in said:
        raise UserError(f"{where}: `unknown` values want `values`, those that show the structure")
    conditions = {
        entry: {
            column: _regex(each, f"{where}: {column}")
            for column, each in _mapping(said.get(entry, {}), f"{where}: {entry}").items()
        }
        for entry in ("where", "absent")
    }
    present, unknown = (
        masks.interval(said[entry], f"{where}: {entry}") if entry in said else None
        for entry in ("values", "unknown")
    )
    return MaskFiles(
        _texts(said["file"], f"{where}: file"),
        masks.Codes(present, unknown),
        missing,
        **conditions,
    )


_OF_PART = (
    "split", "table", "image", "header", "columns", "where", "files", "set", "optional",
)  # fmt: skip


def _layout(name: str, said: Any, where: str) -> Layout:
    images = None
    if isinstance(said, dict):
        _mapping(said, where, ("parts", "images"))
        said, images = said.get("parts"), images_of(said.get("images"), f"{where}: images")
    if not isinstance(said, list) or not said:
        raise UserError(f"{where}: it has no parts")
    return Layout(name, tuple(_part(each, where) for each in said), images)


def _part(said: Any, where: str) -> Part:
    said = _mapping(said, where, _OF_PART)
    if ("files" in said) == ("table" in said):
        raise UserError(f"{where}: a part has `table` with `image`, or `files`")
    split = split_name(said["split"]) if "split" in said else None
    if "split" in said and split is None:
        raise UserError(f"{where}: {said['split']!r} is no split: {', '.join(SPLITS)}")
    if "table" in said and "image" not in said:
        raise UserError(f"{where}: a table wants `image`, the path of a row's image")
    conditions = _mapping(said.get("where", {}), f"{where}: where")
    return Part(
        split,
        _texts(said.get("table", []), f"{where}: table"),
        _texts(said.get("image", []), f"{where}: image"),
        said.get("header"),
        _texts(said.get("columns", []), f"{where}: columns"),
        {column: _regex(each, f"{where}: {column}") for column, each in conditions.items()},
        _regex(said["files"], f"{where}: files") if "files" in said else None,
        _mapping(said.get("set", {}), f"{where}: set"),
        _is_true(said.get("optional", "false"), f"{where}: optional"),
    )


_OF_TASK = (
    "label", "masks", "layouts", "folder", "images", "shares", "classes", "only", "per_class",
    "about",
)  # fmt: skip


def _task(
    said: Any,
    labels: Mapping[str, Label],
    drawn: Mapping[str, MaskFiles],
    layouts: Iterable[Layout],
    where: str,
) -> Mapping[str, Any]:
    if isinstance(said, dict) and "dataset" in said:  # one on a built dataset
        return said
    said = _mapping(said, where, _OF_TASK)
    structures = _texts(said.get("masks", []), f"{where}: masks")
    for name in structures:
        if name not in drawn:
            raise UserError(f"{where}: there is no mask {name!r}{did_you_mean(name, drawn)}")
    if not structures and said.get("label") not in labels:
        raise UserError(f"{where}: its `label` is one of {', '.join(labels)}")
    for name in _texts(said.get("layouts", []), f"{where}: layouts"):
        if name not in [layout.name for layout in layouts]:
            raise UserError(f"{where}: there is no layout {name!r}")
    for name in _texts(said.get("classes", []), f"{where}: classes"):
        if structures or name not in labels[said["label"]].classes:
            raise UserError(f"{where}: its label has no class {name!r}")
    if "only" in said:
        _regex(said["only"], f"{where}: only")
    if "folder" in said:
        _folders(said["folder"], where)
    return said
