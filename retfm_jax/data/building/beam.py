"""Preparation of rows with Apache Beam, for sources that are too large for one machine.

TFDS runs the pipeline and writes its shards; the machines of the cluster must see the source and
the dataset's folder under the same paths. Apache Beam is the extra `beam`.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from retfm_jax import extras
from retfm_jax.data.building import validation
from retfm_jax.data.building.rows import Row
from retfm_jax.errors import UserError
from retfm_jax.files import PathLike

_Prepared = tuple[dict[str, Any] | None, list[validation.Problem]]


@dataclasses.dataclass(frozen=True)
class BeamSettings:
    """Settings of Beam: the runner that does the work, and its options.

    Attributes:
      runner: "DirectRunner", "DataflowRunner", "SparkRunner", "FlinkRunner" and so on.
      options: the runner's, "name=value" separated by commas.
    """

    runner: str
    options: str = ""

    def pipeline_options(self) -> Any:
        """Converts the options to Beam's `PipelineOptions`.

        Raises:
          UserError: Beam is not installed.
        """
        _require_beam()
        # An extra, which the tests do without.
        from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
            PipelineOptions,
        )

        flags = [f"--{option.strip()}" for option in self.options.split(",") if option.strip()]
        return PipelineOptions(flags=flags)


def _require_beam() -> None:
    try:
        import apache_beam  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"beam_runner wants Apache Beam: `{extras.install('beam')}`") from error


def prepared(rows: Sequence[Row], short_side: int, problems_prefix: str) -> Any:
    """Makes a Beam transform that yields the (key, example) pairs of a split.

    Args:
      rows: of the split.
      short_side: see `validation.prepare_image`.
      problems_prefix: path and beginning of the names of the files that take the problems.
    """
    import apache_beam as beam  # pyright: ignore[reportMissingImports]

    def transform(pipeline):
        # Reshuffled, or a runner would fuse all of it into the one task that made the rows.
        results = (
            pipeline
            | "Rows" >> beam.Create(rows)
            | "Spread" >> beam.Reshuffle()
            | "Prepare" >> beam.Map(validation.prepare_row, short_side)
        )
        _ = (
            results
            | "Problems" >> beam.FlatMap(_problem_lines)
            | "WriteProblems" >> beam.io.WriteToText(problems_prefix)
        )
        return results | "Examples" >> beam.FlatMap(_examples)

    return beam.ptransform_fn(transform)()


def _examples(result: _Prepared) -> Iterator[tuple[str, dict[str, Any]]]:
    example, _ = result
    if example is not None:
        yield example["record_id"], example


def _problem_lines(result: _Prepared) -> Iterator[str]:
    for problem in result[1]:
        yield json.dumps(dataclasses.asdict(problem), ensure_ascii=False)


def collect_problems(folder: PathLike, pattern: str) -> Iterable[validation.Problem]:
    """Reads the problems that a pipeline wrote, and removes their files.

    Args:
      folder: into which the pipeline wrote.
      pattern: glob of the files' names.
    """
    found = []
    for path in sorted(epath.Path(folder).glob(pattern)):
        for line in path.read_text().splitlines():
            found.append(validation.Problem(**json.loads(line)))
        path.unlink()
    return found
