"""Training of a cell: runs of the one training loop, their grid chosen on validation."""

import dataclasses
import itertools
import math
import time
from collections.abc import Mapping
from typing import Any, Generic

from retfm_jax.config import ExperimentConfig, load_config
from retfm_jax.data.device_augment import prepare
from retfm_jax.errors import UserError
from retfm_jax.experiments.benchmark.heads import Judged, better
from retfm_jax.experiments.benchmark.suite import ALL, Training
from retfm_jax.experiments.benchmark.trials import Found, Trial
from retfm_jax.experiments.training import train_to_the_end
from retfm_jax.files import Path, read_json, remove, write_json
from retfm_jax.methods import make_method
from retfm_jax.model import load
from retfm_jax.planning.plan import abstract_batch
from retfm_jax.runtime.checkpoints import FOLDER, whole_steps
from retfm_jax.runtime.compilation import held_bytes
from retfm_jax.runtime.mesh import make_mesh
from retfm_jax.training.setup import Setup

#: In the folder of a run: what its network is worth on validation.
SCORE = "score.json"


@dataclasses.dataclass(frozen=True)
class Tuned(Generic[Found]):
    """Findings of the runs of a cell.

    Attributes:
      found: of the test split, one for each seed.
      chosen: as of `results.CellResult`.
      config: of a run that was chosen, whole.
      parameters: that were trained, in that run.
      flops: of all runs.
      memory: of a device, as a step of that run is compiled, in bytes.
      seconds: by stage.
    """

    found: tuple[Found, ...]
    chosen: tuple[Mapping[str, Any], ...]
    config: ExperimentConfig
    parameters: int
    flops: float
    memory: int
    seconds: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of the grid.

    Attributes:
      learning_rate: the peak.
      last_layers: of the tower that learn, as `suite.Training` writes them.
    """

    learning_rate: float
    last_layers: str = ALL

    @property
    def layers(self) -> int | None:
        """See `config.OptimizerConfig.last_layers`."""
        return None if self.last_layers == ALL else int(self.last_layers)

    @property
    def values(self) -> dict[str, Any]:
        """By name, for the page; that all of a tower learns goes without saying."""
        layers = {} if self.last_layers == ALL else {"last_layers": self.layers}
        return {"learning_rate": self.learning_rate, **layers}

    @property
    def order(self) -> tuple[float, float]:
        """Of equally good points the smallest is taken."""
        return self.learning_rate, math.inf if self.layers is None else self.layers


def tune(
    settings: Training,
    trial: Trial[Found],
    changes: tuple[str, ...],
    initial: str,
    seeds: range,
    folder: Path,
) -> Tuned[Found]:
    """Trains every point of the grid with the first seed, and the best one with the others.

    A network is the one of its run that was best on validation. The test split is looked at when
    all that is chosen is chosen, once for each seed.

    Args:
      settings: of the suite.
      trial: what is learned.
      changes: entries of the configuration, after those of the settings.
      initial: weights that training begins with, as `config.init.image` takes them.
      seeds: of the runs.
      folder: gets a workdir for each run; what is there already is not trained again.

    Raises:
      Stopped: a signal ended a run before its last step.
      UserError: the configuration does not fit, or see `training.run_training`.
    """
    begun = time.perf_counter()
    base = _config(settings, trial, changes, initial)

    def run(seed: int, point: Point) -> tuple[Path, Judged]:
        workdir = _run_folder(folder, seed, point)
        return workdir, _judged(_of_run(base, seed, point), workdir, trial)

    grid = [Point(*of) for of in itertools.product(settings.learning_rate, settings.last_layers)]
    judged = [run(seeds[0], point)[1] for point in grid]
    best = grid[better([(of, each.order) for of, each in zip(judged, grid, strict=True)])]
    said = [_said(point, of) for point, of in zip(grid, judged, strict=True)]
    found, chosen = [], []
    for seed in seeds:
        workdir, of = run(seed, best)
        chosen.append(
            {
                "seed": seed,
                "values": best.values,
                "metric": trial.metric,
                "points": said if seed == seeds[0] else [_said(best, of)],
            }
        )
        found.append(trial.tested(load(workdir)))
    trained = time.perf_counter() - begun
    config = load(_run_folder(folder, seeds[0], best)).config
    parameters, memory = _cost(config)
    runs = [(seeds[0], point) for point in grid] + [(seed, best) for seed in seeds[1:]]
    layers = {point.layers: point for point in grid}
    flops = {of: _step_flops(_of_run(config, 0, point)) for of, point in layers.items()}
    return Tuned(
        found=tuple(found),
        chosen=tuple(chosen),
        config=config,
        parameters=parameters,
        flops=sum(_steps(_run_folder(folder, *run)) * flops[run[1].layers] for run in runs),
        memory=memory,
        seconds={"training": trained},
    )


def keep_chosen(tuned: Tuned[Any], folder: Path, target: Path) -> None:
    """Keeps the chosen network of the first seed.

    Args:
      tuned: the findings.
      folder: of the runs.
      target: a new checkpoint folder; one that is there is replaced.

    Raises:
      UserError: it cannot be written.
    """
    first = tuned.chosen[0]
    layers = str(first["values"].get("last_layers", ALL))
    point = Point(first["values"]["learning_rate"], layers)
    remove(target)
    load(_run_folder(folder, first["seed"], point)).save(target)


def _run_folder(folder: Path, seed: int, point: Point) -> Path:
    layers = "" if point.layers is None else f"_last_{point.layers}"
    return folder / f"seed_{seed}_rate_{point.learning_rate:g}{layers}"


def _said(point: Point, judged: Judged) -> dict[str, Any]:
    return {**point.values, "score": judged.score, "nll": judged.nll}


def _config(
    settings: Training, trial: Trial[Any], changes: tuple[str, ...], initial: str
) -> ExperimentConfig:
    """The configuration of all runs, with everything that the benchmark decides."""
    config = load_config(settings.config, (*settings.changes, *changes))
    config = trial.config(config, settings.config)
    train = dataclasses.replace(
        config.train,
        epochs=settings.epochs or config.train.epochs,
        batch_size=settings.batch_size or config.train.batch_size,
        evaluate_epochs=config.train.evaluate_epochs or 1.0,
        keep=1,
    )
    init = dataclasses.replace(config.init, image=initial, weights=None, text=None)
    return dataclasses.replace(config, train=train, init=init)


def _of_run(config: ExperimentConfig, seed: int, point: Point) -> ExperimentConfig:
    """The configuration of a run."""
    rate, layers = point.learning_rate, point.layers
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate, last_layers=layers)
    train = dataclasses.replace(config.train, seed=seed)
    return dataclasses.replace(config, train=train, optimizer=optimizer)


def _judged(config: ExperimentConfig, workdir: Path, trial: Trial[Any]) -> Judged:
    """Trains a run unless it is trained, and judges its network on validation, once."""
    path = workdir / SCORE
    if not path.is_file():
        train_to_the_end(config, workdir)
        judged = trial.judged(load(workdir))
        write_json(path, {"score": repr(judged.score), "nll": repr(judged.nll)})
    said = read_json(path)
    try:
        return Judged(float(said["score"]), float(said["nll"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no score: remove {workdir}") from error


def _steps(workdir: Path) -> int:
    return whole_steps(workdir / FOLDER)[-1]


def _setup(config: ExperimentConfig) -> Setup:
    method = make_method(config.method, config.model)
    return Setup.of(config, method, make_mesh(config.mesh), horizon=1000)


def _step_flops(config: ExperimentConfig) -> float:
    """Model FLOPs of a step."""
    setup = _setup(config)
    return float(setup.model_flops(abstract_batch(setup)) or 0)


def _cost(config: ExperimentConfig) -> tuple[int, int]:
    """Trained parameters, and the memory of a step as it is compiled."""
    setup = _setup(config)
    step = setup.step(
        lambda batch, key: prepare(batch, config.data.image, config.data.augment, key)
    )
    state = setup.abstract
    compiled = setup.jit(step).trace(state, abstract_batch(setup)).lower().compile()
    trained = setup.partition.size(state.params, state.low_rank)
    return trained, held_bytes(compiled.memory_analysis()) or 0
