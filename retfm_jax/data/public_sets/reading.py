"""Images of a public set's release: where each lies, what it shows, who its patient is."""

import dataclasses
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from retfm_jax.data import photographs
from retfm_jax.data.building.splits import split_name
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.cells import is_empty, same_name
from retfm_jax.data.image_files import folded
from retfm_jax.data.importing import spreadsheets, tables
from retfm_jax.data.public_sets.cells import NAMED, filled, fold
from retfm_jax.data.public_sets.description import ABSENT, NOT, PRESENT, Label, Part, PublicSet
from retfm_jax.data.public_sets.layouts import Tree, choose, table_of
from retfm_jax.data.public_sets.mask_files import MaskFault, find_masks
from retfm_jax.errors import UserError
from retfm_jax.files import Path

#: What spreadsheet programs make of long numbers, and of names such as "12e5".
_REWRITTEN = re.compile(r"\d+(\.\d+)?E[+-]?\d+", re.IGNORECASE)
_BETWEEN = re.compile(r"[\s,;]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Photograph:
    """Image of a release.

    Attributes:
      relative: its path below the release's folder, as the disk spells it; where it is not there,
        as the table does.
      name: the same without what differs between copies of a release: folders that an archive put
        in between, or places in which a table's images may lie.
      found: whether it is there.
      file, row: the table and the line that name it; the file itself and 0 without a table.
      cells: what is said of it, by column in lower case.
      split: "train", "validation" or "test"; None where nobody says it.
      patient: "" where no column says it.
      masks: structure -> path of its mask below the release's folder, "" where it is known to be
        absent; no entry where nobody looked for it.
      field: path of the mask of the field of view; "" where there is none.
    """

    relative: str
    name: str
    found: bool
    file: str
    row: int
    cells: Mapping[str, str]
    split: str | None
    patient: str
    masks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    field: str = ""


@dataclasses.dataclass(frozen=True)
class Release:
    """A release as it was read.

    Attributes:
      folder: in which its layout begins.
      layout: name of it.
      images: how many are published in this layout, of all or by split.
      photographs: in the order of its tables and files.
      faults: rows without an image or with an impossible split: file, row, what is wrong.
      problems: of its tables.
      passed_over: files that are no photographs, by reason.
      sentences: for the user.
      mask_faults: masks that are missing, or have no image.
    """

    folder: Path
    layout: str
    images: int | Mapping[str, int] | None
    photographs: list[Photograph]
    faults: list[tuple[str, int, str]]
    problems: ProblemLog
    passed_over: Mapping[str, Sequence[str]]
    sentences: list[str]
    mask_faults: list[MaskFault] = dataclasses.field(default_factory=list)


def read(
    described: PublicSet,
    folder: Path,
    *,
    labels: Collection[str] | None = None,
    layouts: Collection[str] = (),
    follow_links: bool = False,
) -> Release:
    """Reads the tables and lists the images of a release.

    Args:
      described: the set.
      folder: of the release, or up to two folders above it.
      labels: names of those whose columns every table has to have; None: all of the set.
      layouts: names of those that count; all where there are none.
      follow_links: whether links may lead out of the release.

    Raises:
      UserError: no layout fits, or a table cannot be read or lacks a column.
    """
    layout, tree, others = choose(described, folder, layouts)
    wanted = [each for each in described.labels.values() if labels is None or each.name in labels]
    images = layout.images if layout.images is not None else described.images
    release = Release(tree.folder, layout.name, images, [], [], ProblemLog(), {}, [])
    passed_over = []
    for part in layout.parts:
        if part.files is not None:
            passed_over.append(_read_files(described, part, tree, release, follow_links))
        elif (name := table_of(tree, part)) is not None:
            _read_table(described, wanted, part, tree, tree.folder / name, release)
        else:
            release.sentences.append(f"{part.table[0]} is not there: its images are left out")
    if len(described.layouts) > 1:
        release.sentences.append(f"read in the layout {layout.name!r} of {described.name}")
        for other in others:
            release.sentences.append(
                f"{folder} holds the layout {other!r} as well, which is not read: to read it, give "
                "a folder with its files alone"
            )
    if described.masks:
        _add_masks(described, tree, release)
    over = photographs.merged(*passed_over)
    said = {name for names in over.values() for name in names}
    release.sentences.extend(_unread(tree, release, said))
    return dataclasses.replace(release, passed_over=over)


def _unread(tree: Tree, release: Release, passed_over: Collection[str]) -> list[str]:
    """Says which photographs no table and no pattern of the layout speaks of."""
    read = {each.relative for each in release.photographs}
    read |= {fault.file for fault in release.mask_faults}
    for each in release.photographs:
        read |= {*each.masks.values(), each.field}
    others = [
        name
        for name in tree.names
        if name not in read
        and name not in passed_over
        and os.path.splitext(name)[1].lower() in photographs.PHOTOGRAPH_SUFFIXES
        and not photographs.named_as_annotation(name)
    ]
    if not others:
        return []
    first = ", ".join([*others[:3], *["..."] * (len(others) > 3)])
    return [f"left out, for nothing in this layout speaks of them: {len(others)} images ({first})"]


def _respelled(tree: Tree, missing: Sequence[str]) -> list[str]:
    """Says which missing names look like numbers that a spreadsheet program has rewritten."""
    stems = [posixpath.splitext(posixpath.basename(name))[0] for name in missing]
    numbers = {stem for stem in stems if _REWRITTEN.fullmatch(stem)}
    if any(stem.isdigit() for stem in stems):
        there = (posixpath.splitext(posixpath.basename(name))[0] for name in tree.names)
        without = {stem.lstrip("0") or "0" for stem in there if stem.startswith("0")}
        numbers |= {stem for stem in stems if stem.isdigit() and stem in without}
    if not numbers:
        return []
    return [
        f"{len(numbers)} names of images look like numbers that a spreadsheet program rewrote ("
        f"{', '.join(sorted(numbers)[:3])}): take the table as it was downloaded"
    ]


def _add_masks(described: PublicSet, tree: Tree, release: Release) -> None:
    """Finds the masks of all images."""
    images = {each.relative: each.cells for each in release.photographs}
    found = find_masks(described, tree, images)
    for index, each in enumerate(release.photographs):
        drawn = found.of[each.relative]
        release.photographs[index] = dataclasses.replace(each, masks=drawn.masks, field=drawn.field)
    release.mask_faults.extend(found.faults)
    release.sentences.extend(found.sentences)


def labels_of(label: Label, cells: Mapping[str, str]) -> tuple[str, ...] | None:
    """Names the conditions that an image shows by a label.

    Args:
      label: one of the set.
      cells: of the image, by column in lower case.

    Returns:
      one of its classes, or the findings that are there; None where nobody knows.

    Raises:
      ValueError: a cell holds no code of the label.
    """
    if label.findings:
        return _findings(label, cells)
    column, code = next(
        (
            (column, cell)
            for column in label.columns
            if not is_empty(cell := cells.get(fold(column), ""))
        ),
        ("", ""),
    )
    if not column or same_name(code, label.unknown) is not None:
        return None
    for name, codes in label.classes.items():
        if same_name(code, codes) is not None:
            return (name,)
    known = ", ".join(codes[0] for codes in label.classes.values())
    raise ValueError(f"{column} is {code!r}, none of {known}")


def _findings(label: Label, cells: Mapping[str, str]) -> tuple[str, ...] | None:
    there = []
    for name, columns in label.classes.items():
        said = [_is_there(column, cells) for column in columns]
        if any(each is None for each in said):
            return None
        if any(said):
            there.append(name)
    return tuple(there)


def _is_there(column: str, cells: Mapping[str, str]) -> bool | None:
    plain = column.removeprefix(NOT)
    cell = cells.get(fold(plain), "")
    if is_empty(cell):
        return None
    present, absent = same_name(cell, PRESENT), same_name(cell, ABSENT)
    if present is None and absent is None:
        raise ValueError(f"{plain} is {cell!r}, neither 0 nor 1")
    return (present is not None) != (plain != column)


def codes_of(described: PublicSet, cells: Mapping[str, str]) -> dict[str, str]:
    """Picks the cells of an image that the labels of its set are read from, as they are written.

    Args:
      described: the set.
      cells: of the image, by column in lower case.
    """
    return {column: cells.get(fold(column), "") for column in described.columns}


def record_id(described: PublicSet, photograph: Photograph) -> str:
    """Names the record of an image.

    Args:
      described: the set, with its pattern of names.
      photograph: the image.
    """
    if not described.record:
        return photograph.name
    cells = {**photograph.cells, "split": photograph.split or ""}
    return filled(described.record, cells)


def _read_files(
    described: PublicSet, part: Part, tree: Tree, release: Release, follow_links: bool
) -> Mapping[str, Sequence[str]]:
    pattern = part.files
    assert pattern is not None
    listing = photographs.find(
        tree.folder,
        wanted=lambda name: pattern.fullmatch(name) is not None,
        links_leave=follow_links,
    )
    for relative in listing.photographs:
        match = pattern.fullmatch(relative)
        groups = match.groupdict() if match else {}
        cells = {name: text or "" for name, text in groups.items()}
        name = relative[len(cells.pop("above", "")) :]
        _add(described, part, release, relative, name, True, relative, 0, cells)
    return listing.passed_over


def _read_table(
    described: PublicSet,
    labels: Sequence[Label],
    part: Part,
    tree: Tree,
    path: Path,
    release: Release,
) -> None:
    table = _table(part, path, release.problems)
    _require(described, labels, part, table)
    last = part.image[0]
    absent = [folded(name) for name in described.absent]
    left_out, missing = [], []
    for line in table.rows:
        cells = {**line.cells, **part.values}
        for derived in described.derived:
            if derived.source != "path":
                cells[derived.column] = _derive(derived.find, cells.get(fold(derived.source), ""))
        if not all(find.search(cells.get(fold(name), "")) for name, find in part.where.items()):
            continue
        if any(is_empty(cells.get(fold(name), "")) for name in NAMED.findall(part.image[0])):
            release.faults.append((str(path), line.row, "it names no image"))
            continue
        # What was right for the last image is looked at first.
        relative = None
        for pattern in dict.fromkeys((last, *part.image)):
            relative = tree.find(_written(pattern, cells))
            if relative is not None:
                last = pattern
                break
        written = _written(part.image[0], cells).removeprefix("**/")
        if relative is None and folded(written.rpartition("/")[2]) in absent:
            left_out.append(written)
            continue
        spelled = written if relative is None else relative
        if relative is None:
            missing.append(written)
        found = relative is not None
        _add(described, part, release, spelled, written, found, str(path), line.row, cells)
    release.sentences.extend(_respelled(tree, missing))
    if left_out:
        release.sentences.append(
            f"left out, as the release is known to lack them: {', '.join(left_out)}"
        )


def _written(pattern: str, cells: Mapping[str, str]) -> str:
    return filled(pattern, cells).replace("\\", "/")


def _derive(find: re.Pattern[str], cell: str) -> str:
    match = find.search(cell)
    return "" if match is None else match[find.groups and 1] or ""


def _add(
    described: PublicSet,
    part: Part,
    release: Release,
    relative: str,
    name: str,
    found: bool,
    file: str,
    row: int,
    cells: Mapping[str, str],
) -> None:
    """Adds an image, or a fault where its split is none."""
    cells = {**cells, **part.values}
    for derived in described.derived:
        if derived.source == "path" or row == 0:
            source = relative if derived.source == "path" else cells.get(fold(derived.source), "")
            cells[derived.column] = _derive(derived.find, source)
    split = part.split
    if split is None and (said := cells.get("split", "")):
        split = split_name(said)
        if split is None:
            release.faults.append((file, row, f"{said!r} is no split"))
            return
    patient = cells.get("patient", "")
    patient = "" if is_empty(patient) else patient
    release.photographs.append(Photograph(relative, name, found, file, row, cells, split, patient))


def _table(part: Part, path: Path, problems: ProblemLog) -> tables.Table:
    """Reads a table whose columns are in lower case; those without a name are numbered."""
    if part.columns:
        return _nameless(part, path, problems)
    if path.suffix.lower() in (".xlsx", ".xlsm"):
        try:
            header, rows = spreadsheets.read(path, problems)
        except ImportError as error:
            raise UserError(f"{path}: to read a spreadsheet `pip install openpyxl`") from error
        grid = [(0, header), *rows]
    elif part.header is not None:
        grid = list(enumerate((re.split("[,;\t]", line) for line in _lines(path)), start=1))
    else:
        table = tables.read_csv(path, problems)
        names = [fold(name) for name in table.columns]
        rows = [
            tables.TableRow(line.row, dict(zip(names, line.cells.values(), strict=True)))
            for line in table.rows
        ]
        return tables.Table(path, tuple(names), rows)
    start = 0
    if part.header is not None:
        wanted = fold(part.header)
        start = next((n for n, (_, row) in enumerate(grid) if wanted in map(fold, row)), None)
        if start is None:
            raise UserError(f"{path} has no row of columns with {part.header!r}")
    names = [fold(name) or f"column {n}" for n, name in enumerate(grid[start][1], start=1)]
    found = []
    for number, row in grid[start + 1 :]:
        # A merged name stands above several columns: the first one is meant.
        cells = dict(reversed(list(zip(names, [cell.strip() for cell in row], strict=False))))
        found.append(tables.TableRow(number, cells))
    return tables.Table(path, tuple(dict.fromkeys(names)), found)


def _nameless(part: Part, path: Path, problems: ProblemLog) -> tables.Table:
    """Reads lines of as many texts as a part names columns, divided by blanks, commas or tabs."""
    names = tuple(map(fold, part.columns))
    found = []
    for number, line in enumerate(_lines(path), start=1):
        cells = [cell for cell in _BETWEEN.split(line.strip()) if cell]
        if not cells:
            continue
        if len(cells) != len(names):
            what = f"{len(cells)} texts where {len(names)} are wanted ({', '.join(part.columns)})"
            problems.unreadable(path, number, what, cells[0])
            continue
        found.append(tables.TableRow(number, dict(zip(names, cells, strict=True))))
    return tables.Table(path, names, found)


def _lines(path: Path) -> Iterator[str]:
    return iter(tables.read_text(path).splitlines())


def _require(
    described: PublicSet, labels: Sequence[Label], part: Part, table: tables.Table
) -> None:
    """Refuses a table that lacks a column of its images or of a label."""
    made = {*map(fold, part.values), *(each.column for each in described.derived)}
    images = {fold(name) for name in NAMED.findall(part.image[0])}
    images |= {fold(each.source) for each in described.derived if {each.column} & images}
    spelled = {fold(name): name for name in described.columns}
    spelled |= {fold(name): name for name in NAMED.findall(part.image[0])}
    wanted = [name for name in images if name not in made and name != "path"]
    for label in labels:
        groups = list(label.classes.values()) if label.findings else [label.columns]
        for columns in groups:
            names = [fold(column.removeprefix(NOT)) for column in columns]
            if not {*names} & made:
                wanted += ["|".join(names)] if not label.findings else names
    named = ["|".join(spelled.get(name, name) for name in each.split("|")) for each in wanted]
    columns = tuple(spelled.get(name, name) for name in table.columns)
    tables.require_columns(dataclasses.replace(table, columns=columns), named)
