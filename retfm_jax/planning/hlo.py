"""Collectives, memory traffic and the compiler's own timing, read from a compiled program.

XLA's cost analysis looks once at the body of a loop, however often it runs. Here the text of the
optimized program is read, and every loop counts as often as its condition tells.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

#: Collectives by the name of their instruction; their asynchronous halves add "-start" and "-done".
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}

#: Instructions that move nothing.
_FREE = frozenset(
    {
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
        "iota",
        "optimization-barrier",
        "async-update",
    }
)


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's type.

    Attributes:
      dtype: as HLO names it, such as "bf16".
      shape: of the array.
      on_chip: whether the compiler placed it in the chip's own memory (a TPU's VMEM).
    """

    dtype: str
    shape: tuple[int, ...]
    on_chip: bool

    @property
    def bytes(self) -> int:
        """Size in bytes without the padding of its layout."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            bits = int(re.findall(r"\d+", self.dtype)[0])  # "f8e4m3fn" has 8
        return math.prod(self.shape) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a program.

    Attributes:
      name, opcode: as the program writes them.
      arrays: of its type, those of a tuple one by one.
      operands: names of the instructions that it takes; the number of a parameter, the value of a
        constant.
      attributes: the rest of its line.
      root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def called(self, role: str) -> str | None:
        """Name of the computation that it calls in a role; None where it calls none.

        Args:
          role: "body", "condition", "calls" or "to_apply".
        """
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.attributes)
        return found and found[1]


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of one step.

    Attributes:
      kind: one of `COLLECTIVES`.
      group: how many devices take part in one of them.
      times: how often it runs in a step.
      arrays: the arrays as they are when whole: what an all-gather makes, what the others take.
      source: the operation of our code that it comes from, as the compiler names it; "" if unknown.
    """

    kind: str
    group: int
    times: float
    arrays: tuple[Array, ...]
    source: str

    @property
    def bytes(self) -> int:
        """Size of its arrays in bytes, once."""
        return sum(array.bytes for array in self.arrays)

    def seconds(self, bandwidth: float) -> float:
        """Seconds that it takes in a step.

        By a ring: a device sends (n - 1) / n of the whole array, and for an all-reduce twice that.

        Args:
          bandwidth: bytes/s that every device sends.
        """
        share = (self.group - 1) / self.group
        rounds = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.times * rounds * self.bytes / bandwidth


@dataclasses.dataclass(frozen=True)
class Work:
    """Work of one device in a step.

    Attributes:
      collectives: in which it takes part.
      traffic: bytes that its instructions read from its memory and write to it.
      cycles: of its clock, as the TPU's compiler expects them; None where the compiler does not
        tell.
      product_cycles: those of them in instructions around matrix products.
      open_loops: loops whose length the program does not tell; they count once.
    """

    collectives: tuple[Collective, ...]
    traffic: float
    cycles: float | None
    product_cycles: float
    open_loops: int


class HloModule:
    """An optimized program, read from its text.

    Args:
      text: `compiled.as_text()`.
      devices: number of devices over which it is sharded.
    """

    def __init__(self, text: str, devices: int):
        self._devices = devices
        self.computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if line.endswith("{") and (found := _COMPUTATION.match(line)):
                current = self.computations[found[2]] = []
                if found[1]:
                    self._entry = found[2]
            elif line.startswith("  ") and (instruction := _instruction(line)):
                current.append(instruction)
        self._types = {
            name: {instruction.name: instruction.arrays for instruction in body}
            for name, body in self.computations.items()
        }

    def work(self) -> Work:
        """Sums up everything that a device does in one run."""
        traffic = cycles = product_cycles = 0.0
        open_loops = 0
        timed = False
        found: dict[str, Collective] = {}
        for where, instruction, times in self._executed(self._entry, 1.0):
            if instruction.opcode == "while":
                open_loops += self._length(instruction) is None
                continue
            traffic += times * self._traffic(where, instruction)
            if estimate := _CYCLES.search(instruction.attributes):
                timed = True
                cycles += times * int(estimate[1])
                if _PRODUCT.search(instruction.attributes):
                    product_cycles += times * int(estimate[1])
            # A TPU hides collectives inside of fusions, and divides one over several of them: the
            # channel tells which of them are the same.
            for position, inner in ((where, instruction), *self._inside(instruction)):
                kind = inner.opcode.removesuffix("-start")
                if kind in COLLECTIVES:
                    channel = _CHANNEL.search(inner.attributes)
                    name = channel[1] if channel else f"{position}/{inner.name}"
                    collective = self._collective(position, inner, kind, times)
                    if name not in found or found[name].times < times:
                        found[name] = collective
        return Work(
            collectives=tuple(found.values()),
            traffic=traffic,
            cycles=cycles if timed else None,
            product_cycles=product_cycles,
            open_loops=open_loops,
        )

    def _executed(self, name: str, times: float) -> Iterator[tuple[str, Instruction, float]]:
        """Instructions that run, with how often; a branch of a conditional counts by its share."""
        for instruction in self.computations.get(name, ()):
            yield name, instruction, times
            if instruction.opcode == "while" and (body := instruction.called("body")):
                length = self._length(instruction)
                yield from self._executed(body, times * (1 if length is None else length))
            elif instruction.opcode == "conditional":
                branches = _branches(instruction.attributes)
                for branch in branches:
                    yield from self._executed(branch, times / len(branches))
            elif instruction.opcode == "call" and (body := instruction.called("to_apply")):
                yield from self._executed(body, times)

    def _inside(self, instruction: Instruction) -> Iterator[tuple[str, Instruction]]:
        called = instruction.called("calls")
        if called is None:
            return
        for inner in self.computations.get(called, ()):
            yield called, inner
            yield from self._inside(inner)

    def _length(self, loop: Instruction) -> int | None:
        """How often a loop runs, from its condition `index < constant`; None where it is open."""
        if known := _TRIP_COUNT.search(loop.attributes):
            return int(known[1])
        condition = self.computations.get(loop.called("condition") or "", [])
        constants = {
            instruction.name: int(value[1])
            for instruction in condition
            if instruction.opcode == "constant"
            and (
                value := re.match(
                    r"(\d+)$", instruction.operands[0] if instruction.operands else ""
                )
            )
        }
        for instruction in condition:
            if instruction.root and "direction=LT" in instruction.attributes:
                return constants.get(instruction.operands[1])
        return None

    def _collective(
        self, where: str, instruction: Instruction, kind: str, times: float
    ) -> Collective:
        given = [a for name in instruction.operands for a in self._types[where].get(name, ())]
        made = list(instruction.arrays)
        if instruction.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
            made = made[len(given) : 2 * len(given)]  # (given, made, ...)
        source = re.search(r'op_name="([^"]*)"', instruction.attributes)
        return Collective(
            kind=kind,
            group=self._group(instruction.attributes),
            times=times,
            arrays=tuple(made if kind == "all-gather" else given),
            source=source[1] if source else "",
        )

    def _group(self, attributes: str) -> int:
        """Size of one replica group, in any of the three ways to write them."""
        if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
            return len(listed[1].split(","))
        if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
            return int(counted[2])
        if meshed := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
            sizes = dict(re.findall(r"'([^']+)'=(\d+)", meshed[1]))
            return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", meshed[2]))
        return self._devices

    def _traffic(self, where: str, instruction: Instruction) -> int:
        opcode = instruction.opcode
        if opcode in _FREE or opcode in ("while", "conditional", "call") or "-done" in opcode:
            return 0
        types = self._types[where]
        given = [types.get(name, ()) for name in instruction.operands]
        if opcode.endswith("-start"):  # its type names what it takes and what it makes
            return _stored(instruction.arrays)
        if opcode == "dynamic-slice":
            return 2 * _stored(instruction.arrays)
        if opcode == "dynamic-update-slice":
            return 2 * _stored(given[1])
        called = instruction.called("calls") if opcode == "fusion" else None
        if called is None:
            return _stored(instruction.arrays) + sum(map(_stored, given))
        return self._fusion_traffic(called, given, instruction.arrays)

    def _fusion_traffic(
        self, called: str, given: list[tuple[Array, ...]], made: tuple[Array, ...]
    ) -> int:
        """An array that a fusion cuts a slice from, or writes one into, counts by the slice."""
        body, types = self.computations[called], self._types[called]
        users: dict[str, list[Instruction]] = collections.defaultdict(list)
        for instruction in body:
            for name in instruction.operands:
                users[name].append(instruction)
        total = 0
        for instruction in body:
            if instruction.opcode != "parameter":
                continue
            arrays = given[int(instruction.operands[0])]
            sliced = [_slice_of(instruction.name, user, types) for user in users[instruction.name]]
            sizes = [size for size in sliced if size is not None]
            if sliced and len(sizes) == len(sliced):
                if _stored(arrays):
                    total += sum(sizes)
            else:
                total += _stored(arrays)
        root = next(instruction for instruction in body if instruction.root)
        by_name = {instruction.name: instruction for instruction in body}
        results = root.operands if root.opcode == "tuple" else (root.name,)
        for name, array in zip(results, made, strict=False):
            maker = by_name.get(name, root)
            while maker.opcode == "bitcast":
                maker = by_name[maker.operands[0]]
            if maker.opcode == "dynamic-update-slice" and not array.on_chip:
                total += sum(part.bytes for part in types[maker.operands[1]])
            else:
                total += _stored((array,))
        return total


_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+)\s.*\{$")
_HEAD = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^}]*\})?")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_PRODUCT = re.compile(r"convolution_algorithm_config")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


def _instruction(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        return None
    closing = _closing(rest, opcode.end() - 1)
    inside = rest[opcode.end() : closing]
    if opcode[1] in ("parameter", "constant"):
        operands = (inside.strip(),)
    else:
        operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(
        name=head[2],
        opcode=opcode[1],
        arrays=_arrays(rest[:end]),
        operands=operands,
        attributes=rest[closing + 1 :],
        root=head[1] is not None,
    )


def _closing(text: str, start: int = 0) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        if text[position] == "(":
            depth += 1
        elif text[position] == ")":
            depth -= 1
            if depth == 0:
                return position
    return len(text)


def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(map(int, shape.split(","))) if shape else (), "S(1)" in layout)
        for dtype, shape, layout in _ARRAY.findall(text)
    )


def _branches(attributes: str) -> list[str]:
    if listed := re.search(r"branch_computations=\{([^}]*)\}", attributes):
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", attributes)


def _stored(arrays: tuple[Array, ...]) -> int:
    """Bytes of the arrays that lie in the device's memory."""
    return sum(array.bytes for array in arrays if not array.on_chip)


def _slice_of(name: str, user: Instruction, types: Mapping[str, tuple[Array, ...]]) -> int | None:
    """Bytes that a user of an array touches where it takes a slice or writes one; else None."""
    if user.operands[0] != name:
        return None
    if user.opcode == "dynamic-slice":
        return sum(array.bytes for array in user.arrays)
    if user.opcode == "dynamic-update-slice":
        return 0  # what it writes is counted as the fusion's result
    return None
