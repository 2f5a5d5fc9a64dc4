"""Patients of photographs, wherever a release names them.

Two photographs of one patient are not independent: they belong into one split, and intervals count
patients. In this order a photograph's patient is

1. what a table names in a column of its own,
2. what `patient_regex` finds in its name,
3. what a table of pairs names (MESSIDOR-2's `messidor-2.csv`: left, right),
4. what its name tells, where the names of a set name eyes (`10_left`, `RET002OD`, `265_l1`,
   `left/10`), or number a patient's scans as Kermany's OCT set does (`CNV-1016042-3`). That is a
   guess, and is called one.

Where none of them knows, every photograph counts for itself, and reports say "by image".
"""

import collections
import dataclasses
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from retfm_jax import files
from retfm_jax.data import cells
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.image_files import folded
from retfm_jax.data.importing import tables
from retfm_jax.data.importing.columns import meant
from retfm_jax.errors import UserError, first_of
from retfm_jax.knowledge.laterality import IN_FILE_NAMES, SIDES

#: What is said where nobody knows.
BY_IMAGE = (
    "nobody says which photographs are of one patient: splits and intervals are by image, and two "
    "eyes of a patient may be on both sides (patient_regex finds patients in file names)"
)

#: Names of eyes are believed where they make small groups; larger ones are not patients.
_MOST_PHOTOGRAPHS = 8
#: Names that come again in another folder, as a share: above it, numbers begin anew in each.
_REPEATED = 0.05
_NAMED = 5

#: Between the parts of a name, and behind a side.
_GAP, _END = r"[ _.(（\[-]", r"[ _.()（）\[\]-]"
_EYE = re.compile(
    rf"(?P<base>.*(?:[0-9)]|[^\W_]{_GAP}|[㐀-鿿](?=[左右]))){_GAP}*(?P<side>{IN_FILE_NAMES})"
    rf"(?:[ _-]?eye)?(?P<rest>{_END}.*|[0-9]{{1,2}})?"
)
_EYE_FIRST = re.compile(rf"(?P<side>{IN_FILE_NAMES})(?:[ _-]?eye)?[ _.-]+(?P<base>.*[0-9].*)")
#: These may be anything: they are an eye only where the other one is there, too.
_MAYBE = r"[lr][ea]?"
_LETTER = (
    re.compile(rf"(?P<base>.*[0-9].*?){_GAP}*(?P<side>{_MAYBE})(?:[0-9]{{0,2}}|{_END}.*)"),
    re.compile(rf"(?P<side>{_MAYBE})[ _.-]+(?P<base>.*[0-9].*)"),
    re.compile(rf"(?P<side>{_MAYBE}|left|right|o[dsi])(?P<base>[0-9].*)"),
    re.compile(r"(?P<base>.*[^\W_])(?P<side>left|right|o[dsi])"),
)
_OTHER_EYE = {"l": "r", "le": "re", "la": "ra", "left": "right", "os": "od", "oi": "od"}
#: A file that is called by its side alone, in the folder of its patient.
_SIDE_ALONE = re.compile(rf"(?P<side>{IN_FILE_NAMES})(?:[ _-]?eye)?")
_SCAN = re.compile(r"(?:cnv|dme|drusen|normal)-(?P<base>[0-9]+)-[0-9]+")
_SIDE_FOLDER = re.compile(rf"(?:{IN_FILE_NAMES})(?:[ _-]?eyes?)?")

_PAIR_COLUMNS = SIDES
_IMAGE_COLUMNS = (
    "image",
    "image_id",
    "image_name",
    "file",
    "file_name",
    "filename",
    "name",
    "path",
)
_PATIENT_COLUMNS = ("patient_id", "patient", "patientid", "subject", "subject_id")


@dataclasses.dataclass(frozen=True)
class Patients:
    """Patients of some photographs, and how they are known.

    Attributes:
      ids: a photograph's name -> its patient, the same wherever the release lies and however its
        disk spells names.
      how: how they are known, in words; "" where nobody knows, and each photograph is its own.
    """

    ids: Mapping[str, str]
    how: str

    @property
    def known(self) -> bool:
        """True where at least one photograph's patient is known."""
        return bool(self.how)

    def tells(self, name: str) -> bool:
        """Tells whether a photograph's patient is known, and is not the photograph itself.

        Args:
          name: a key of `ids`.
        """
        return self.ids[name] != identity(name)

    @property
    def sentence(self) -> str:
        """Sentence for the user: how patients are known, or that nobody knows."""
        return self.how or BY_IMAGE


def identity(name: str) -> str:
    """Folds a path below a release to one form for every way in which disks and tables spell it.

    Args:
      name: a path below a release.
    """
    return folded(posixpath.normpath(name.replace("\\", "/")))


def parse_regex(text: str) -> Callable[[str], str | None]:
    """Compiles `patient_regex` to a function that finds a photograph's patient.

    The expression is searched in the file's name, or in its path with forward slashes where the
    expression has a slash. The patient is its group `patient`, else its one group, else all that it
    matches.

    Args:
      text: the regular expression, in Python's syntax.

    Returns:
      a function of a photograph's path below its release; it gives None where nothing matches.

    Raises:
      UserError: it is no regular expression, or has several groups and none is called `patient`.
    """
    try:
        pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"patient_regex {text!r} is no regular expression: {error}") from error
    if "patient" in pattern.groupindex:
        group: int | str = "patient"
    elif pattern.groups > 1:
        raise UserError(
            f"patient_regex {text!r} has {pattern.groups} groups: call the patient's "
            "(?P<patient>...), or write (?:...) for the others"
        )
    else:
        group = pattern.groups

    def patient(name: str) -> str | None:
        name = name.replace("\\", "/")
        match = pattern.search(name if "/" in text else posixpath.basename(name))
        return (match[group] or None) if match else None

    return patient


def identify(
    names: Iterable[str],
    *,
    given: Mapping[str, str] | None = None,
    regex: str | None = None,
    pairs: Mapping[str, str] | None = None,
    pairs_from: str = "",
) -> Patients:
    """Finds the patients of photographs.

    Args:
      names: paths below the release, of all its splits, with forward slashes.
      given: name -> patient, from a column, for some of them.
      regex: `patient_regex`.
      pairs: identity of a file's name or of its path -> patient, see `read_pairs`.
      pairs_from: name of the table of pairs, for `Patients.how`.

    Raises:
      UserError: the regular expression cannot be used, or matches no name.
    """
    names = list(dict.fromkeys(names))
    ids: dict[str, str] = {}
    said: list[str] = []

    def take(found: Mapping[str, str], how: str) -> None:
        new = {name: patient for name, patient in found.items() if name not in ids}
        if new:
            ids.update(new)
            some = "" if len(new) == len(names) else f" ({len(new)} of {len(names)} photographs)"
            said.append(how + some)

    take(dict(given or {}), "a column")
    if regex is not None:
        take(_by_regex(names, regex), f"patient_regex {regex!r}")
    else:
        take(_by_pairs(names, pairs or {}), f"the pairs of {pairs_from}")
        take(_by_names([name for name in names if name not in ids]), "file names, which is a guess")
    how = f"patients are known by {' and '.join(said)}" if said else ""
    return Patients({name: ids.get(name) or identity(name) for name in names}, how)


def _by_regex(names: Sequence[str], regex: str) -> dict[str, str]:
    patient_of = parse_regex(regex)
    found = {name: patient for name in names if (patient := patient_of(name)) is not None}
    if not found and names:
        raise UserError(
            f"patient_regex {regex!r} matches none of {len(names)} names, such as "
            f"{names[0] if '/' in regex else posixpath.basename(names[0])!r}"
        )
    return found


def _by_pairs(names: Sequence[str], pairs: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name in names:
        whole = identity(name)
        base = posixpath.basename(whole)
        for key in (whole, base, posixpath.splitext(base)[0]):
            if key in pairs:
                found[name] = pairs[key]
                break
    return found


def _by_names(names: Sequence[str]) -> dict[str, str]:
    """Patients by what names say of eyes; {} where the names of the set say nothing of them."""
    parsed: dict[str, tuple[str, str, str]] = {}
    maybe: dict[str, tuple[str, str, str, str]] = {}
    numbered: dict[str, tuple[str, str]] = {}
    for name in names:
        *folders, file = identity(name).split("/")
        stem = posixpath.splitext(file)[0]
        sides = [folder for folder in folders if _SIDE_FOLDER.fullmatch(folder)]
        # "a/left/10" and "a/right/10" are eyes of one patient.
        above = [folder for folder in folders if folder not in sides]
        folder = "/".join(above)
        if match := _SCAN.fullmatch(stem) or _EYE.fullmatch(stem) or _EYE_FIRST.fullmatch(stem):
            parsed[name] = folder, match["base"], stem
            rest = (match.groupdict().get("rest") or "").strip(" _.-()")
            if re.search("[0-9]", rest) and not re.search("[0-9]", match["base"]):
                numbered[name] = match["side"], rest
        elif sides:
            parsed[name] = folder, stem, f"{sides[-1]}/{stem}"
        elif above and _SIDE_ALONE.fullmatch(stem):
            parsed[name] = "/".join(above[:-1]), above[-1], f"{above[-1]}/{stem}"
        elif above and stem in ("l", "r"):
            maybe[name] = "/".join(above[:-1]), above[-1], stem, f"{above[-1]}/{stem}"
        elif match := next(filter(None, (each.fullmatch(stem) for each in _LETTER)), None):
            maybe[name] = folder, match["base"], match["side"], stem
    there = {(base, side) for _, base, side, _ in maybe.values()}
    for name, (folder, base, side, stem) in maybe.items():
        others = [b for a, b in _OTHER_EYE.items() if a == side]
        others += [a for a, b in _OTHER_EYE.items() if b == side]
        if any((base, other) in there for other in others):
            parsed[name] = folder, base, stem
    # "Fundus_left_12": all begin alike, and the number behind the side is the patient's.
    counts = collections.Counter(rest for _, rest in set(numbered.values()))
    both = any(count > 1 for count in counts.values())
    if both and len({parsed[name][1] for name in numbered}) == 1:
        for name, (_, rest) in numbered.items():
            folder, _, stem = parsed[name]
            parsed[name] = folder, rest, stem
    scope = _scope(parsed.values())
    found = {
        name: "/".join(filter(None, (scope(folder), base.strip(" _.-"))))
        for name, (folder, base, _) in parsed.items()
    }
    if len(found) > _MOST_PHOTOGRAPHS * len(set(found.values())):
        return {}
    return found


def _scope(parsed: Iterable[tuple[str, str, str]]) -> Callable[[str], str]:
    """The part of a folder's path within which a name is one patient.

    Nothing, where names do not come again in other folders; else the first folder (a split whose
    numbers begin anew), else the whole path.
    """
    files = {(folder, stem) for folder, _, stem in parsed}
    scopes: tuple[Callable[[str], str], ...] = (
        lambda folder: "",
        lambda folder: folder.split("/")[0],
    )
    for scope in scopes:
        counts = collections.Counter((scope(folder), stem) for folder, stem in files)
        repeated = sum(count for count in counts.values() if count > 1)
        if repeated <= _REPEATED * len(files):
            return scope
    return lambda folder: folder


def read_pairs(path: files.PathLike, left: str = "left", right: str = "right") -> dict[str, str]:
    """Reads a table of pairs of eyes.

    Args:
      path: of the CSV file.
      left, right: names of the columns of files; other letter case and common names are found, too.

    Returns:
      identity of a file's name, and of its stem -> patient.

    Raises:
      UserError: the table cannot be read, or lacks a column.
    """
    problems = ProblemLog()
    table = tables.read_csv(path, problems)
    # MESSIDOR-2's table goes around with Left, LEFT and "#left" as well.
    left, right = (
        next(
            (name for name in table.columns if name == wanted or meant(name, [wanted])),
            wanted,
        )
        for wanted in (left, right)
    )
    tables.require_columns(table, [left, right])
    if problems.problems:
        first = problems.problems[0]
        raise UserError(f"{path} row {first.row}: {first.what}")
    patients: dict[str, str] = {}
    for row in table.rows:
        named = (cells.text(row.cells[column]) for column in (left, right))
        eyes = [identity(eye) for eye in named if eye]
        if not eyes:
            continue
        # An eye that an earlier row names belongs to that patient.
        known = [patients[eye] for eye in eyes if eye in patients]
        patient = known[0] if known else eyes[0]
        for other in set(known[1:]) - {patient}:
            patients = {eye: patient if p == other else p for eye, p in patients.items()}
        patients |= dict.fromkeys(eyes, patient)
    return {posixpath.splitext(eye)[0]: patient for eye, patient in patients.items()} | patients


def read_tables(folder: files.Path) -> tuple[dict[str, str], str]:
    """Reads patients from the CSV files of a folder, by pairs or from a column.

    The first file in alphabetical order that has the columns left and right, or one for images and
    one for patients (`image, patient_id`), is read; others do not count.

    Args:
      folder: of the CSV files, which may lie in it, not below.

    Returns:
      identity of a file's name, and of its stem -> patient; and the name of the file. {} and ""
      where no file has them.

    Raises:
      UserError: such a file has a row that cannot be read.
    """
    for path in sorted(folder.glob("*.csv")):
        problems = ProblemLog()
        try:
            table = tables.read_csv(path, problems)
        except UserError:
            continue
        names = {folded(column): column for column in table.columns}
        if set(_PAIR_COLUMNS) <= set(names):
            return read_pairs(path, *(names[column] for column in _PAIR_COLUMNS)), path.name
        image = next((names[name] for name in _IMAGE_COLUMNS if name in names), None)
        image = image or next((name for name in table.columns if meant(name, ["image"])), None)
        patient = next((names[name] for name in _PATIENT_COLUMNS if name in names), None)
        patient = patient or next(
            (name for name in table.columns if meant(name, ["patient_id"])), None
        )
        if image and patient:
            if problems.problems:
                first = problems.problems[0]
                raise UserError(f"{path} row {first.row}: {first.what}")
            found = {}
            for row in table.rows:
                try:
                    name, who = cells.text(row.cells[image]), cells.identifier(row.cells[patient])
                except ValueError as error:
                    raise UserError(f"{path} row {row.row}: {error}") from error
                if name and who:
                    found[identity(name)] = who
            return {
                posixpath.splitext(name)[0]: who for name, who in found.items()
            } | found, path.name
    return {}, ""


def in_several(splits: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Finds the patients who have photographs in more than one split, with these splits.

    Args:
      splits: split -> the patients of its photographs.
    """
    splits_of: dict[str, list[str]] = collections.defaultdict(list)
    for split, members in splits.items():
        for patient in set(members):
            splits_of[patient].append(split)
    return {patient: found for patient, found in sorted(splits_of.items()) if len(found) > 1}


def to_leave_out(splits: Mapping[str | None, Iterable[str]]) -> dict[str | None, set[str]]:
    """Finds the patients that a split leaves out, so that no patient is in two.

    The test set stays as it is; validation leaves out its patients, training those of both.

    Args:
      splits: split -> the patients of its photographs; None for those of no split.

    Returns:
      split -> patients, of those splits that leave someone out.
    """
    taken: set[str] = set()
    found: dict[str | None, set[str]] = {}
    for split in ("test", "validation", "train"):
        members = set(splits.get(split, ()))
        if both := members & taken:
            found[split] = both
        taken |= members
    return found


def apart_said(split: str | None, patients: int, photographs: int) -> str:
    """Says what a split left out, so that no patient is in two.

    Args:
      split: its name.
      patients, photographs: how many it left out.
    """
    return (
        f"left out of {split}: {photographs} photographs of {patients} patients whom another split "
        "of the release has, too"
    )


def on_both_sides(splits: Mapping[str, Iterable[str]]) -> str:
    """Names the patients who have photographs in more than one split; "" where none has.

    Args:
      splits: split -> the patients of its photographs.
    """
    torn = in_several(splits)
    if not torn:
        return ""
    shown = first_of(list(torn), _NAMED)
    joint = sorted({split for found in torn.values() for split in found})
    return f"{len(torn)} patients have photographs in {' and '.join(joint)} ({shown})"
