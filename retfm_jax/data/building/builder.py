"""Rows -> a TFDS dataset: the one way in which real data is checked, divided and written."""

import abc
import contextlib
import dataclasses
import functools
import io
import itertools
import os
import tempfile
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from retfm_jax import dataset_folders, extras, files
from retfm_jax.data import curriculum, datasets, record_features
from retfm_jax.data.building import beam as cluster
from retfm_jax.data.building import case_rows, splits, validation
from retfm_jax.data.building.rows import Row, following_links
from retfm_jax.errors import UserError
from retfm_jax.files import write_json
from retfm_jax.progress import on_terminal, progress_bar
from retfm_jax.runtime.threads import cores, in_threads

with extras.needed("data"):
    import tensorflow_datasets as tfds

#: Beside the shards of every dataset that was built from rows.
PROBLEMS_FILE = "problems.csv"
SUMMARY_FILE = "build.json"


#: Short side of stored photographs where nothing is said, pixels.
_IMAGE_SIZE = 256


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """Options of how a source becomes a dataset.

    Attributes:
      image_size: pixels; a photograph with a longer short side is shrunk to it; 0 keeps originals;
        None: 256, and originals of sets with masks.
      on_error: "skip" or "refuse", see `validation`.
      shares: of train, validation and test, for patients to whom the source gives no split; None:
        as the builder has it.
      seed: of the division.
      threads: number of threads that decode and shrink.
      patient_regex: finds the patient in the name of an image, or in a patient's id, where the
        source names no group; see `patients.parse_regex`.
      follow_links: reads photographs that symbolic links inside the image root lead to, also
        outside of it.
    """

    image_size: int | None = None
    on_error: str = "skip"
    shares: Mapping[str, float] | None = None
    seed: int = 0
    threads: int = dataclasses.field(default_factory=cores)
    patient_regex: str | None = None
    follow_links: bool = False

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 0:
            raise UserError(f"image_size {self.image_size}: give 0 for originals, or a size")
        if self.on_error not in validation.POLICIES:
            raise UserError(f"on_error {self.on_error!r}: {' or '.join(validation.POLICIES)}")


class RowsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base class of the builders of real data: a subclass reads rows, this class does the rest.

    Every photograph is decoded once, in threads, before the first training step could meet it. TFDS
    writes into an incomplete folder that takes its name only when all went well; the list of
    problems and a summary of the build lie in it.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, options: BuildOptions | None = None, **kwargs: Any):
        """Prepares the builder; nothing is read or written yet.

        Args:
          options: of sizes, splits and problems; None: the defaults.
          kwargs: of TFDS's builder, such as `data_dir` and `config`.
        """
        self.options = options or BuildOptions()
        self.problems = validation.ProblemLog()
        self._images_of: dict[case_rows.CaseName, list[str]] = {}
        #: Level of difficulty by record id, where the source ranks its records; see `curriculum`.
        self.levels: dict[str, int] = {}
        self._progress = progress_bar(disable=True)
        self._on_cluster = False
        super().__init__(file_format="array_record", **kwargs)

    def _build_data_dir(self, given_data_dir: str | None) -> tuple[str, str]:
        root, folder = super()._build_data_dir(given_data_dir)
        self.root, self.folder = files.as_path(root), files.as_path(folder)
        # TFDS takes what it finds in its folder, label names too, for what is to be written there.
        return root, os.path.join(tempfile.gettempdir(), f"retfm-{uuid.uuid4().hex}")

    def write_into(self, root: Path, config: tfds.download.DownloadConfig) -> Path:
        """Writes the dataset below an empty folder on a local disk.

        Args:
          root: the empty folder.
          config: TFDS's, with the source as its `manual_dir` and the runner of Beam, if any.

        Returns:
          the folder in which the dataset lies.
        """
        self._data_dir_root = str(root)
        self._data_dir = str(root / "dataset" / "version")
        # TFDS wants a folder for downloads even where there are none.
        with quiet_tfds(bars=False), tempfile.TemporaryDirectory() as downloads:
            self.download_and_prepare(download_dir=downloads, download_config=config)
        return Path(self._data_dir)

    @abc.abstractmethod
    def label_names(self) -> Sequence[str]:
        """Names the classes of the dataset's label vectors, in their order."""

    def rows_of(self, dl_manager: tfds.download.DownloadManager) -> list[Row]:
        """Reads the rows of the release that the user has downloaded.

        Args:
          dl_manager: TFDS's; its `manual_dir` is the source folder.

        Raises:
          UserError: see `read_rows`.
        """
        return self.read_rows(Path(dl_manager.manual_dir))

    @abc.abstractmethod
    def read_rows(self, source: Path) -> list[Row]:
        """Reads the source folder, noting in `self.problems` what cannot be used.

        Args:
          source: the folder of the release as it was downloaded.

        Raises:
          UserError: the source as a whole cannot be read.
        """

    def structures(self) -> Sequence[str]:
        """Names the structures of which there are masks, in their order; none of most sets."""
        return ()

    @property
    def names_cases(self) -> bool:
        """Whether the source says which images of a patient are of one case."""
        return False

    @property
    def image_size(self) -> int:
        """Short side to which photographs are shrunk, pixels; 0 keeps originals."""
        if self.options.image_size is None:
            return 0 if self.structures() else _IMAGE_SIZE
        return self.options.image_size

    @property
    def default_shares(self) -> dict[str, float]:
        """Shares of the splits where neither source nor options give any."""
        return dict(splits.DEFAULT_SHARES)

    @property
    def shares(self) -> dict[str, float]:
        """Shares of train, validation and test, for patients to whom the source gives no split."""
        given = self.options.shares
        return self.default_shares if given is None else dict(given)

    #: "patient" or "image", the kind of record that the builder writes.
    kind = "patient"

    def _info(self) -> tfds.core.DatasetInfo:
        labels = self.label_names()
        if self.kind == "patient":
            features = record_features.patient_features(labels)
        else:
            features = record_features.image_features(labels, cases=self.names_cases)
        info = self.dataset_info_from_configs(features=features)
        return datasets.without_bucket(info)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        rows = validation.drop_duplicates(self.rows_of(dl_manager), self.problems)
        if self.options.follow_links:
            rows = [following_links(row) for row in rows]
        if self.options.patient_regex is None:
            rows = case_rows.grouped(rows, self.problems)
        rows = splits.with_patients(rows, self.options.patient_regex, self.problems)
        rows = case_rows.joined(case_rows.grouped(rows, self.problems), self.problems)
        case_rows.note_reports(rows, self.problems)
        self._images_of = case_rows.images_of(rows)
        divided = splits.assign_splits(rows, self.shares, self.options.seed, self.problems)
        if self._on_cluster:
            return {
                name: cluster.prepared(
                    members, self.image_size, str(self.data_path / f"_problems_{name}")
                )
                for name, members in divided.items()
            }
        self._progress = progress_bar(total=len(rows), desc=self.name, unit=" records")
        generators = {}
        for name, members in divided.items():
            examples = self._reading.enter_context(
                contextlib.closing(self._generate_examples(members))
            )
            # TFDS has no empty splits: one whose rows are all unusable must not be announced.
            first = next(examples, None)
            if first is not None:
                generators[name] = itertools.chain([first], examples)
        if not generators:
            raise self._nothing_left(len(rows))
        return generators

    def _nothing_left(self, rows: int) -> UserError:
        problems = self.problems.problems
        first = f"; the first problem: {problems[0].what}" if problems else ""
        return UserError(f"{self.name}: no usable record among {rows} rows of the source{first}")

    def _generate_examples(
        self, rows: Sequence[Row]
    ) -> Generator[tuple[str, dict[str, Any]], None, None]:
        prepare = functools.partial(validation.prepare_row, short_side=self.image_size)
        threads = self.options.threads
        with in_threads(prepare, rows, threads=threads, ahead=4 * threads) as prepared:
            for example, problems in prepared:
                self._progress.update()
                self.problems.extend(problems)
                if example is not None:
                    yield example["record_id"], example

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        self._on_cluster = bool(download_config.beam_runner or download_config.beam_options)
        try:
            # Readers that a failure leaves behind end here: left to the garbage collector, they
            # would wait for their threads in whatever thread it runs, and might wait for ever.
            with contextlib.ExitStack() as self._reading:
                super()._download_and_prepare(dl_manager, download_config)
        finally:
            self._progress.close()
        if self._on_cluster:
            self.problems.extend(cluster.collect_problems(self.data_path, "_problems_*"))
        case_rows.note_lost(self._images_of, self.problems)
        if self.options.on_error == "refuse" and self.problems.problems:
            # Outside the folder, which TFDS removes now.
            listed_in = self.root / f"{self.name}-{PROBLEMS_FILE}"
            self.problems.write(listed_in)
            raise validation.refusal(self.problems, listed_in)
        folder = Path(self.data_dir)
        self.problems.write(folder / PROBLEMS_FILE)
        write_json(folder / SUMMARY_FILE, self._summary())
        if self.levels:
            curriculum.write_levels(folder / curriculum.TABLE, self.levels)

    def _summary(self) -> dict[str, Any]:
        options = dataclasses.asdict(self.options)
        options |= {"shares": self.shares, "image_size": self.image_size}
        del options["threads"]  # changes nothing in the dataset
        return {
            "dataset": self.name,
            "version": str(self.version),
            "options": options,
            "records": {name: info.num_examples for name, info in self.info.splits.items()},
            "problems": self.problems.counts(),
            "notes": self.problems.notes,
        }


def write_dataset(
    builder: RowsBuilder,
    source: str | Path | None,
    overwrite: bool,
    beam: cluster.BeamSettings | None = None,
) -> files.Path:
    """Builds a dataset, all of it or nothing.

    Args:
      builder: a bundled builder, or one made by an importer.
      source: the folder of the downloaded release, None where the builder needs none.
      overwrite: replace a dataset of that name and version, which stays until all went well.
      beam: where Apache Beam does the work instead of this machine's threads.

    Returns:
      the dataset's folder.

    Raises:
      UserError: the dataset is there already, the source is not, the disk is full, or whatever the
        builder found.
    """
    folder = builder.folder
    if (folder / dataset_folders.INFO).exists() and not overwrite:
        raise UserError(
            f"{folder} is there already; overwrite builds it anew, data_dir puts it elsewhere"
        )
    if beam and files.is_remote(folder):
        raise UserError(
            f"data_dir {builder.root}: a cluster writes its part of a dataset into a folder that "
            "all its machines see; give one on a shared disk, and copy the dataset"
        )
    if source is not None and not Path(source).is_dir():
        raise UserError(f"source {source} is not a folder")
    if source is not None and not any(Path(source).iterdir()):
        raise UserError(f"source {source} is an empty folder: unpack the release in it")
    config = tfds.download.DownloadConfig(
        manual_dir=source,
        try_download_gcs=False,
        beam_runner=beam.runner if beam else None,
        beam_options=beam.pipeline_options() if beam else None,
    )

    def build(root: Path) -> Path:
        return builder.write_into(root, config)

    return datasets.write(folder, build, overwrite)


@contextlib.contextmanager
def quiet_tfds(bars: bool) -> Iterator[None]:
    """Silences TFDS's notes, and its bars in logs and where a builder shows a bar of its own.

    Args:
      bars: shows TFDS's progress bars where the output is a terminal.
    """
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    if not (bars and on_terminal()):
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(level)
