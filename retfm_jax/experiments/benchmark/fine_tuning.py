"""Fine-tuning of a cell: runs of the one training loop, their grid chosen on validation."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from retfm_jax.config import ExperimentConfig, load_config
from retfm_jax.data.device_augment import prepare
from retfm_jax.data.kinds import get_kind
from retfm_jax.decisions import default_decisions
from retfm_jax.errors import UserError
from retfm_jax.evaluation.class_predictions import predict_classes
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.protocols.supervised import Images
from retfm_jax.experiments.benchmark.heads import Judge, Judged, better
from retfm_jax.experiments.benchmark.photographs import Photographs
from retfm_jax.experiments.benchmark.suite import FineTune
from retfm_jax.experiments.training import train_to_the_end
from retfm_jax.files import Path, read_json, remove, write_json
from retfm_jax.methods import make_method
from retfm_jax.model import RetinalModel, load
from retfm_jax.planning.plan import abstract_batch
from retfm_jax.runtime.checkpoints import FOLDER, whole_steps
from retfm_jax.runtime.compilation import held_bytes
from retfm_jax.runtime.mesh import make_mesh
from retfm_jax.training.setup import Setup

#: In the folder of a run: what its network is worth on validation.
SCORE = "score.json"
#: Metrics of a run's validation that a suite's metric can be.
_BEST = ("auroc", "average_precision", "aca", "accuracy", "f1", "kappa", "quadratic_kappa")
_OF_FINDINGS = ("auroc", "average_precision")


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Findings of the runs of a cell.

    Attributes:
      predictions: of the test split, one for each seed.
      chosen: as of `results.CellResult`.
      parameters: that were trained.
      flops: of all runs.
      memory: of a device, as a step is compiled, in bytes.
      seconds: by stage.
    """

    predictions: tuple[Predictions, ...]
    chosen: tuple[Mapping[str, Any], ...]
    parameters: int
    flops: float
    memory: int
    seconds: Mapping[str, float]


def fine_tune(
    settings: FineTune,
    photographs: Photographs,
    initial: str,
    seeds: range,
    folder: Path,
) -> Tuned:
    """Trains every learning rate with the first seed, and the best one with the others.

    A network is the one of its run that was best on validation. The test split is predicted when
    all that is chosen is chosen, once for each seed.

    Args:
      settings: of the suite.
      photographs: of the task.
      initial: weights that training begins with, as `config.init.image` takes them.
      seeds: of the runs.
      folder: gets a workdir for each run; what is there already is not trained again.

    Raises:
      Stopped: a signal ended a run before its last step.
      UserError: the configuration does not fit, or see `training.run_training`.
    """
    splits = photographs.labeled()
    begun = time.perf_counter()
    first = seeds[0]
    configs = {
        rate: _config(settings, photographs, initial, first, rate)
        for rate in settings.learning_rate
    }
    points: list[tuple[float, Judged]] = []
    for rate, config in configs.items():
        judged = _judged(config, _run_folder(folder, first, rate), splits, photographs.judge)
        points.append((rate, judged))
    best = points[better([(judged, rate) for rate, judged in points])][0]
    said = [{"learning_rate": rate, "score": j.score, "nll": j.nll} for rate, j in points]
    predictions, chosen = [], []
    for seed in seeds:
        workdir = _run_folder(folder, seed, best)
        config = _config(settings, photographs, initial, seed, best)
        judged = _judged(config, workdir, splits, photographs.judge)
        if seed != first:
            said = [{"learning_rate": best, "score": judged.score, "nll": judged.nll}]
        chosen.append(
            {
                "seed": seed,
                "values": {"learning_rate": best},
                "metric": photographs.judge.metric,
                "points": said,
            }
        )
        predictions.append(_predicted(load(workdir), splits["test"], photographs.exclusive))
    trained = time.perf_counter() - begun
    workdir = _run_folder(folder, first, best)
    model = load(workdir)
    parameters, flops, memory = _cost(model.config)
    steps = sum(
        whole_steps(run / FOLDER)[-1] for run in sorted(folder.iterdir()) if (run / SCORE).is_file()
    )
    return Tuned(
        predictions=tuple(predictions),
        chosen=tuple(chosen),
        parameters=parameters,
        flops=flops * steps,
        memory=memory,
        seconds={"training": trained},
    )


def keep_chosen(tuned: Tuned, folder: Path, target: Path) -> None:
    """Keeps the chosen network of the first seed.

    Args:
      tuned: the findings.
      folder: of the runs.
      target: a new checkpoint folder; one that is there is replaced.

    Raises:
      UserError: it cannot be written.
    """
    first = tuned.chosen[0]
    remove(target)
    load(_run_folder(folder, first["seed"], first["values"]["learning_rate"])).save(target)


def _run_folder(folder: Path, seed: int, rate: float) -> Path:
    return folder / f"seed_{seed}_rate_{rate:g}"


def _config(
    settings: FineTune, photographs: Photographs, initial: str, seed: int, rate: float
) -> ExperimentConfig:
    """The configuration of a run, with everything that the benchmark decides."""
    config = load_config(settings.config, settings.changes)
    method = make_method(config.method, config.model)
    if get_kind(method.sample_kind).told != "classes":
        raise UserError(
            f"protocols.fine_tune.config: {settings.config} trains a {config.method} network, "
            "which has no classes: name a configuration of fine-tuning"
        )
    data = dataclasses.replace(
        photographs.data, image=config.data.image, augment=config.data.augment,
        workers=config.data.workers, threads=config.data.threads, prefetch=config.data.prefetch,
    )  # fmt: skip
    known = _BEST if photographs.exclusive else _OF_FINDINGS
    metric = photographs.judge.metric if photographs.judge.metric in known else "auroc"
    if metric == "quadratic_kappa" and photographs.judge.order is None:
        metric = "auroc"
    train = dataclasses.replace(
        config.train,
        seed=seed,
        best=metric,
        epochs=settings.epochs or config.train.epochs,
        batch_size=settings.batch_size or config.train.batch_size,
        evaluate_epochs=config.train.evaluate_epochs or 1.0,
        keep=1,
    )
    return dataclasses.replace(
        config,
        data=data,
        train=train,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=rate),
        init=dataclasses.replace(config.init, image=initial, weights=None, text=None),
    )


def _judged(
    config: ExperimentConfig, workdir: Path, splits: Mapping[str, Images], judge: Judge
) -> Judged:
    """Trains a run unless it is trained, and judges its network on validation, once."""
    path = workdir / SCORE
    if not path.is_file():
        train_to_the_end(config, workdir)
        images = splits["validation"]
        found = _predicted(load(workdir), images, judge.exclusive)
        judged = judge(found.scores, found.labels)
        write_json(path, {"score": repr(judged.score), "nll": repr(judged.nll)})
    said = read_json(path)
    try:
        return Judged(float(said["score"]), float(said["nll"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no score: remove {workdir}") from error


def _predicted(model: RetinalModel, images: Images, exclusive: bool) -> Predictions:
    """Probabilities of photographs, without decisions that were fitted."""
    found = predict_classes(model, images.chosen, progress=False)
    if len(found.rows) != len(images.rows):
        raise UserError(
            f"{len(images.rows) - len(found.rows)} photographs of {images.source.name}, split "
            f"{images.source.split}, could be decoded before and cannot be now"
        )
    outcome = model.method.outcome
    assert outcome is not None, "a network with classes knows what they are to each other"
    decisions = default_decisions(model.classes, outcome)
    return Predictions(
        names=decisions.classes,
        labels=images.labels,
        scores=decisions.probabilities(found.logits).astype("float64"),
        patients=images.patients,
        samples=tuple((row, None) for row in images.rows),
        exclusive=exclusive,
    )


def _cost(config: ExperimentConfig) -> tuple[int, float, int]:
    """Trained parameters, model FLOPs of a step, and the memory of one as it is compiled."""
    method = make_method(config.method, config.model)
    setup = Setup.of(config, method, make_mesh(config.mesh), horizon=1000)
    batch = abstract_batch(setup)
    step = setup.step(
        lambda batch, key: prepare(batch, config.data.image, config.data.augment, key)
    )
    compiled = setup.jit(step).trace(setup.abstract, batch).lower().compile()
    partition, state = setup.partition, setup.abstract
    trained = partition.size(state.params, state.low_rank)
    memory = held_bytes(compiled.memory_analysis()) or 0
    return trained, float(setup.model_flops(batch) or 0), memory
