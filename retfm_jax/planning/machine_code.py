"""The machine code of a TPU program, read from the text that libtpu writes of it, and its bound.

A TPU's core issues one bundle of instructions a cycle, in order: how often each bundle of the final
code runs says how long an instruction of the program takes at least, whatever the compiler had
expected. Its matrix units and its memory give two more such bounds. See `docs/planning.md`.
"""

import bisect
import contextlib
import dataclasses
import math
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.planning.hlo import HloModule, Instruction
from retfm_jax.planning.topologies import Topology
from retfm_jax.runtime.chips import Chip


class Count(NamedTuple):
    """Work of a core's units.

    Attributes:
      bundles: that are issued, each of which takes a cycle at least.
      rows: vectors that stream through the matrix units, whichever of them takes them.
    """

    bundles: float = 0.0
    rows: float = 0.0

    def plus(self, other: "Count", times: float = 1.0) -> "Count":
        """Adds another one.

        Args:
          other: what is added.
          times: how often.
        """
        return Count(self.bundles + times * other.bundles, self.rows + times * other.rows)


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of an instruction's machine code that runs as often as one loop over blocks does.

    Attributes:
      always: what one round does.
      inner: what it does behind a branch of that work: first and last rounds of a contraction.
      rounds: as the code alone tells; 1 for what stands in no such loop.
      limit: of the loop's counter. It is larger than its rounds by the stages of a pipeline that
        loads the next blocks and stores the last ones meanwhile; 0 for what stands in no loop.
    """

    always: Count
    inner: Count
    rounds: int = 1
    limit: int = 0


@dataclasses.dataclass(frozen=True)
class Code:
    """Machine code of one instruction of a program.

    Attributes:
      parts: of it.
      open_loops: loops whose length the code does not tell; they count once.
    """

    parts: tuple[Part, ...]
    open_loops: int = 0

    def count(self, blocks: Sequence[int] = (), contracts: bool = False) -> Count:
        """Counts what one run does.

        Args:
          blocks: into which the compiler divided the instruction along each of its axes, where it
            tells.
          contracts: whether the last of these axes is summed over, so that only one round in as
            many runs what stands behind a branch.
        """
        rounds = math.prod(blocks)
        total = Count()
        for part in self.parts:
            told = blocks and 0 < part.limit - rounds <= _STAGES
            times = rounds if told else part.rounds
            total = total.plus(part.always, times)
            total = total.plus(part.inner, times / (blocks[-1] if blocks and contracts else 1))
        return total


@dataclasses.dataclass(frozen=True)
class Bound:
    """Lower bound of a step by its machine code.

    Attributes:
      seconds: of every instruction the longest of issue, matrix units and memory, added up without
        any overlap between instructions; at least `memory`. Collectives are left out, and
        asynchronous copies, which other instructions hide.
      issue, products, memory: seconds by each of these alone, asynchronous copies included.
      unread: share of the compiler's cycles that are of instructions whose code was not found; of
        them the memory alone counts.
      open_loops: loops of unknown length; they count once.
    """

    seconds: float
    issue: float
    products: float
    memory: float
    unread: float
    open_loops: int


class Recording:
    """Machine code of what is compiled while this is open, read as libtpu writes it.

    Args:
      folder: that libtpu was told to write to. What is not needed is removed at once, and the rest
        when it is read: whole, it takes gigabytes.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._codes: dict[str, Code] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._reader = threading.Thread(target=self._run, daemon=True)
        self._reader.start()

    def take(self) -> dict[str, Code]:
        """Code of every instruction compiled since it was last asked for, by the names of these."""
        self._read(settled=0.0)
        with self._lock:
            codes, self._codes = self._codes, {}
        return codes

    def close(self) -> None:
        """Ends the reading."""
        self._end.set()
        self._reader.join()

    def _run(self) -> None:
        while not self._end.wait(_POLL):
            self._read(settled=_SETTLED)

    def _read(self, settled: float) -> None:
        """Reads what libtpu has not written to for some seconds, and removes it."""
        with self._lock:
            before = time.time() - settled
            for entry in list(os.scandir(self._folder)):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime > before:
                        continue
                    if name := _FILE.fullmatch(entry.name):
                        text = pathlib.Path(entry.path).read_text(errors="replace")
                        self._codes[name[1]] = read_code(text)
                    os.unlink(entry.path)


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """Lets libtpu write the machine code of what is compiled in the block.

    The first use of libtpu in this process has to come inside of the block, for it looks once at
    its options. Its files go to a temporary folder, which is removed at the end, whatever that is.

    Raises:
      RuntimeError: libtpu is in use already.
    """
    if _loaded():
        raise RuntimeError("libtpu is in use in this process: it takes no more options")
    name = "LIBTPU_INIT_ARGS"
    before = os.environ.get(name)
    with _temporary_folder() as folder:
        options = (
            f"--xla_jf_dump_to={folder}",
            "--xla_jf_dump_llo_text=true",
            "--xla_jf_dump_llo_pass_label_regex=^final_bundles$",
        )
        os.environ[name] = " ".join([*filter(None, [before]), *options])
        recorded = Recording(folder)
        try:
            yield recorded
        finally:
            recorded.close()
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def check_topology(topology: Topology) -> None:
    """Refuses devices whose machine code is not read.

    Args:
      topology: to be compiled for.

    Raises:
      UserError: they are no TPUs.
    """
    if topology.chip is None or topology.chip.platform != "tpu":
        raise UserError(
            f"topology {topology.name}: machine code is read of TPUs' programs alone; plan without "
            "machine_code, or for a TPU such as v5e:4x4"
        )


def bound(module: HloModule, codes: Mapping[str, Code], chip: Chip) -> Bound:
    """Adds up what every instruction of a program takes at least.

    Args:
      module: the program.
      codes: by the names of its instructions. The compiler emits code of equal instructions once,
        under the name of one of them.
      chip: a TPU.
    """
    assert chip.clock is not None, "a TPU has a clock"
    twins = {
        module.signature(where, instruction): codes[instruction.name]
        for where, instruction, _ in module.executed()
        if instruction.name in codes
    }
    seconds = issue = products = memory = expected = unread = 0.0
    open_loops = 0
    for where, instruction, times in module.executed():
        moving = module.traffic(where, instruction) / chip.bandwidth
        memory += times * moving
        if instruction.opcode in _LEFT_OUT or instruction.opcode.endswith(("-start", "-done")):
            continue
        code = codes.get(instruction.name) or twins.get(module.signature(where, instruction))
        cycles = instruction.cycles or 0
        expected += times * cycles
        issuing = multiplying = 0.0
        if code is None:
            unread += times * cycles
        else:
            count = code.count(_blocks(instruction), instruction.is_product)
            issuing = count.bundles / chip.clock
            multiplying = count.rows / chip.rows / chip.clock
            open_loops += code.open_loops
        issue += times * issuing
        products += times * multiplying
        seconds += times * max(issuing, multiplying, moving)
    return Bound(
        seconds=max(seconds, memory),
        issue=issue,
        products=products,
        memory=memory,
        unread=unread / expected if expected else 0.0,
        open_loops=open_loops,
    )


def read_code(text: str) -> Code:
    """Reads what libtpu writes of one instruction's final bundles.

    Args:
      text: a bundle a line, with the addresses of loops and branches.
    """
    starts = [found.start() for found in _BUNDLE.finditer(text)]
    if not starts:
        return Code(())

    def at(found: re.Match[str]) -> int:
        return max(bisect.bisect_right(starts, found.start()) - 1, 0)

    regions: dict[str, int] = {}
    for found in _REGION.finditer(text):
        regions.setdefault(found[1], at(found))
    exits = {found[1]: found for found in _EXIT.finditer(text)}
    times, rows = np.ones(len(starts)), np.zeros(len(starts))
    for found in _MATMUL.finditer(text):
        # A register has 16 rows of bfloat16, of which `lmr` feeds half, or 8 of float32.
        rows[at(found)] += 8 if "lmr" in found[0] or ".f32" in found[0] else 16
    inner = np.zeros(len(starts), bool)
    branches: list[tuple[int, int]] = []
    pipelines: list[tuple[int, int, re.Match[str]]] = []
    open_loops = 0
    for found in _BRANCH.finditer(text):
        here, target = at(found), regions.get(found[2])
        if target is None:
            continue
        if target > here + _FAR:
            branches.append((here + _DELAY + 1, target))
        elif target <= here and (end := exits.get(found[1])):
            head = text[starts[target] : starts[min(target + 3, len(starts) - 1)]]
            if not end[3].isdigit():
                open_loops += 1
            elif _STAGED in head:
                pipelines.append((target, here + 1, end))
            else:
                times[target : here + 1] *= int(end[3])
    for start, end in branches:
        if any(a <= start and end <= b and (a, b) != (start, end) for a, b in branches):
            inner[start:end] = True

    def count(which: np.ndarray) -> Count:
        return Count(float(times[which].sum()), float(times[which] @ rows[which]))

    def part(chosen: np.ndarray, rounds: int, limit: int) -> Part:
        return Part(count(chosen & ~inner), count(chosen & inner), rounds, limit)

    free = np.ones(len(starts), bool)
    parts = []
    for start, end, exit_test in sorted(pipelines, key=lambda found: found[0] - found[1]):
        chosen = np.zeros(len(starts), bool)
        chosen[start:end] = free[start:end]
        rounds = _rounds(text, exit_test)
        if chosen.any():
            parts.append(part(chosen, rounds, int(exit_test[3])))
        else:  # a loop inside of another one
            times[start:end] *= rounds
        free[start:end] = False
    return Code((part(free, 1, 0), *parts), open_loops)


def _rounds(text: str, exit_test: re.Match[str]) -> int:
    """Rounds of a pipelined loop: stage s works while its counter is s or more and below n + s."""
    limit = int(exit_test[3])
    stepped = re.search(rf"{exit_test[2]} = sadd\.s32 1, (%s\w+)", text)
    compared = stepped and re.findall(rf"scmp\.(ge|lt)\.s32\.totalorder {stepped[1]}, (\d+)", text)
    first = [int(value) for order, value in compared or () if order == "ge" and int(value) > 0]
    last = [int(value) for order, value in compared or () if order == "lt"]
    if first and last and 0 < max(last) - min(first) < limit:
        return max(last) - min(first)
    return max(limit - 2, 1)


#: Seconds between two looks at the folder, and how long a file must have been left alone.
_POLL, _SETTLED = 0.5, 2.0

#: Bundles after a branch that run before it is taken, and how far one leads that matters.
_DELAY, _FAR = 4, 8

#: By how much the limit of a pipelined loop exceeds its rounds, at most.
_STAGES = 16

_FILE = re.compile(r"\d+-(.+)-\d+-final_bundles\.txt")
_BUNDLE = re.compile(r"^ *(?:0x[0-9a-f]+|0) +(?:[A-Z]{2},? *)*:", re.MULTILINE)
_REGION = re.compile(r"Start(?:/End empty)? region (\d+)")
_EXIT = re.compile(
    r"(%p\w+) = scmp\.\w+\.s32\.totalorder (%s\w+), (\d+|%s\w+)[^;\n]*loop exit test"
)
_BRANCH = re.compile(r"sbr\.rel \(!?(%p\w+)\) target = \$region(\d+)")
_STAGED = "iteration index, stage"
_MATMUL = re.compile(r"= vmatmul[\w.]*")
_LEFT_OUT = ("while", "conditional", "call")
_BOUNDS = re.compile(r'"iteration_bounds":\[([^\]]*)\]')


def _blocks(instruction: Instruction) -> tuple[int, ...]:
    """Blocks by axis into which the compiler divided an instruction; () where it does not tell."""
    bounds = _BOUNDS.search(instruction.attributes)
    return tuple(map(int, re.findall(r"\d+", bounds[1]))) if bounds else ()


@contextlib.contextmanager
def _temporary_folder() -> Iterator[pathlib.Path]:
    """A folder that goes with this process, however it ends.

    libtpu ends the process by itself when a signal comes, without any cleanup of ours; so another
    process waits for that end and removes the folder.
    """
    folder = tempfile.mkdtemp(prefix="retfm-plan-")
    command = ["sh", "-c", 'cat >/dev/null; rm -rf -- "$0"', folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield pathlib.Path(folder)


def _loaded() -> bool:
    maps = pathlib.Path("/proc/self/maps")
    return maps.exists() and "libtpu" in maps.read_text(errors="replace")
