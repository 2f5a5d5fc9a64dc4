"""The study that protocols work on: a network, the splits, the options, and what they share."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from retfm_jax.console import say
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import first_of
from retfm_jax.evaluation.embeddings import EmbeddedSplit, embed_split
from retfm_jax.evaluation.options import Options as Options
from retfm_jax.evaluation.options import ResolvedOptions
from retfm_jax.evaluation.results import Results
from retfm_jax.knowledge.prompts import Prompts

T = TypeVar("T")


@dataclasses.dataclass(eq=False)
class Study:
    """An evaluation in progress.

    Attributes:
      model: a `RetinalModel`.
      source: the split that is predicted.
      train: the split that protocols learn from; None where none of them learns.
      options: with everything decided.
      prompts: of the classes.
      results: what protocols find, for reports.
      notes: sentences that the numbers need beside them.
      dataset, data_dir: by which the split is named.
      facts: numbers that belong to several protocols, by name, as JSON values.
    """

    model: Any
    source: RecordSource
    train: RecordSource | None
    options: ResolvedOptions
    prompts: Prompts
    results: Results
    notes: list[str] = dataclasses.field(default_factory=list)
    dataset: str = ""
    data_dir: str = ""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    _made: dict[Callable, Any] = dataclasses.field(default_factory=dict)

    def once(self, make: Callable[["Study"], T]) -> T:
        """Returns what a function makes of this study; only the first call makes it.

        Args:
          make: the function; what it returns is kept under the function itself.
        """
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    def note(self, sentence: str) -> None:
        """Prints a sentence and keeps it beside the numbers, once.

        Args:
          sentence: what a reader of the numbers must know.
        """
        if sentence not in self.notes:
            say(sentence)
            self.notes.append(sentence)

    @functools.cached_property
    def embedded(self) -> EmbeddedSplit:
        """The split's images and reports, embedded once for all protocols."""
        found = embed_split(
            self.model,
            self.source,
            self.source.label_names,
            self.options.languages,
            self.model.config.evaluation.batch_size,
            on_error=self.options.on_error,
        )
        self.notes += [note for note in undecodable(found.damaged) if note not in self.notes]
        self.results.split = found
        return found


def undecodable(names: Sequence[str]) -> list[str]:
    """Describes images that cannot be decoded, in no or one sentence.

    Args:
      names: of the images; the first 50 are named.
    """
    if not names:
        return []
    return [f"{len(names)} images cannot be decoded and are left out: {first_of(names, 50)}"]
