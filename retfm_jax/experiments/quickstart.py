"""Trains, evaluates and exports a RET-CLIP from nothing, on synthetic patients."""

import dataclasses
import time
from collections.abc import Callable

from retfm_jax.config import load_config
from retfm_jax.data.building.builder import quiet_tfds
from retfm_jax.data_builders.synthetic_fundus import synthetic_fundus_dataset_builder as synthetic
from retfm_jax.evaluation.evaluate import measure
from retfm_jax.evaluation.report.write import write
from retfm_jax.evaluation.results import Results
from retfm_jax.experiments.training import train_to_the_end
from retfm_jax.files import Path, PathLike, as_path
from retfm_jax.interop.weights import write_tensors
from retfm_jax.model import load, to_torch
from retfm_jax.runtime.lock import hold


@dataclasses.dataclass(frozen=True)
class Made:
    """Results of the quickstart.

    Attributes:
      results: of the evaluation.
      report: numbers (JSON), pictures and page.
      weights: the network as a published RET-CLIP state dict.
    """

    results: Results
    report: tuple[Path, ...]
    weights: Path


def quickstart(workdir: PathLike, tell: Callable[[str], None] = lambda what: None) -> Made:
    """Generates patients, trains a small RET-CLIP on them, evaluates it and exports it.

    Args:
      workdir: gets everything; what is there already is not made again.
      tell: is called with a sentence on what begins, and the seconds since the start.

    Raises:
      Stopped: a signal ended its training.
      UserError: another process writes the workdir, or see `training.run_training`.
    """
    began = time.monotonic()

    def next_is(what: str) -> None:
        tell(f"[{time.monotonic() - began:5.0f} s] {what}")

    workdir = as_path(workdir)
    data_dir = workdir / "datasets"
    config = load_config("quickstart", [f"data.data_dir={data_dir}"])
    with hold(workdir):
        size = config.data.image.size
        next_is(f"generating patients with two eyes at {size} px")
        with quiet_tfds(bars=True):
            synthetic.build(data_dir, patients=3000, image_size=size)
        next_is("training a small RET-CLIP on their reports, English and Chinese")
        train_to_the_end(config, workdir)
        next_is("evaluating it on patients that it has not seen")
        model = load(workdir)
        results = measure(
            model,
            protocols=("zero_shot", "retrieval"),
            dataset=config.data.dataset,
            data_dir=str(data_dir),
            split="test",
        )
        report = write(results, workdir / "evaluation.json")
        weights = workdir / f"{config.method}.safetensors"
        write_tensors(weights, to_torch(model))
        next_is("done")
    return Made(results, tuple(report), weights)
