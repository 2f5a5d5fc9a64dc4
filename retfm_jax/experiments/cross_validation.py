"""Cross-validation: a run for every fold of the patients, and what their networks say together."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from retfm_jax.config import ExperimentConfig
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.labeled import open_labeled
from retfm_jax.data.segmented import open_segmented
from retfm_jax.errors import UserError
from retfm_jax.evaluation.class_metrics import class_metrics
from retfm_jax.evaluation.structure_metrics import structure_metrics
from retfm_jax.experiments.finetuning import tell
from retfm_jax.experiments.training import train_to_the_end
from retfm_jax.files import Path, PathLike, as_path, read_json, write_json
from retfm_jax.methods import make_method
from retfm_jax.model import load
from retfm_jax.runtime.checkpoints import find_checkpoint, stored_meta

#: Names in the workdir and in the folder of a fold.
SUMMARY, OF_TEST = "folds.json", "test.json"


def cross_validate(config: ExperimentConfig, workdir: PathLike, folds: int) -> dict[str, Any]:
    """Trains and tests a network for every fold, in `workdir/fold-k`, and writes `folds.json`.

    Stopped at any moment and started again, it continues where it was.

    Args:
      config: the experiment, of a method whose network has classes or structures.
      workdir: gets a workdir for every fold, and the summary.
      folds: their number, from 2 on; see `data.division.Division`.

    Returns:
      the summary, as JSON values: metrics of each fold's test split, their mean and standard
      deviation.

    Raises:
      Stopped: a signal ended it before the last step of the last fold.
      UserError: see `training.run_training`; or the method has neither.
    """
    kind = get_kind(make_method(config.method, config.model).sample_kind)
    if kind.told not in ("classes", "structures"):
        raise UserError(
            f"folds divide photographs with labels or masks, and {config.method} learns from "
            f"{kind.unit} without them"
        )
    if config.data.fold is not None:
        raise UserError("config.data.fold names one fold: leave it out where all are trained")
    workdir, found = as_path(workdir), []
    for number in range(folds):
        folder = workdir / f"fold-{number}"
        tell([f"fold {number + 1} of {folds}: {folder}"])
        data = dataclasses.replace(config.data, fold=(number, folds))
        train_to_the_end(dataclasses.replace(config, data=data), folder)
        found.append({"fold": number, **measure_fold(folder)})
    said = {"folds": found, **summary([each["metrics"] for each in found])}
    if jax.process_index() == 0:
        write_json(workdir / SUMMARY, said)
    tell(
        [
            f"test splits of {folds} folds (mean and standard deviation): {workdir / SUMMARY}",
            *(
                f"  {name}  {each['mean']:.4f}  {each['deviation']:.4f}"
                for name, each in said["summary"].items()
                if each["mean"] is not None and each["deviation"] is not None
            ),
        ]
    )
    return said


def measure_fold(folder: Path) -> dict[str, Any]:
    """Measures a fold's network on its test split, once for the same weights.

    Args:
      folder: of the fold, a workdir; gets `test.json`.

    Returns:
      JSON values: number of photographs and patients, and `metrics` by name.

    Raises:
      UserError: the network or the data cannot be read.
    """
    path = folder / OF_TEST
    weights = stored_meta(find_checkpoint(folder))["checksums"][0]
    if path.is_file():
        said = read_json(path)
        if isinstance(said, Mapping) and said.get("weights") == weights:
            return dict(said)
    model = load(folder)
    if model.structures:
        test = open_segmented(model.data_config, ("test",)).sources["test"]
        chosen = model.mask_decisions
        fitted = chosen.by_name if chosen is not None and chosen.fitted_on else None
        numbers = structure_metrics(model, test, fitted)
    else:
        test = open_labeled(model.data_config, ("train", "test")).sources["test"]
        numbers = class_metrics(model, test)
    said = {
        "weights": weights,
        "photographs": len(test),
        "patients": len(set(test.patients)),
        "patients_known": test.patients_known,
        "metrics": {n: value if math.isfinite(value) else None for n, value in numbers.items()},
    }
    if jax.process_index() == 0:
        write_json(path, said)
    return said


def summary(metrics: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Means and standard deviations (n - 1) over folds.

    The deviation is that of networks and of test splits; folds share training photographs, so that
    it is no standard error of the mean.

    Args:
      metrics: by name, of each fold; None where undefined, and left out.

    Returns:
      `summary`: by name, the mean, the deviation and the number of folds that have a value.
    """
    names = list(dict.fromkeys(name for each in metrics for name in each))
    found = {}
    for name in names:
        values = [value for each in metrics if (value := each.get(name)) is not None]
        found[name] = {
            "mean": float(np.mean(values)) if values else None,
            "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "folds": len(values),
        }
    return {"summary": found}
