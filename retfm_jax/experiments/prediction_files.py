"""Files of predictions: parts that outlive a killed process, and the file that they make.

Beside the file `F` that is to be written lies the folder `F.parts` as long as it is not complete:
`run.json` says what is predicted of what by which weights, and `NNNNNN.jsonl` holds the rows of a
fixed range of the list of photographs, with their digest. A part is there as a whole or not at
all. When all are there, they are joined into a temporary file, that is renamed to `F`, and then the
folder is removed: at whatever moment a process is killed, the same command finds all finished parts
again, and no row is there twice or missing.
"""

import contextlib
import csv
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from retfm_jax import extras, files
from retfm_jax.data.cells import without_formula
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, as_path, atomic_write

#: Suffixes of files of predictions.
SUFFIXES = (".csv", ".jsonl", ".parquet")
_RUN, _FORMAT = "run.json", 1
#: Entries of `run.json` -> how a message calls them.
_CALLED = {
    "format": "format",
    "network": "weights",
    "images": "preprocessing",
    "decisions": "decisions",
    "list": "list of photographs",
    "count": "list of photographs",
    "part_size": "size of parts",
    "masks": "geometry",
    "written": "choice of pictures",
    "search": "search of reports",
    "words": "words",
}
#: Parts that are one row group of a Parquet file.
_GROUP = 64

#: A row: values by column.
Row = dict[str, Any]
#: What a column holds.
Columns = Mapping[str, type]


def check_suffix(out: PathLike) -> None:
    """Refuses a file whose name does not tell its format.

    Args:
      out: the file of predictions.

    Raises:
      UserError: its suffix is none of `SUFFIXES`, or what writes such a file is not installed.
    """
    suffix = as_path(out).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"out {out}: predictions are written as {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        with extras.needed("data"):
            import pyarrow.parquet  # noqa: F401


class Parts:
    """Parts of a file of predictions.

    Args:
      out: the file.
      forgets: whether an end before the first part leaves nothing; not where other files were
        written beside `out`, which a resumed command has to know for its own.

    Attributes:
      folder: where they lie.
    """

    def __init__(self, out: PathLike, *, forgets: bool = True):
        out = as_path(out)
        self.folder = out.with_name(f"{out.name}.parts")
        self._forgets = forgets

    def begun(self) -> bool:
        """Tells whether an earlier command said what the parts are of, and did not finish."""
        return (self.folder / _RUN).is_file()

    def begin(self, run: Mapping[str, Any]) -> None:
        """Says what the parts are of, or checks that they are of the same.

        Args:
          run: what decides about the rows, as JSON values by name.

        Raises:
          UserError: there are parts of something else; they cannot be read or written.
        """
        run = {"format": _FORMAT, **run}
        if self._of(run) is None:
            self.remove()  # parts of nobody knows what
            files.write_json(self.folder / _RUN, run)

    def check(self, run: Mapping[str, Any]) -> None:
        """Checks on another host that the parts are of what this one predicts.

        Args:
          run: as for `begin`.

        Raises:
          UserError: they are not, or are not seen from here.
        """
        if self._of({"format": _FORMAT, **run}) is None:
            raise UserError(
                f"{self.folder} is not seen by every host: write to where all of them share it"
            )

    def _of(self, run: Mapping[str, Any]) -> Mapping[str, Any] | None:
        path = self.folder / _RUN
        if not path.is_file():
            return None
        there = files.read_json(path)
        if not isinstance(there, Mapping):
            raise UserError(f"{path} is damaged; remove {self.folder} to begin again")
        other = [called for name, called in _CALLED.items() if there.get(name) != run.get(name)]
        if other:
            raise UserError(
                f"{self.folder} holds parts that were predicted with another {other[0]}: repeat "
                "that command to finish them, remove the folder to begin again, or write "
                "elsewhere"
            )
        return there

    def finished(self) -> set[int]:
        """Numbers of the parts that are there.

        Raises:
          UserError: the folder cannot be read.
        """
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return set()
        except files.errors() as error:
            raise UserError(f"cannot read {self.folder}: {files.reason(error)}") from error
        stems = [name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl")]
        return {int(stem) for stem in stems if stem.isdecimal()}

    def write(self, part: int, rows: Sequence[Row]) -> None:
        """Writes a part, as a whole or not at all.

        Args:
          part: its number.
          rows: of its photographs, in order.

        Raises:
          UserError: it cannot be written.
        """
        content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        end = {"rows": len(rows), "sha256": hashlib.sha256(content).hexdigest()}
        with atomic_write(self._path(part), "wb") as file:
            file.write(content + json.dumps(end).encode() + b"\n")

    def read(self, part: int, count: int) -> list[Row]:
        """Reads a part.

        Args:
          part: its number.
          count: number of its photographs.

        Raises:
          UserError: it is damaged, and removed, so that the same command makes it again.
        """
        path = self._path(part)
        data = files.read_bytes(path)
        body, _, end = data.rstrip(b"\n").rpartition(b"\n")
        try:
            said = json.loads(end)
            whole = said["sha256"] == hashlib.sha256(body + b"\n").hexdigest()
            rows = [json.loads(line) for line in body.split(b"\n")]
            whole = whole and len(rows) == said["rows"] == count
        except (ValueError, KeyError, TypeError):
            whole, rows = False, []
        if not whole:
            with contextlib.suppress(*files.errors()):
                files.remove(path)
            raise UserError(f"{path} was damaged and is removed; the same command makes it again")
        return rows

    def remove(self) -> None:
        """Removes all parts.

        Raises:
          UserError: something cannot be removed.
        """
        try:
            # What the parts are of comes last: without it, parts would be taken for any others.
            for part in self.finished():
                files.remove(self._path(part))
            files.remove(self.folder / _RUN)
        except files.errors() as error:
            raise UserError(f"cannot remove {self.folder}: {files.reason(error)}") from error

    def forget_if_empty(self) -> None:
        """Removes what the parts are of where there is none; whoever calls holds the lock."""
        with contextlib.suppress(UserError, *files.errors()):
            if self._forgets and not self.finished():
                files.remove(self.folder / _RUN)

    def remove_folder(self) -> None:
        """Removes the folder where it is empty, after its lock was given back."""
        if not files.is_remote(self.folder):
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.jsonl"


def join(out: PathLike, columns: Columns, parts: Iterable[Sequence[Row]]) -> None:
    """Writes the file of predictions, as a whole or not at all.

    Args:
      out: the file; its suffix is the format.
      columns: the columns, and what each holds: str, int, float, bool or list (of names).
      parts: the rows, part after part.

    Raises:
      UserError: it cannot be written.
    """
    out = as_path(out)
    write = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[out.suffix]
    with atomic_write(out, "wb") as file:
        write(file, columns, parts)


def _csv(file: IO[bytes], columns: Columns, parts: Iterable[Sequence[Row]]) -> None:
    lines = _Lines(file)
    table = csv.writer(lines)
    table.writerow([without_formula(name) for name in columns])
    for rows in parts:
        table.writerows([without_formula(_cell(row[name])) for name in columns] for row in rows)


class _Lines:
    """What `csv.writer` writes, as UTF-8: closing it would close the file."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode())


def _cell(value: Any) -> Any:
    """A value as people read it: names with `;` between, nothing for what is unknown."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        # A name that holds the separator makes a JSON list of all, as `cells.names` reads it.
        plain = not any(";" in name for name in value)
        return ";".join(value) if plain else json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


def _jsonl(file: IO[bytes], columns: Columns, parts: Iterable[Sequence[Row]]) -> None:
    for row in itertools.chain.from_iterable(parts):
        text = json.dumps({name: row[name] for name in columns}, ensure_ascii=False)
        # A lone surrogate, of a name that is no UTF-8, becomes its JSON escape.
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def _parquet(file: IO[bytes], columns: Columns, parts: Iterable[Sequence[Row]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(),
        list: pa.list_(pa.string()),
    }  # fmt: skip
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with pq.ParquetWriter(file, schema) as writer:
        for some in _grouped(iter(parts)):
            rows = [{name: _text(row[name]) for name in columns} for row in some]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _grouped(parts: Iterator[Sequence[Row]]) -> Iterator[list[Row]]:
    while some := list(itertools.islice(parts, _GROUP)):
        yield [row for rows in some for row in rows]


def _text(value: Any) -> Any:
    """Texts without lone surrogates, which are escapes instead."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return [_text(each) for each in value] if isinstance(value, list) else value
