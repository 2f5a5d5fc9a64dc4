"""TFDS builder of procedurally generated patients; nothing is downloaded."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from retfm_jax import dataset_folders, extras, files
from retfm_jax.data import datasets
from retfm_jax.data.record_features import image_features, patient_features
from retfm_jax.data.records import patient_example
from retfm_jax.data_builders.synthetic_fundus.diagnoses import DIAGNOSES
from retfm_jax.data_builders.synthetic_fundus.drawing import STRUCTURES
from retfm_jax.data_builders.synthetic_fundus.patients import draw_examples, draw_segmented
from retfm_jax.data_builders.synthetic_fundus.population import (
    DISEASES,
    LABELS,
    POPULATIONS,
    Population,
)
from retfm_jax.errors import UserError
from retfm_jax.runtime.threads import cores
from retfm_jax.runtime.workers import end_with_parent

with extras.needed("data"):
    import tensorflow_datasets as tfds

_CHUNK = 32  # patients a task of a worker process


@dataclasses.dataclass(eq=False)
class SyntheticFundusConfig(tfds.core.BuilderConfig):
    """What is generated. The dataset depends on these fields and on nothing else.

    Attributes:
      name: of the dataset's folder; made from the other fields where empty.
      train, validation, test: number of patients in each split.
      image_size: side of the square photographs in pixels.
      seed: another seed gives other patients.
      population: a preset of `population.POPULATIONS`.
      one_eyed: share of patients with one eye; None as in the preset.
      rates: probability of each disease, by name, in place of the preset's.
      typical: see `population.Population`; None as in the preset.
      masks: whether the records are single eyes with masks of their structures (`drawing`), instead
        of patients; the photographs are the same.
    """

    name: str = ""
    train: int = 1600
    validation: int = 200
    test: int = 200
    image_size: int = 224
    seed: int = 0
    population: str = "clinic"
    one_eyed: float | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    typical: float | None = None
    masks: bool = False

    def __post_init__(self):
        if self.population not in POPULATIONS:
            raise UserError(
                f"population {self.population!r} is unknown; use one of {', '.join(POPULATIONS)}"
            )
        unknown = sorted(set(self.rates) - set(DISEASES))
        if unknown:
            raise UserError(f"no disease {unknown[0]!r}; use one of {', '.join(DISEASES)}")
        if self.image_size < 16:
            raise UserError(f"image_size is {self.image_size}; give 16 pixels or more")
        if min(self.train, self.validation, self.test) < 1:
            raise UserError("each of train, validation and test needs at least one patient")
        shares = {"one_eyed": self.one_eyed, "typical": self.typical, **self.rates}
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"{name} is {share}; it is a share between 0 and 1")
        # The folder's name says what is in it, so that another setting makes another dataset.
        patients = f"{self.train}-{self.validation}-{self.test}"
        name = f"{self.population}_{patients}_{self.image_size}px_seed{self.seed}"
        knobs = (self.one_eyed, dict(self.rates), self.typical)
        if knobs != (None, {}, None):
            digest = hashlib.sha256(json.dumps(knobs, sort_keys=True).encode())
            name += f"_{digest.hexdigest()[:8]}"
        name += "_masks" * self.masks
        self.name = self.name or name

    def drawn_population(self) -> Population:
        """The preset with this configuration's changes."""
        preset = POPULATIONS[self.population]
        return Population(
            rates={**preset.rates, **self.rates},
            one_eyed=preset.one_eyed if self.one_eyed is None else self.one_eyed,
            typical=preset.typical if self.typical is None else self.typical,
            reports=preset.reports,
        )


class Builder(tfds.core.GeneratorBasedBuilder):
    """Draws patients, in parallel; see README.md beside this file."""

    # TFDS would look under retfm_jax/, where a development install has no such folder.
    pkg_dir_path = epath.Path(__file__).parent
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS's declaration)
    BUILDER_CONFIGS = [SyntheticFundusConfig()]  # noqa: RUF012

    def __init__(self, *, processes: int | None = None, **kwargs: Any):
        """Makes a builder.

        Args:
          processes: worker processes; None for one a core. The dataset does not depend on it.
          **kwargs: as of every TFDS builder: data_dir, config (a `SyntheticFundusConfig`).
        """
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)
        self._processes = processes

    def _info(self) -> tfds.core.DatasetInfo:
        speaks_of = POPULATIONS[self._settings.population].reports
        labels = LABELS if speaks_of == "findings" else DIAGNOSES
        masked = self._settings.masks
        features = image_features(labels, STRUCTURES) if masked else patient_features(labels)
        info = self.dataset_info_from_configs(features=features)
        return datasets.without_bucket(info)

    @property
    def _settings(self) -> SyntheticFundusConfig:
        assert isinstance(self.builder_config, SyntheticFundusConfig)
        return self.builder_config

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config = self._settings
        counts = {"train": config.train, "validation": config.validation, "test": config.test}
        return {split: self._generate_examples(split, count) for split, count in counts.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self._settings
        settings = (config.drawn_population(), config.seed, config.image_size, split)
        tasks = [
            (*settings, range(start, min(start + _CHUNK, count)))
            for start in range(0, count, _CHUNK)
        ]
        draw = draw_segmented if config.masks else draw_examples
        for chunk in _run(draw, tasks, self._processes):
            for example in chunk:
                yield example["record_id"], example if config.masks else patient_example(**example)


def _run(
    draw: Callable[[tuple], list[dict[str, Any]]], tasks: list[tuple], processes: int | None
) -> Iterator[list[dict[str, Any]]]:
    """Draws the tasks in order, holding only a few chunks in memory at a time."""
    processes = min(processes or cores(), len(tasks))
    if processes == 1:
        yield from map(draw, tasks)
        return
    # Spawned, since a process with JAX's threads in it cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(
            processes, mp_context=context, initializer=end_with_parent
        ) as pool:
            waiting = collections.deque()
            try:
                for task in tasks:
                    waiting.append(pool.submit(draw, task))
                    if len(waiting) > 2 * processes:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            "a generating process ended too early: out of memory, or a script that calls build() "
            'outside `if __name__ == "__main__":`; processes=1 generates without other processes'
        ) from error


def build(
    data_dir: files.PathLike,
    *,
    patients: int = 2000,
    processes: int | None = None,
    **settings: Any,
) -> files.Path:
    """Builds a dataset, or finds it already built.

    Args:
      data_dir: TFDS data folder; the dataset gets a folder of its own below.
      patients: in all; a tenth each goes to validation and test, the rest to training.
      processes: worker processes; None for one a core.
      **settings: further fields of `SyntheticFundusConfig`, such as image_size, seed, population.

    Returns:
      The folder to read with `tfds.builder_from_directory`.
    """
    if patients < 3:
        raise UserError(f"patients is {patients}; three splits need at least 3")
    held_out = max(1, round(patients / 10))
    sizes = {"train": patients - 2 * held_out, "validation": held_out, "test": held_out}
    settings = {**sizes, **settings}
    config = SyntheticFundusConfig(**settings)
    folder = files.as_path(data_dir) / Builder.name / config.name / str(Builder.VERSION)
    if (folder / dataset_folders.INFO).is_file():
        return folder

    def write(root: Path) -> Path:
        builder = Builder(data_dir=str(root), config=config, processes=processes)
        builder.download_and_prepare()
        return Path(builder.data_dir)

    return datasets.write(folder, write, overwrite=False)
