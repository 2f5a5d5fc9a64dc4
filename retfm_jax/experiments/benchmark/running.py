"""The benchmark as a whole: cells are claimed, measured and kept, and the page is written.

Any number of processes and hosts work on one folder: each takes a free cell by the lock of its
folder. Killed at any moment and started again, the same command goes on, and ends with the same
files bit for bit.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from retfm_jax.config import build_section
from retfm_jax.console import say
from retfm_jax.errors import Stopped, UserError, first_of
from retfm_jax.experiments.benchmark.cells import RUNS, Bench, measure_cell
from retfm_jax.experiments.benchmark.comparisons import Compared, compare
from retfm_jax.experiments.benchmark.contamination import Audited, contamination_of, read_audit
from retfm_jax.experiments.benchmark.masked import FACTS as MASKS
from retfm_jax.experiments.benchmark.masked import Masked, open_masked
from retfm_jax.experiments.benchmark.networks import Networks, read_model_facts
from retfm_jax.experiments.benchmark.photographs import (
    FACTS,
    Photographs,
    Place,
    open_photographs,
    read_facts,
)
from retfm_jax.experiments.benchmark.results import (
    SEGMENT,
    Cell,
    CellResult,
    Contamination,
    Findings,
    cell_folder,
    read_cell,
    status_of,
    write_cell,
)
from retfm_jax.experiments.benchmark.suite import (
    PROTOCOLS,
    ModelEntry,
    Published,
    Suite,
    TaskEntry,
)
from retfm_jax.files import (
    Path,
    PathLike,
    as_path,
    check_writable,
    read_bytes,
    read_json,
    remove,
    write_json,
)
from retfm_jax.runtime.compilation import enable_compilation_cache
from retfm_jax.runtime.lock import Held, hold, is_held

#: In the folder of a benchmark: what it is, all numbers resolved.
SUITE = "suite.json"
#: Libraries that numbers depend on.
_LIBRARIES = ("retfm-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn", "pillow")
#: Entries of a suite that the page alone needs: a later run may change them.
_FREE = ("title", "about", "draws", "published")
#: Seconds between two tries to take the folder, and between two looks for cells that are free.
_TRY, _POLL = 0.5, 5.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run has left.

    Attributes:
      cells: number of all cells that were asked for.
      failed: sentences on those that failed.
      written: files of the page; () where another process will write it.
      compared: what the page compares; () likewise.
    """

    cells: int
    failed: tuple[str, ...]
    written: tuple[Path, ...]
    compared: tuple[Compared, ...] = ()


def run_benchmark(
    suite: Suite,
    out: PathLike,
    *,
    data_dir: str,
    exclude: PathLike | None = None,
    audit: PathLike | None = None,
) -> Outcome:
    """Measures the cells of a suite that are not measured yet, and writes the page.

    Args:
      suite: what is asked.
      out: folder of the benchmark; may hold other models, tasks and protocols of the same suite,
        which the page shows, too.
      data_dir: where datasets are.
      exclude: an exclusion list, whose records take no part.
      audit: `audit.json` of an audit of the tasks and of what the models were trained on.

    Raises:
      Stopped: a signal ended it.
      UserError: the folder holds another benchmark, or cannot be written.
    """
    enable_compilation_cache()
    out = as_path(out)
    check_writable(out / SUITE)
    audited = None if audit is None else read_audit(audit)
    place = Place(out, data_dir, exclude, suite.metric)
    whole, versions = _register(suite, place)
    bench = Bench(suite, place, Networks(place, suite.seed))
    cells = suite.cells()
    todo = [cell for cell in cells if _open(out, cell)]
    say(f"{len(cells)} cells, of which {len(cells) - len(todo)} are measured")
    _measure_all(bench, todo, cells)
    others = [cell for cell in whole.cells() if cell not in cells]
    busy = sum(is_held(cell_folder(out, cell)) for cell in others)
    if busy:
        say(f"{busy} other cells are being measured: the last process writes the page")
        return Outcome(len(cells), _failures(out, cells), ())
    with _soon(out):
        compared, written = _report(find(whole, place, audited, versions), out)
    return Outcome(len(cells), _failures(out, cells), written, compared)


def find(
    suite: Suite, place: Place, audited: Audited | None, versions: Mapping[str, str]
) -> Findings:
    """Collects what all processes have measured.

    Args:
      suite: of all runs of the folder.
      place: of the benchmark.
      audited: an audit; None: contamination by names and relations alone.
      versions: of libraries.

    Raises:
      UserError: a file is damaged.
    """
    networks = Networks(place, suite.seed)
    found = [read_cell(cell_folder(place.out, cell)) for cell in suite.cells()]
    models = {name: read_model_facts(networks.folder(name)) for name in suite.models}
    tasks = {name: read_facts(place.task(name) / FACTS) for name in suite.tasks}
    masks = {name: read_facts(place.task(name) / MASKS) for name in suite.tasks}
    contamination: dict[tuple[str, str], Contamination] = {}
    for model, facts in models.items():
        for task, entry in suite.tasks.items():
            if facts is not None:
                contamination[model, task] = contamination_of(
                    facts.trained_on, entry.dataset, audited, entry.test
                )
    return Findings(
        suite=suite,
        cells=tuple(cell for cell in found if cell is not None),
        contamination=contamination,
        models={name: facts for name, facts in models.items() if facts is not None},
        tasks={name: facts for name, facts in tasks.items() if facts is not None},
        masks={name: facts for name, facts in masks.items() if facts is not None},
        versions=dict(versions),
    )


def _report(findings: Findings, out: Path) -> tuple[tuple[Compared, ...], tuple[Path, ...]]:
    from retfm_jax.experiments.benchmark.page import write_report

    compared = compare(findings)
    return compared, tuple(write_report(findings, out, compared))


def _measure_all(bench: Bench, todo: Sequence[Cell], cells: Sequence[Cell]) -> None:
    """Measures cells until all are done, by this process or by another one.

    A cell whose process dies is free again.
    """
    out, left, waiting = bench.place.out, list(todo), False
    photographs = _Opened(bench)
    number = {cell: position + 1 for position, cell in enumerate(cells)}
    while left:
        # Those that nobody holds first: asking who holds a lock elsewhere takes time.
        left.sort(key=lambda cell: is_held(cell_folder(out, cell)))
        busy = [
            cell
            for cell in left
            if not _try(bench, cell, photographs, f"[{number[cell]}/{len(cells)}] {cell}")
        ]
        if len(busy) == len(left):
            if not waiting:
                say(f"waiting for {len(busy)} cells that other processes are measuring")
            waiting = True
            time.sleep(_POLL)
        left = busy


def _try(bench: Bench, cell: Cell, photographs: "_Opened", title: str) -> bool:
    """Measures a cell; returns whether it is done, and not held, nor what it needs, by others."""
    folder = cell_folder(bench.place.out, cell)
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(hold(folder))
            if status_of(folder) not in (None, "failed"):
                return True  # by another process, meanwhile
            say(title)
            result = _measured(bench, cell, photographs)
        except Held:
            return False
        lock.check()
        write_cell(folder, result)
        remove(folder / RUNS)
        if result.status != "measured":
            say(f"  {result.status}: {result.reason}")
    return True


def _measured(bench: Bench, cell: Cell, photographs: "_Opened") -> CellResult:
    try:
        return measure_cell(bench, cell, photographs.open(cell))
    except (Held, Stopped):
        raise
    except UserError as error:
        return CellResult(cell, "failed", str(error))


class _Opened:
    """Tasks that were opened, for their labels or for their masks, and those that cannot be."""

    def __init__(self, bench: Bench):
        self._bench = bench
        self._tasks: dict[tuple[str, bool], Photographs | Masked | UserError | None] = {}

    def open(self, cell: Cell) -> Photographs | Masked | None:
        """What the protocol of a cell works on, see `measure_cell`."""
        key = (cell.task, cell.protocol == SEGMENT)
        if key not in self._tasks:
            place, entry = self._bench.place, self._bench.suite.tasks[cell.task]
            try:
                opening = open_masked if cell.protocol == SEGMENT else open_photographs
                self._tasks[key] = opening(place, cell.task, entry)
            except Held:
                raise
            except UserError as error:
                self._tasks[key] = error
        found = self._tasks[key]
        if isinstance(found, UserError):
            raise found
        return found


def _open(out: Path, cell: Cell) -> bool:
    """Whether a cell is to be measured: one that failed is tried again."""
    folder = cell_folder(out, cell)
    if status_of(folder) in (None, "failed"):
        return True
    if (folder / RUNS).exists() and not is_held(folder):
        remove(folder / RUNS)  # of a process that was killed after the cell was written
    return False


def _failures(out: Path, cells: Sequence[Cell]) -> tuple[str, ...]:
    folders = [cell_folder(out, cell) for cell in cells]
    found = [read_cell(folder) for folder in folders if status_of(folder) == "failed"]
    return tuple(f"{each.cell}: {each.reason}" for each in found if each is not None)


@contextlib.contextmanager
def _soon(folder: Path) -> Iterator[None]:
    """Holds a folder that others hold for a moment only."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold(folder))
                break
            except Held:
                time.sleep(_TRY)
        yield


def _register(suite: Suite, place: Place) -> tuple[Suite, dict[str, str]]:
    """Adds a suite to the folder's; returns all that it holds, and the versions it began with.

    Raises:
      UserError: the folder's cells were measured otherwise.
    """
    path = place.out / SUITE
    list_digest = None
    if place.exclude is not None:
        list_digest = hashlib.sha256(read_bytes(place.exclude)).hexdigest()
    with _soon(place.out):
        versions = _versions()
        before = None
        if path.is_file():
            said = read_json(path)
            before, stored = _stored(said, path)
            _check_same(before, suite, path)
            if said.get("exclude") != list_digest:
                raise UserError(
                    f"{path}: the benchmark in this folder leaves out other records (another "
                    "exclusion list, or none): give the same list, or take a new folder"
                )
            changed = [
                f"{name} {stored.get(name)} -> {now}"
                for name, now in versions.items()
                if stored.get(name) != now
            ]
            if changed:
                say(f"warning: cells here were measured with other versions: {', '.join(changed)}")
            versions = stored
        whole = suite if before is None else _joined(before, suite)
        document = {"suite": whole.to_json(), "versions": versions, "exclude": list_digest}
        write_json(path, document)
    return whole, versions


def _joined(before: Suite, suite: Suite) -> Suite:
    sections = {
        name: {**getattr(before, name), **getattr(suite, name)}
        for name in ("models", "tasks", "protocols")
    }
    return dataclasses.replace(suite, **sections)


def _check_same(before: Suite, suite: Suite, path: Path) -> None:
    ours, theirs = suite.to_json(), before.to_json()
    differ = [
        f"{name} ({theirs[name]} there, {ours[name]} here)"
        for name in ("seed", "seeds", "metric")
        if ours[name] != theirs[name]
    ]
    for kind in ("models", "tasks", "protocols"):
        for name in ours[kind].keys() & theirs[kind].keys():
            then, now = theirs[kind][name], ours[kind][name]
            differ += [
                f"{kind}.{name}.{entry} ({then.get(entry)} there, {now.get(entry)} here)"
                for entry in sorted(then.keys() | now.keys())
                if then.get(entry) != now.get(entry)
            ]
    if differ:
        raise UserError(
            f"{path}: the benchmark in this folder is another one: {first_of(sorted(differ), 5)}; "
            "take a new folder, or give what changed a new name"
        )


def _stored(said: Any, path: Path) -> tuple[Suite, dict[str, str]]:
    """Suite and versions of a folder."""
    try:
        values = said["suite"]
        entries: dict[str, Callable[[str], type]] = {
            "models": lambda _: ModelEntry,
            "tasks": lambda _: TaskEntry,
            "protocols": lambda name: PROTOCOLS[name],
        }
        sections = {
            kind: {
                name: build_section(section(name), entry, f"{path}: {kind}.{name}")
                for name, entry in values[kind].items()
            }
            for kind, section in entries.items()
        }
        rows = tuple(build_section(Published, row, str(path)) for row in values["published"])
        plain = {name: values[name] for name in ("seed", "seeds", "metric", "title", "about")}
        suite = Suite(**sections, **plain, draws=values["draws"], published=rows)
        return suite, dict(said["versions"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no suite of a benchmark: take a new folder") from error


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}
