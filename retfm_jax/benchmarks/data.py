"""Speed of the data pipeline: by stage, as a whole, and against a published loader."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from retfm_jax.benchmarks.step import check_torch
from retfm_jax.benchmarks.timing import (
    Comparison,
    Measurement,
    Partner,
    Timing,
    stopwatch,
    take_turns,
    timed,
)
from retfm_jax.config import DataConfig, ExperimentConfig, ExpertConfig
from retfm_jax.data import device_augment as device
from retfm_jax.data.images import augmented, decode, least_side
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.pipeline import TrainIterator, open_training, reading_threads, stack
from retfm_jax.data.prefetch import device_batches
from retfm_jax.data.records import PatientRecord
from retfm_jax.data.samples import choose_text
from retfm_jax.data.sources import RecordSource
from retfm_jax.data.text import Tokenizer
from retfm_jax.dataset_folders import is_built
from retfm_jax.errors import UserError
from retfm_jax.methods import make_method
from retfm_jax.runtime.mesh import check_batch_size, make_mesh, place_batch
from retfm_jax.runtime.threads import cores

#: Side of synthetic photographs as `retfm data import` stores them, and of the published sources.
STORED_SIZE = 256
PUBLISHED_SIZE = 512

#: Records of a run of one stage, and samples of a run of the pipeline, at most.
_STAGE_RECORDS = 64
_PIPELINE_SAMPLES = 1024


@contextlib.contextmanager
def dataset_at_hand(config: ExperimentConfig, patients: int) -> Iterator[tuple[DataConfig, str]]:
    """Opens the config's dataset where it is built, else synthetic eyes in a temporary folder.

    Args:
      config: the experiment.
      patients: how many are generated.

    Yields:
      the data configuration to read with, and the name of the data, in words.
    """
    if is_built(config.data.dataset, config.data.data_dir):
        yield config.data, config.data.dataset
        return
    with tempfile.TemporaryDirectory() as folder:
        draw(folder, patients, STORED_SIZE)
        data = dataclasses.replace(
            config.data,
            dataset="synthetic_fundus",
            data_dir=folder,
            expert=config.data.expert and ExpertConfig("synthetic_fundus"),
            balance_sets=False,
            curriculum=None,
            mix=None,
        )
        yield data, f"synthetic eyes, {STORED_SIZE} px"


def draw(folder: str | Path, patients: int, size: int) -> None:
    """Generates a training split of synthetic patients who have both eyes.

    Args:
      folder: data directory that gets the dataset.
      patients: how many; the other splits have one each.
      size: side of the photographs in pixels.
    """
    from retfm_jax.data.building.builder import quiet_tfds
    from retfm_jax.data_builders.synthetic_fundus import synthetic_fundus_dataset_builder as drawn

    with quiet_tfds(bars=False):
        drawn.build(folder, train=patients, validation=1, test=1, one_eyed=0.0, image_size=size)


def measure(config: ExperimentConfig, data: DataConfig, rounds: int) -> list[Measurement]:
    """Times every stage in one thread, then the whole pipeline.

    Args:
      config: the experiment.
      data: configuration of the data to read, which may replace that of the experiment.
      rounds: timed runs of everything.

    Raises:
      UserError: the dataset cannot be used, or the batch does not fit the devices.
    """
    kind = make_method(config.method, config.model).sample_kind
    source, expert = open_training(data, kind)
    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, 1, mesh)
    batch_size = min(config.train.batch_size, len(source) // mesh.size * mesh.size)
    if not batch_size:
        raise UserError(f"{len(source)} records are not enough for {mesh.size} devices")
    pipeline = functools.partial(
        Pipeline, source, expert, kind, data, batch_size, config.train.seed
    )
    measured = [
        Measurement(name, take_turns({name: run}, rounds)[name], amount, unit)
        for name, run, amount, unit in _stages(data, source, kind, mesh)
    ]
    for name, place in (
        ("pipeline, to the host", None),
        ("pipeline, to the device", lambda arrays: place_batch(arrays, mesh)),
    ):
        run = pipeline(place=place)
        timings = take_turns({name: run.timing}, rounds)[name]
        measured.append(Measurement(name, timings, run.images, "images"))
    return measured


class Pipeline:
    """The training pipeline over a source, timed between batches.

    Attributes:
      images: number of images that one timing covers.
    """

    def __init__(
        self,
        source: RecordSource,
        expert: RecordSource | None,
        kind: str,
        data: DataConfig,
        batch_size: int,
        seed: int,
        *,
        place: Callable[[dict[str, np.ndarray]], Any] | None = None,
    ):
        """Makes the pipeline; it opens nothing yet.

        Args:
          source, expert: the training split and the second stream; see `open_training`.
          kind: name of the samples' kind.
          data: how records are read.
          batch_size: samples a batch.
          seed: of order and augmentation.
          place: puts the arrays on the device; None leaves them on the host.
        """
        self._iterator = TrainIterator(
            source, kind, data, batch_size=batch_size, seed=seed, expert=expert
        )
        samples = min(_PIPELINE_SAMPLES, 4 * len(source))
        self._batches = -(-samples // batch_size)
        self._place = place
        images = get_kind(kind).names("image", second=expert is not None)
        self.images = len(images) * batch_size * self._batches
        # Worker processes use CPU time that this process does not see.
        self._all_here = data.workers == 0

    def timing(self) -> Timing:
        """Times from the first batch to the last; reading starts anew and ends with it."""
        self._iterator.restore(0)
        stream = self._iterator
        if self._place is not None:
            stream = device_batches(self._iterator, self._place)
        try:
            batch = next(stream)
            with stopwatch() as taken:
                for _ in range(self._batches):
                    batch = next(stream)
                if self._place is not None:
                    jax.block_until_ready(batch.arrays)
        finally:
            stream.close()
            self._iterator.close()
        seconds, used = taken[0]
        return Timing(seconds, used if self._all_here else None)


def _stages(
    data: DataConfig, source: RecordSource, kind: str, mesh: Mesh
) -> Iterator[tuple[str, Callable[[], Timing], float, str]]:
    """Name, run, amount and unit of every stage; each runs in this thread alone."""
    count = min(_STAGE_RECORDS, len(source))
    order = np.random.default_rng(0).permutation(len(source))[:count].tolist()
    yield "read records", lambda: timed(lambda: [source[i] for i in order]), count, "records"

    records = [source[i] for i in order]
    encoded, texts = [], []
    for record in records:
        if isinstance(record, PatientRecord):
            encoded += [eye for eye in (record.left, record.right) if eye]
            texts.append(choose_text(record.report, data.language))
        else:
            encoded.append(record.image)
            texts.append(choose_text(record.caption, data.language))
    side = least_side(data.image, data.augment)

    decoded = []

    def decoding() -> None:
        decoded[:] = [decode(image, "an image", min_side=side) for image in encoded]

    yield "decode", lambda: timed(decoding), len(encoded), "images"
    rng = np.random.default_rng(0)

    def augmenting() -> None:
        for image in decoded:
            augmented(image, data.image, data.augment, rng, mirror=True)

    yield "crop, scale, mirror", lambda: timed(augmenting), len(encoded), "images"
    decoded.clear()
    tokenizers = []

    def first_texts() -> Timing:
        tokenizers[:] = [Tokenizer(data.text)]
        return timed(lambda: tokenizers[0](texts))

    yield "tokenise, first time", first_texts, count, "texts"
    yield "tokenise, cached", lambda: timed(lambda: tokenizers[0](texts)), count, "texts"

    make = get_kind(kind).maker(data, source.label_names)

    def making() -> list[dict[str, Any]]:
        return [make.training(record, rng) for record in records]

    yield "record to sample, all of it", lambda: timed(making), count, "samples"
    rows = [sample | {"record_id": "", "unusable": []} for sample in making()]
    yield "batch assembly", lambda: timed(lambda: stack(rows)), count, "samples"

    batch = stack(rows)
    whole = count // mesh.size * mesh.size
    arrays = {name: value[:whole] for name, value in batch.items() if isinstance(value, np.ndarray)}

    def placing() -> dict[str, jax.Array]:
        return jax.block_until_ready(place_batch(arrays, mesh))

    yield "host to device", lambda: timed(placing), whole, "samples"
    placed = placing()
    prepare = jax.jit(lambda batch, key: device.prepare(batch, data.image, data.augment, key))
    key = jax.random.key(0)

    def preparing() -> None:
        jax.block_until_ready(prepare(placed, key))

    yield "color and normalize, on the device", lambda: timed(preparing), whole, "samples"


def compare_published(
    config: ExperimentConfig, patients: int, rounds: int
) -> tuple[list[Measurement], list[Comparison], dict[str, Any]]:
    """Compares our pipeline from stored 256 px and from 512 px with a published loader from 512 px.

    All read the same synthetic patients.

    Args:
      config: the experiment, whose method learns from patients.
      patients: how many are generated.
      rounds: timed runs of each loader.

    Returns:
      the measurements, the ratios of time an image, and how they were run.

    Raises:
      UserError: PyTorch is not installed, the method does not learn from patients, or images are
        not resized by "squash".
    """
    check_torch()
    if not get_kind(make_method(config.method, config.model).sample_kind).paired_eyes:
        raise UserError(
            "against published-data compares loaders of patients with two eyes: take a config "
            "that trains on them"
        )
    if config.data.image.resize != "squash":
        raise UserError("against published-data: set config.data.image.resize=squash")
    workers = config.data.workers or cores()
    batch_size = min(config.train.batch_size, max(1, patients // 8))
    augment, image = config.data.augment, config.data.image
    with tempfile.TemporaryDirectory() as folder:
        lmdb, sources = published_patients(folder, config.data, patients)
        theirs = Partner(
            "retfm_jax.benchmarks.published_loader:PublishedLoader",
            batch_size=batch_size,
            workers=workers,
            folder=str(lmdb),
            size=image.size,
            mean=image.mean,
            std=image.std,
            crop_area=augment.crop_area,
            flip_probability=0.0 if augment.flip == "none" else augment.flip_probability,
            text=dataclasses.asdict(config.data.text),
        )
        runs = {
            f"ours from {size} px": Pipeline(
                source, None, "patient", config.data, batch_size, config.train.seed
            )
            for size, source in sources.items()
        }
        samples = 0

        def published() -> Timing:
            nonlocal samples
            timing, samples = theirs.call("run")
            return timing

        name = f"published loader from {PUBLISHED_SIZE} px"
        try:
            sides = {ours: run.timing for ours, run in runs.items()}
            taken = take_turns({name: published, **sides}, rounds)
        finally:
            theirs.close()
    other = Measurement(name, taken[name], 2 * samples, "images")
    ours = [Measurement(name, taken[name], run.images, "images") for name, run in runs.items()]
    ratios = [
        Comparison(f"published loader's time / {mine.name}", other, mine, "at least 3")
        for mine in ours
    ]
    threads = reading_threads(config.data)
    return [other, *ours], ratios, {"their workers": workers, "our threads": threads}


def published_patients(
    folder: str | Path, data: DataConfig, patients: int
) -> tuple[Path, dict[int, RecordSource]]:
    """Generates synthetic patients as a published LMDB and as datasets of ours built from it.

    Args:
      folder: existing folder that gets all of them.
      data: its language is that of the LMDB's reports.
      patients: how many.

    Returns:
      the LMDB's folder, and our sources by the side of their pictures in pixels.
    """
    from retfm_jax.benchmarks.published_loader import write_lmdb
    from retfm_jax.data.building.builder import BuildOptions
    from retfm_jax.data.building.validation import ProblemLog
    from retfm_jax.data.importing import published
    from retfm_jax.data.importing.importers import import_rows
    from retfm_jax.data.sources import of_patients, open_dataset

    folder = Path(folder)
    draw(folder, patients, PUBLISHED_SIZE)
    lmdb = folder / "lmdb" / "train"
    drawn = open_dataset("synthetic_fundus", "train", str(folder))
    assert of_patients(drawn)
    write_lmdb(
        lmdb,
        [
            (record.record_id, record.left, record.right, choose_text(record.report, data.language))
            for record in drawn
        ],
    )
    sources = {}
    for size in (STORED_SIZE, PUBLISHED_SIZE):
        problems = ProblemLog()
        rows = published.rows_of_lmdb(lmdb, problems)
        options = BuildOptions(image_size=0 if size == PUBLISHED_SIZE else size)
        import_rows(rows, problems, f"stored_{size}", folder, options)
        sources[size] = open_dataset(f"stored_{size}", "train", str(folder))
    return lmdb, sources
