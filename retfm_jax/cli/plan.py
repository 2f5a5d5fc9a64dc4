"""`retfm plan`: the real training step, compiled for devices that need not be here."""

import argparse
import collections
import contextlib
import re
from typing import TYPE_CHECKING

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb
from retfm_jax.cli.tables import Table
from retfm_jax.console import say
from retfm_jax.errors import UserError

if TYPE_CHECKING:
    from retfm_jax.planning.hlo import Collective
    from retfm_jax.planning.machine_code import Bound
    from retfm_jax.planning.plan import Plan, Rule
    from retfm_jax.planning.topologies import Topology


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "plan",
        run,
        "compile the training step for devices that need not be here: memory, time, collectives",
    )
    options.config(parser)
    parser.add_argument(
        "--topology", required=True, help="v5e:16x16, v5p:4x4x8, ..., gpu:h100x8, or here"
    )
    parser.add_argument(
        "--machine_code",
        action="store_true",
        help="read the TPU's final machine code for a bound of the step; takes longer",
    )
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument(
        "--largest_batch", action="store_true", help="search it; takes several compilations"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
      UserError: no such topology or config, a batch that does not divide, no compiler.
    """
    from retfm_jax.config import load_config
    from retfm_jax.files import check_writable, write_json
    from retfm_jax.planning.machine_code import check_topology, recording
    from retfm_jax.planning.plan import largest_batch, plan
    from retfm_jax.planning.topologies import open_topology
    from retfm_jax.training.requirements import check_vocabularies

    config = load_config(args.config, args.overrides)
    check_vocabularies(config, present=True)
    if args.out:
        check_writable(args.out)
    with recording() if args.machine_code else contextlib.nullcontext() as recorded:
        topology = open_topology(args.topology)
        if recorded is not None:
            check_topology(topology)
        say(f"compiling for {topology.name}", error=True)
        planned = plan(config, topology, recorded)
        document = planned.to_json()
        show(planned)
        if args.largest_batch:
            largest = largest_batch(planned)
            document["largest_batch"] = largest
            say(f"largest batch that fits: {largest:,}", style="bold")
    if args.out:
        write_json(args.out, document)
        say(f"wrote {args.out}")
    if recorded is not None and planned.work is not None and planned.bound is None:
        raise UserError(
            f"{topology.name}: this version of libtpu writes no machine code, so there is no bound "
            "of it; all else is told above"
        )


def show(planned: "Plan") -> None:
    """Prints a plan for people."""
    topology, train = planned.topology, planned.config.train
    parts = f" in {train.microbatches} parts" if train.microbatches > 1 else ""
    say(
        f"{planned.config.method}, batch {train.batch_size:,}{parts}, on {topology.name}: "
        f"{len(topology.devices)} devices",
        style="bold",
    )
    if planned.stage:
        say(f"the costliest step, that of {planned.stage}")
    say(_verdict(planned), style="green" if planned.fits else "red")
    if not topology.real:
        say(
            "Parameters, optimizer state, batch and FLOPs are exact. Temporaries, traffic and "
            "collectives are those of the program that the CPU's compiler makes: an estimate."
        )
    _memory_table(planned).show()
    _rules_table(planned.rules).show()
    if planned.work is not None:
        _collectives_table(planned.work.collectives, topology).show()
        _time_table(planned).show()
    if planned.bound is not None:
        say(_bound_note(planned.bound))
    say(f"compiled in {planned.compilation:,.0f} s")


def _verdict(planned: "Plan") -> str:
    if planned.capacity is None:
        return f"needs {_size(planned.needed)} a device; the memory of this device is not known"
    sizes = f"{_size(planned.needed)} of {_size(planned.capacity)} a device"
    if planned.fits:
        over = planned.needed > planned.capacity
        how = " (the sum of all kinds; the compiler lays some over others)" if over else ""
        return f"fits: {sizes}{how}"
    missing = _size(planned.needed - planned.capacity)
    return (
        f"does not fit: {sizes}, {missing} too much. Raise config.train.microbatches "
        "or config.mesh.fsdp, set model.*.remat=full, or lower config.train.batch_size"
    )


def _memory_table(planned: "Plan") -> Table:
    table = Table("memory of a device", ("kind", "bytes"))
    for name, size in planned.memory.items():
        table.row(name, _size(size))
    table.row("all", _size(planned.needed), style="bold")
    return table


def _rules_table(rules: "tuple[Rule, ...]") -> Table:
    """Parameters that differ in numbers of their path alone share a row, small ones too."""
    groups: dict[tuple[str, str, str], list[Rule]] = collections.defaultdict(list)
    largest = max(rule.bytes_per_device for rule in rules)
    for rule in rules:
        path = re.sub(r"\d+", "*", rule.path)
        shape = " x ".join(map(str, rule.shape))
        if rule.bytes_per_device < largest / 1000:
            path, shape = "small ones", ""
        groups[path, shape, rule.spec].append(rule)
    table = Table(
        "parameters on the mesh (gradients, moments and momentum copies lie alike)",
        ("path", "shape", "sharded over", "arrays", "bytes a device"),
        words=("shape", "sharded over"),
    )
    for (path, shape, spec), members in groups.items():
        size = sum(rule.bytes_per_device for rule in members)
        table.row(path, shape, spec, str(len(members)), _size(size))
    return table


def _collectives_table(collectives: "tuple[Collective, ...]", topology: "Topology") -> Table:
    groups: dict[tuple[str, int, str], list[Collective]] = collections.defaultdict(list)
    for collective in collectives:
        groups[collective.kind, collective.group, _location(collective.source)].append(collective)
    heads = ("kind", "of devices", "times", "bytes", "time", "where")
    table = Table("collectives of a step", heads, words=("where",))
    rows = []
    for (kind, group, location), members in groups.items():
        size = sum(member.times * member.bytes for member in members)
        times = sum(member.times for member in members)
        rows.append((size, kind, group, times, members, location))
    for size, kind, group, times, members, location in sorted(rows, key=lambda row: -row[0]):
        bandwidth = topology.bandwidth(group)
        duration = "?"
        if bandwidth is not None:
            duration = _duration(sum(member.seconds(bandwidth) for member in members))
        table.row(kind, str(group), f"{times:g}", _size(size), duration, location)
    return table


def _location(source: str) -> str:
    """The compiler's name of an operation, short."""
    location = "forward" if "jvp(" in source else "elsewhere"
    if "transpose(" in source:
        location = "backward"
    return f"{location}, in a loop" if "/while/" in source else location


def _time_table(planned: "Plan") -> Table:
    seconds, work = planned.seconds, planned.work
    assert work is not None, "without it there is nothing to show"
    devices = len(planned.topology.devices)
    table = Table("one step", ("", "of a device", "at least"))

    def duration(name: str) -> str:
        value = getattr(seconds, name, None)
        return "?" if value is None else _duration(value)

    def of_a_device(flops: int | None) -> str:
        return "?" if flops is None else _count(flops / devices)

    table.row("FLOPs, model", of_a_device(planned.model_flops), "")
    table.row(
        "FLOPs, with what is computed again",
        of_a_device(planned.program_flops),
        duration("compute"),
    )
    table.row("memory traffic", _size(work.traffic), duration("memory"))
    sent = sum(collective.times * collective.bytes for collective in work.collectives)
    table.row("collectives", _size(sent), duration("network"))
    if seconds is not None and seconds.schedule is not None:
        table.row("cycles, as the compiler expects", _count(work.cycles or 0), duration("schedule"))
    if work.kernels and (chip := planned.topology.chip) is not None:
        runs = sum(kernel.times for kernel in work.kernels)
        flops = sum(kernel.times * kernel.flops for kernel in work.kernels)
        name = f"FLOPs of kernels of our own, {runs:g} runs"
        table.row(name, _count(flops), _duration(work.kernel_seconds(chip)))
    if work.open_loops:
        table.row(f"{work.open_loops} loops of unknown length count once", "", "")
    if seconds is not None:
        rate = planned.config.train.batch_size / seconds.step
        table.section()
        table.row("limit", "", seconds.limit)
        table.row("a step, estimated", "", _duration(seconds.step), style="bold")
        table.row("samples a second, all devices", "", f"{rate:,.0f}")
        if planned.bound is not None:
            table.row(
                "the machine code's bound", "", _duration(planned.bound.seconds), style="bold"
            )
        if planned.share_of_peak is not None:
            share = f"share of peak: model FLOPs in {planned.share_of}"
            table.row(share, "", f"{planned.share_of_peak:.1%}")
    return table


def _bound_note(bound: "Bound") -> str:
    """What the bound of the machine code means, in a line, and what it leaves out."""
    note = (
        "The machine code's bound adds up, for one instruction after the other, the longest of "
        f"issue ({_duration(bound.issue)} alone), matrix units ({_duration(bound.products)}) and "
        f"memory ({_duration(bound.memory)}); by one public number a chip takes 1.1 to 1.15 times "
        "as long."
    )
    if bound.unread >= 0.005:
        note += (
            f" Code of {bound.unread:.0%} of the expected cycles was not found: only memory counts."
        )
    if bound.open_loops:
        note += f" {bound.open_loops} loops of unknown length in it count once."
    return note


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.3g} {unit}" if size % 1 else f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:,.2f} GiB"


def _count(number: float) -> str:
    for unit in ("", "K", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.2f} T"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms" if seconds >= 1e-4 else f"{seconds * 1e6:,.1f} us"
