"""Cells: one network on one task by one protocol."""

import dataclasses
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from retfm_jax.data.class_files import FileSource
from retfm_jax.data.segmented import masks_alone
from retfm_jax.data.tasks import unknown_classes
from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import EmbeddedSplit, View, embed_split
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.metrics.retrieval import DIRECTIONS, RECALL_AT, retrieve
from retfm_jax.evaluation.protocols.few_shot import Shots, draw
from retfm_jax.evaluation.protocols.supervised import Images
from retfm_jax.evaluation.protocols.zero_shot import check_classes, zero_shot
from retfm_jax.evaluation.requirements import check_reports
from retfm_jax.evaluation.study import undecodable
from retfm_jax.experiments.benchmark.features import seen_by
from retfm_jax.experiments.benchmark.fine_tuning import Tuned, keep_chosen, tune
from retfm_jax.experiments.benchmark.heads import Chosen, Examples, choose_head
from retfm_jax.experiments.benchmark.masked import Masked
from retfm_jax.experiments.benchmark.networks import Network, Networks
from retfm_jax.experiments.benchmark.photographs import Photographs, Place, raw_test
from retfm_jax.experiments.benchmark.results import (
    Cell,
    CellResult,
    Cost,
    Hits,
    cell_folder,
    task_folder,
)
from retfm_jax.experiments.benchmark.suite import (
    FewShot,
    FineTune,
    LinearProbe,
    Retrieval,
    Segment,
    Suite,
    Training,
    ZeroShot,
)
from retfm_jax.experiments.benchmark.trials import (
    ClassTrial,
    Found,
    MaskTrial,
    Trial,
    network_cost,
)
from retfm_jax.files import Path
from retfm_jax.knowledge.prompts import prompts_of

#: In the folder of a cell that trains: its runs while they last, and the network that is kept.
RUNS, KEPT = "runs", "network"


class NotApplicable(Exception):
    """A network or a task cannot do what a protocol asks; the message says why."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """What every cell is measured with.

    Attributes:
      suite: what was asked.
      place: folders and lists.
      networks: of the suite.
    """

    suite: Suite
    place: Place
    networks: Networks


@dataclasses.dataclass(frozen=True)
class _Work:
    """A cell with its network and what its protocol needs of its task, opened."""

    bench: Bench
    cell: Cell
    network: Network
    opened: Photographs | Masked | None

    @property
    def photographs(self) -> Photographs:
        """What protocols of classes and texts work on."""
        assert isinstance(self.opened, Photographs), "see `measure_cell`"
        return self.opened

    @property
    def shared(self) -> Path:
        """Folder of what the cells of a network on a task share."""
        return task_folder(self.bench.place.out, self.cell.model, self.cell.task)

    @property
    def folder(self) -> Path:
        """Folder of the cell."""
        return cell_folder(self.bench.place.out, self.cell)

    def examples(self) -> tuple[dict[str, Examples], float]:
        """Features of every split with their labels, and the seconds that they took."""
        examples, spent = {}, 0.0
        for split, images in self.photographs.labeled().items():
            found, seconds = seen_by(self.network, images, "features", self.shared)
            examples[split] = Examples(found, images.labels)
            spent += seconds
        return examples, spent

    def cost(self, seconds: Mapping[str, float], **more: Any) -> Cost:
        tower = self.network.cost
        values = {
            "parameters": tower.parameters,
            "trained_parameters": 0,
            "image_flops": tower.flops,
            "training_flops": 0.0,
            "memory_bytes": tower.memory,
        }
        return Cost(**{**values, **more}, seconds=dict(seconds), peak_rss=_peak_rss())


def measure_cell(bench: Bench, cell: Cell, opened: Photographs | Masked | None) -> CellResult:
    """Measures a cell.

    Args:
      bench: with what.
      cell: which one.
      opened: the photographs of its task; of the protocol `Segment` those with masks, None where
        the task has none.

    Raises:
      Held: another process is making what this cell needs.
      Stopped: a signal ended its training.
      UserError: a mistake of the user ends it.
    """
    settings = bench.suite.protocols[cell.protocol]
    entry = bench.suite.models[cell.model]
    network = bench.networks.open(cell.model, entry)
    work = _Work(bench, cell, network, opened)
    try:
        match settings:
            case ZeroShot():
                return _zero_shot(work, settings)
            case Retrieval():
                return _retrieval(work)
            case LinearProbe():
                return _linear_probe(work, settings)
            case FewShot():
                return _few_shot(work, settings)
            case FineTune():
                return _fine_tune(work, settings)
            case Segment():
                return _segment(work, settings)
    except NotApplicable as reason:
        return CellResult(cell, "not applicable", str(reason))


def _need_texts(work: _Work) -> None:
    if work.network.model.method.text is None:
        method = work.network.model.method.name
        raise NotApplicable(f"a {method} network takes images alone, and has no texts to compare")


def _need_labels(work: _Work) -> Mapping[str, Images]:
    if work.photographs.splits is None:
        raise NotApplicable("the task has no labels of single photographs")
    return work.photographs.splits


def _zero_shot(work: _Work, settings: ZeroShot) -> CellResult:
    _need_texts(work)
    test = _need_labels(work)["test"]
    names = work.photographs.facts.classes
    skip = unknown_classes(names)
    try:
        check_classes(names, skip)
    except UserError as error:
        raise NotApplicable(str(error)) from error
    embedded, seconds = seen_by(work.network, test, "embeddings", work.shared)
    view = View(
        images=embedded,
        seen=np.ones(len(embedded), bool),
        labels=test.labels.astype(np.int8),
        texts={},
    )
    split = EmbeddedSplit(
        views={"image": view},
        records=test.chosen,
        record_ids=tuple(map(str, test.rows)),
        patient_ids=test.patients,
        reports={},
        label_names=names,
    )
    # Without the wording of anybody's training reports: the same prompts for every network.
    prompts = prompts_of(settings.prompts, work.photographs.facts.modality)
    begun = time.perf_counter()
    found = zero_shot(work.network.model, split, work.cell.setting, prompts, skip).levels["image"]
    predictions = dataclasses.replace(
        found, samples=tuple((test.rows[row], side) for row, side in found.samples)
    )
    notes = ()
    if skip:
        notes = (f"left out, for the vocabulary has no such condition: {', '.join(skip)}",)
    spent = {"embedding": seconds, "texts": time.perf_counter() - begun}
    return CellResult(
        work.cell, "measured", predictions=(predictions,), cost=work.cost(spent), notes=notes
    )


def _retrieval(work: _Work) -> CellResult:
    _need_texts(work)
    bench, language, model = work.bench, work.cell.setting, work.network.model
    if masks_alone(bench.suite.tasks[work.cell.task].dataset):
        raise NotApplicable("the task has masks, and no reports")
    source = raw_test(bench.place, bench.suite.tasks[work.cell.task])
    if isinstance(source, FileSource):
        raise NotApplicable("the task is one of files, which have no reports")
    try:
        check_reports(source, [language])
    except UserError as error:
        raise NotApplicable(str(error)) from error
    begun = time.perf_counter()
    batch = model.config.evaluation.batch_size
    split = embed_split(model, source, source.label_names, [language], batch)
    found = retrieve(split, language)
    hits = Hits(
        found={
            direction: np.stack([found.ranks[direction] <= k for k in RECALL_AT], axis=1)
            for direction in DIRECTIONS
        },
        patients=tuple(split.patient_ids[row] for row in found.rows),
        samples=tuple(int(row) for row in found.rows),
    )
    spent = {"embedding": time.perf_counter() - begun}
    notes = undecodable(split.damaged)
    return CellResult(work.cell, "measured", hits=hits, cost=work.cost(spent), notes=tuple(notes))


def _linear_probe(work: _Work, settings: LinearProbe) -> CellResult:
    splits = _need_labels(work)
    found, seconds = work.examples()
    begun = time.perf_counter()
    judge = work.photographs.judge
    head = choose_head(found["train"], found["validation"], settings.strength, judge)
    spent = {"embedding": seconds, "fitting": time.perf_counter() - begun}
    return _probed(work, splits["test"], found["test"], {work.bench.suite.seed: head}, spent)


def _few_shot(work: _Work, settings: FewShot) -> CellResult:
    splits = _need_labels(work)
    shots = Shots(per_class=settings.shots[settings.settings.index(work.cell.setting)])
    names, seeds = work.photographs.facts.classes, work.bench.suite.seed_range()
    training = splits["train"]
    try:
        supports = [draw(shots, training.labels, training.patients, names, s) for s in seeds]
    except UserError as error:
        raise NotApplicable(str(error)) from error
    found, seconds = work.examples()
    train, validation = found["train"], found["validation"]
    begun, heads = time.perf_counter(), {}
    for seed, rows in zip(seeds, supports, strict=True):
        chosen = _judged_rows(splits["validation"], shots, seed)
        heads[seed] = choose_head(
            Examples(train.features[rows], train.labels[rows]),
            Examples(validation.features[chosen], validation.labels[chosen]),
            settings.strength,
            work.photographs.judge,
        )
    spent = {"embedding": seconds, "fitting": time.perf_counter() - begun}
    return _probed(work, splits["test"], found["test"], heads, spent)


def _probed(
    work: _Work,
    images: Images,
    test: Examples,
    heads: Mapping[int, Chosen],
    spent: Mapping[str, float],
) -> CellResult:
    """The cell of heads by seed, each with its predictions of the test split."""
    metric, weights = work.photographs.judge.metric, test.features.shape[1] + 1
    return CellResult(
        work.cell,
        "measured",
        predictions=tuple(
            _predictions(work, images, head.predict(test.features)) for head in heads.values()
        ),
        chosen=tuple(_said(head, metric, seed) for seed, head in heads.items()),
        cost=work.cost(spent, trained_parameters=weights * test.labels.shape[1]),
        notes=_unfinished(list(heads.values())),
    )


def _judged_rows(validation: Images, shots: Shots, seed: int) -> np.ndarray:
    """As many validation photographs of each class as the support has; fewer where fewer are there.

    Who has few photographs to learn from has few to choose by.
    """
    shown = np.flatnonzero((validation.labels == 1).any(0))
    labels, names = validation.labels[:, shown], [str(column) for column in shown]
    for count in range(shots.per_class or 1, 0, -1):
        try:
            return draw(Shots(per_class=count), labels, validation.patients, names, seed)
        except UserError:
            continue
    return np.arange(len(validation.rows))


def _fine_tune(work: _Work, settings: FineTune) -> CellResult:
    _need_labels(work)
    tuned = _tuned(work, settings, ClassTrial(work.photographs))
    cost = work.cost(tuned.seconds, **_of_training(tuned))
    return CellResult(
        work.cell, "measured", predictions=tuned.found, chosen=tuned.chosen, cost=cost
    )


def _segment(work: _Work, settings: Segment) -> CellResult:
    if not isinstance(work.opened, Masked):
        raise NotApplicable("the task has no masks")
    tuned = _tuned(work, settings, MaskTrial(work.opened))
    cost = work.cost(tuned.seconds, **_of_training(tuned), **network_cost(tuned.config))
    return CellResult(work.cell, "measured", masks=tuned.found, chosen=tuned.chosen, cost=cost)


def _tuned(work: _Work, settings: Training, trial: Trial[Found]) -> Tuned[Found]:
    """Runs of training, of which one may be kept."""
    suite, runs = work.bench.suite, work.folder / RUNS
    initial = work.bench.networks.initial(work.network)
    changes = suite.tasks[work.cell.task].changes
    tuned = tune(settings, trial, changes, initial, suite.seed_range(), runs)
    if settings.keep:
        keep_chosen(tuned, runs, work.folder / KEPT)
    return tuned


def _of_training(tuned: Tuned[Any]) -> dict[str, Any]:
    return {
        "trained_parameters": tuned.parameters,
        "training_flops": tuned.flops,
        "memory_bytes": tuned.memory,
    }


def _predictions(work: _Work, test: Images, scores: np.ndarray) -> Predictions:
    return Predictions(
        names=work.photographs.facts.classes,
        labels=test.labels,
        scores=scores,
        patients=test.patients,
        samples=tuple((row, None) for row in test.rows),
        exclusive=work.photographs.exclusive,
    )


def _said(head: Chosen, metric: str, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "values": {"strength": head.strength},
        "metric": metric,
        "points": list(head.points),
    }


def _unfinished(heads: list[Chosen]) -> tuple[str, ...]:
    count = sum(head.unfinished for head in heads)
    return (f"{count} logistic regressions of the grid did not converge",) if count else ()


def _peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
