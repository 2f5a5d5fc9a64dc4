"""Collectives, memory traffic and the compiler's own timing, read from a compiled program.

XLA's cost analysis looks once at the body of a loop, however often it runs. Here the text of the
optimized program is read, and every loop counts as often as its condition tells.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Hashable, Iterator, Sequence

from retfm_jax.runtime.chips import Chip

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

#: Transcendental functions that a TPU's core computes in a cycle: one for each of 8 x 128 lanes.
_LANES = 1024

#: Instructions that read of their first operand what they make, no more.
_SLICING = ("slice", "dynamic-slice", "gather")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's type.

    Attributes:
      dtype: as HLO names it, such as "bf16".
      shape: of the array.
      layout: as HLO writes it, "1,0:T(8,128)(2,1)S(1)": its axes from the fastest one, tiles, and
        the memory that it lies in; "" where it is not told.
    """

    dtype: str
    shape: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> int:
        """Size in bytes without the padding of its layout."""
        return math.prod(self.shape) * self._bits // 8

    @property
    def stored_bytes(self) -> int:
        """Size in bytes with that padding: a TPU stores f32[197,197] as 200 x 256."""
        return _stored_size(self.shape, self.layout) * self._bits // 8

    @property
    def on_chip(self) -> bool:
        """Whether the compiler placed it in the chip's own memory (a TPU's VMEM, a v4's CMEM)."""
        return "S(1)" in self.layout or "S(3)" in self.layout

    @property
    def _bits(self) -> int:
        bits = _BITS.get(self.dtype)
        return int(re.findall(r"\d+", self.dtype)[0]) if bits is None else bits  # "f8e4m3fn" has 8


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

    @property
    def cycles(self) -> int | None:
        """Cycles of one run as the TPU's compiler expects them; None where it does not tell."""
        found = _CYCLES.search(self.attributes)
        return int(found[1]) if found else None

    @property
    def is_product(self) -> bool:
        """Whether it is one of matrices, or a convolution, on a TPU."""
        return _PRODUCT in self.attributes


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of our own (Pallas) as often as it runs, by the costs that it states.

    The compiler knows nothing of what is in it.

    Attributes:
      name: of its instruction.
      times: how often it runs in a step.
      flops, transcendentals: of one run.
      traffic: bytes of one run between the device's memory and the chip.
    """

    name: str
    times: float
    flops: int
    transcendentals: int
    traffic: int

    def seconds(self, chip: Chip) -> float:
        """Seconds of one run by what it states: products, transcendentals or memory.

        Args:
          chip: a TPU.
        """
        transcendentals = self.transcendentals / (_LANES * chip.clock) if chip.clock else 0.0
        return max(self.flops / chip.bfloat16, transcendentals, self.traffic / chip.bandwidth)


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
      kernels: that it runs; their traffic is part of `traffic`, their time no part of `cycles`.
      traffic: bytes that its instructions read from its memory and write to it.
      cycles: of its clock, as the TPU's compiler expects them; None where the compiler does not
        tell.
      product_cycles: those of them in instructions around matrix products.
      open_loops: loops whose length the program does not tell; they count once.
    """

    collectives: tuple[Collective, ...]
    kernels: tuple[Kernel, ...]
    traffic: float
    cycles: float | None
    product_cycles: float
    open_loops: int

    def kernel_seconds(self, chip: Chip) -> float:
        """Seconds of all kernels in a step, by what they state.

        Args:
          chip: a TPU.
        """
        return sum(kernel.times * kernel.seconds(chip) for kernel in self.kernels)


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
        kernels = []
        for where, instruction, times in self.executed():
            if instruction.opcode == "while":
                open_loops += self._length(instruction) is None
                continue
            traffic += times * self.traffic(where, instruction)
            if _KERNEL in instruction.attributes:
                kernels.append(self._kernel(where, instruction, times))
            if (estimate := instruction.cycles) is not None:
                timed = True
                cycles += times * estimate
                product_cycles += times * estimate * instruction.is_product
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
            kernels=tuple(kernels),
            traffic=traffic,
            cycles=cycles if timed else None,
            product_cycles=product_cycles,
            open_loops=open_loops,
        )

    def executed(self) -> Iterator[tuple[str, Instruction, float]]:
        """Lists the instructions that run: computation, instruction, how often in a step.

        A branch of a conditional counts by its share.
        """
        return self._executed(self._entry, 1.0)

    def _executed(self, name: str, times: float) -> Iterator[tuple[str, Instruction, float]]:
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

    def signature(self, where: str, instruction: Instruction) -> Hashable:
        """What two instructions of a program share exactly where they are equal but for names.

        Args:
          where: the computation that it stands in.
          instruction: one of `executed`.
        """
        types = self._types[where]
        called = instruction.called("calls")
        return (
            instruction.opcode,
            instruction.arrays,
            tuple(types.get(name, name) for name in instruction.operands),
            None if called is None else self._body(called),
        )

    @functools.cache  # noqa: B019 - a module is read once and goes with its plan
    def _body(self, name: str) -> Hashable:
        """A computation without the names in it."""
        body = self.computations.get(name, ())
        numbers = {instruction.name: number for number, instruction in enumerate(body)}
        return tuple(
            (
                instruction.opcode,
                instruction.arrays,
                tuple(numbers.get(operand, operand) for operand in instruction.operands),
                _OF_NAMES.sub("", _META.sub("", instruction.attributes)),
                None if (called := instruction.called("calls")) is None else self._body(called),
            )
            for instruction in body
        )

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

    def _kernel(self, where: str, instruction: Instruction, times: float) -> Kernel:
        costs = _costs(instruction)
        return Kernel(
            name=instruction.name,
            times=times,
            flops=costs.get("flops", 0),
            transcendentals=costs.get("transcendentals", 0),
            traffic=self.traffic(where, instruction),
        )

    def traffic(self, where: str, instruction: Instruction) -> int:
        """Bytes that one run of an instruction moves between the device's memory and the chip.

        Arrays count with the padding of their layout.

        Args:
          where: the computation that it stands in.
          instruction: one of `executed`; loops, conditionals and calls move nothing themselves.
        """
        opcode, made = instruction.opcode, instruction.arrays
        if opcode in _FREE or opcode in ("while", "conditional", "call") or "-done" in opcode:
            return 0
        if _ALLOCATION in instruction.attributes:
            return 0
        types = self._types[where]
        given = [types.get(name, ()) for name in instruction.operands]
        if _KERNEL in instruction.attributes and "bytes_accessed" in _costs(instruction):
            return max(_costs(instruction)["bytes_accessed"] - _on_chip(made, *given), 0)
        if opcode == "slice-start":  # (all of what it takes, the slice, ...)
            return _slices(given[0], made[len(given[0]) :][:1]) + _stored(made[len(given[0]) :][:1])
        if opcode.endswith("-start"):  # its type names what it takes and what it makes
            return _stored(made)
        if opcode in _SLICING:
            return _slices(given[0], made) + _stored(made, *given[1:])
        if opcode == "dynamic-update-slice":
            return _stored(given[1]) + _slices(made, given[1])
        called = instruction.called("calls") if opcode == "fusion" else None
        if called is None:
            return _stored(made, *given)
        return self._fusion_traffic(called, given, made)

    def _fusion_traffic(
        self, called: str, given: list[tuple[Array, ...]], made: tuple[Array, ...]
    ) -> int:
        """An array that a fusion cuts slices from, or writes one into, counts by the slices."""
        body = self.computations[called]
        total = 0
        for instruction in body:
            if instruction.opcode == "parameter":
                arrays = given[int(instruction.operands[0])]
                cut = self._cut(called, instruction.name)
                total += _stored(arrays) if cut is None else _slices(arrays, cut)
        root = next(instruction for instruction in body if instruction.root)
        results = root.operands if root.opcode == "tuple" else (root.name,)
        for name, array in zip(results, made, strict=False):
            total += _slices((array,), self._written(called, name) or (array,))
        return total

    def _written(self, where: str, name: str) -> tuple[Array, ...] | None:
        """The slice that a result of a fusion writes into an array; None: all of the array."""
        maker = next(each for each in self.computations[where] if each.name == name)
        if maker.opcode == "bitcast":
            return self._written(where, maker.operands[0])
        if maker.opcode == "fusion" and (inner := maker.called("calls")):
            root = next(each for each in self.computations[inner] if each.root)
            return self._written(inner, root.name)
        if maker.opcode == "dynamic-update-slice":
            return self._types[where][maker.operands[1]]
        return None

    def _cut(self, where: str, name: str) -> tuple[Array, ...] | None:
        """Slices of an array of a fusion, where nothing else is done with it; else None."""
        cuts: list[Array] = []
        users = [user for user in self.computations[where] if name in user.operands]
        for user in users:
            part = self._cut_by(where, name, user)
            if part is None:
                return None
            cuts += part
        return tuple(cuts) if users else None

    def _cut_by(self, where: str, name: str, user: Instruction) -> tuple[Array, ...] | None:
        if user.opcode == "bitcast":
            return self._cut(where, user.name)
        if user.opcode == "fusion" and (inner := user.called("calls")):
            parameters = [
                each.name
                for each in self.computations[inner]
                if each.opcode == "parameter" and user.operands[int(each.operands[0])] == name
            ]
            cuts = [self._cut(inner, parameter) for parameter in parameters]
            return None if None in cuts else tuple(array for cut in cuts for array in cut or ())
        if user.operands[0] != name:
            return None
        if user.opcode in _SLICING:
            return user.arrays
        # What an update writes is counted as the fusion's result.
        return () if user.opcode == "dynamic-update-slice" else None


_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+)\s.*\{$")
_HEAD = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_PRODUCT = "convolution_algorithm_config"
_META = re.compile(r", (?:metadata=\{[^}]*\}|(?:backend_config|sharding|frontend_attributes)=.*$)")
_OF_NAMES = re.compile(r"\b(?:calls|to_apply)=%?[\w.\-]+")
_CHANNEL = re.compile(r"channel_id=(\d+)")
#: An instruction that makes room for what others write.
_ALLOCATION = 'custom_call_target="AllocateBuffer"'
_KERNEL = 'custom_call_target="tpu_custom_call"'
_COSTS = re.compile(r'"cost_estimate":\{([^}]*)\}')
_COST = re.compile(r'"(\w+)":"?(\d+)')
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
        Array(dtype, tuple(map(int, sizes.split(","))) if sizes else (), layout)
        for dtype, sizes, layout in _ARRAY.findall(text)
    )


@functools.cache
def _stored_size(shape: tuple[int, ...], layout: str) -> int:
    """Elements that an array takes in memory, where a layout fills its last tiles up."""
    order, _, rest = layout.partition(":")
    tile = _TILE.search(rest)
    if tile is None or not order:
        return math.prod(shape)
    sizes = [shape[int(axis)] for axis in order.split(",")]
    # A second tile, such as (2,1), orders what is in the first one.
    tiles = [int(size) for size in reversed(tile[1].split(","))]
    for axis, size in zip(range(len(sizes)), tiles, strict=False):
        sizes[axis] = -(-sizes[axis] // size) * size
    return math.prod(sizes)


def _costs(kernel: Instruction) -> dict[str, int]:
    """What a kernel states of one run: "flops", "transcendentals", "bytes_accessed"."""
    stated = _COSTS.search(kernel.attributes)
    return {name: int(value) for name, value in _COST.findall(stated[1])} if stated else {}


def _branches(attributes: str) -> list[str]:
    if listed := re.search(r"branch_computations=\{([^}]*)\}", attributes):
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", attributes)


def _stored(*groups: Sequence[Array]) -> int:
    """Bytes of the arrays that lie in the device's memory."""
    return sum(array.stored_bytes for group in groups for array in group if not array.on_chip)


def _on_chip(*groups: Sequence[Array]) -> int:
    """Bytes of the arrays that lie on the chip."""
    return sum(array.bytes for group in groups for array in group if array.on_chip)


def _slices(whole: Sequence[Array], slices: Sequence[Array]) -> int:
    """Bytes of slices of an array, if it lies in the device's memory."""
    stored = any(not array.on_chip for array in whole)
    return sum(part.stored_bytes for part in slices) if stored else 0
