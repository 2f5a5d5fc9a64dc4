"""Reports that a network writes of cases, for `RetinalModel` and what evaluates it."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from retfm_jax.data.images import ImageError, fit
from retfm_jax.data.kinds.case import placed
from retfm_jax.data.words import WordTokenizer, readable
from retfm_jax.errors import Unusable, UserError
from retfm_jax.inputs import as_images
from retfm_jax.progress import progress_bar
from retfm_jax.runtime.threads import cores, in_threads

#: Photographs that a device takes at once, where there are many cases.
_PHOTOGRAPHS = 32


class Search(NamedTuple):
    """How the likeliest report is searched for.

    Attributes:
      beams: reports that are followed side by side; one is greedy.
      length: words of a report at most; None: as many as in training, with their end.
      length_penalty: alpha; sums of log-probabilities are divided by the number of words to the
        power of alpha. 0: as published.
    """

    beams: int = 3
    length: int | None = None
    length_penalty: float = 0.0


#: As MM-Retinal's captioner is evaluated.
PUBLISHED = Search()


class Written(NamedTuple):
    """A report that a network wrote.

    Attributes:
      words: its words, of a report that has come to its end without this end.
      log_probability: of the words and their end, the sum of ln p.
      unread: sentences on the images of the case that could not be used; empty where all could.
      loss: mean of -ln p over the words of the case's reference; None where none was given.
      loss_words: how many these are, their end among them.
    """

    words: tuple[str, ...]
    log_probability: float
    unread: tuple[str, ...] = ()
    loss: float | None = None
    loss_words: int = 0

    @property
    def text(self) -> str:
        """The report as a text: Chinese without spaces, no space before a stop."""
        return readable(self.words)

    @property
    def spelled(self) -> str:
        """The report as its metrics take it, words between spaces."""
        return " ".join(self.words)


def write_reports(
    model: Any,
    cases: Iterable[Any],
    search: Search = PUBLISHED,
    *,
    references: Iterable[str] | None = None,
    count: int | None = None,
    unusable: list[tuple[int, str]] | None = None,
    progress: bool = False,
) -> Iterator[Written | None]:
    """Writes the reports of cases, of which few are in memory at once.

    Args:
      model: a `RetinalModel` that writes reports.
      cases: each a photograph or a sequence of those of one case, as `RetinalModel.caption` takes
        them.
      search: how reports are searched for.
      references: what was written of each case, whose loss is computed; None: of none.
      count: number of cases; None: unknown, which spreads them over all local devices.
      unusable: list that gets the index of every case without a photograph that can be used, and
        the reason. None raises at the first one.
      progress: whether a progress bar is shown.

    Yields:
      the report of each case in their order; None of one that is unusable.

    Raises:
      UserError: the network writes no reports or has no words, an option is out of its range, or a
        case cannot be used.
    """
    model.require_words()
    search = _checked(model, search)
    tokenizer, places = WordTokenizer(model.data_config.text), model.data_config.case_images
    devices = jax.local_devices()
    each = max(1, _PHOTOGRAPHS // places)
    if count is not None and count < each * len(devices):
        each, devices = 1 if count == 1 else each, devices[:1]
    size = each * len(devices)

    def read(numbered: tuple[int, tuple[Any, str | None]]) -> "_Read | str":
        number, (case, reference) = numbered
        try:
            found = _read(model, number, case)
        except Unusable as error:
            if unusable is None:
                raise
            return str(error)
        if reference is None:
            return found
        return found._replace(arrays={**found.arrays, "tokens": tokenizer.row(reference)})

    pairs = zip(cases, itertools.repeat(None) if references is None else references, strict=False)
    bar = progress_bar(total=count, desc="writing", unit="case", disable=not progress)
    with bar, in_threads(read, enumerate(pairs), threads=cores(), ahead=2 * size) as rows:
        for start, chunk in _chunks(rows, size):
            found = iter(_decoded(model, tokenizer, search, chunk, size, devices))
            for number, each_read in enumerate(chunk, start):
                if isinstance(each_read, str):
                    assert unusable is not None, "the reading raises without the list"
                    unusable.append((number, each_read))
                    yield None
                else:
                    yield next(found)._replace(unread=each_read.unread)
            bar.update(len(chunk))


class _Read(NamedTuple):
    """Arrays of a case, and sentences on the images that could not be used."""

    arrays: Mapping[str, np.ndarray]
    unread: tuple[str, ...]


def _checked(model: Any, search: Search) -> Search:
    """The search with a length, checked against the network.

    Raises:
      UserError: an option is out of its range.
    """
    length = model.data_config.text.context_length if search.length is None else search.length
    most = model.method.longest_report
    for name, value, low, high in (
        ("beams", search.beams, 1, min(64, model.method.vocabulary)),
        ("length", length, 1, most),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise UserError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    penalty = search.length_penalty
    if not isinstance(penalty, int | float) or not 0 <= penalty <= 10:
        raise UserError(f"length_penalty must be a number from 0 to 10, not {penalty!r}")
    return Search(search.beams, length, float(penalty))


def _chunks(rows: Iterator[_Read | str], size: int) -> Iterator[tuple[int, list[_Read | str]]]:
    """The rows in lists of `size`, the last one shorter, each with the number of its first row."""
    start, chunk = 0, []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield start, chunk
            start, chunk = start + size, []
    if chunk:
        yield start, chunk


def photographs_of(case: Any, number: int) -> list[Any]:
    """Lists the photographs of a case.

    Args:
      case: a photograph, or a sequence of them, in which None or b"" is one that is missing.
      number: of the case, for messages.

    Raises:
      UserError: it is neither, or there is none.
    """
    if isinstance(case, bytes) and not case:
        case = [None]
    if isinstance(case, Sequence) and not isinstance(case, str | bytes | bytearray | memoryview):
        case = [None if isinstance(each, bytes) and not each else each for each in case]
    return as_images(case, what=f"images of case {number}", missing=True)


def _read(model: Any, number: int, case: Any) -> _Read:
    """Reads a case: of more photographs than the network takes at once, some from end to end.

    Raises:
      Unusable: no photograph can be used.
    """
    photographs = photographs_of(case, number)
    config = model.data_config
    images: dict[int, np.ndarray] = {}
    unread: list[str] = []
    for index in _spread([i for i, x in enumerate(photographs) if x is not None], config):
        if len(images) == config.case_images:
            break
        photograph = photographs[index]
        own = isinstance(photograph, str | os.PathLike)
        name = str(photograph) if own else f"image {index} of case {number}"
        try:
            images[index] = fit(model.decode(photograph, name), config.image)
        except (ImageError, Unusable) as error:
            unread.append(str(error))
    if not images:
        why = unread[0] if unread else "it has none"
        raise Unusable("broken_image", f"case {number} has no photograph that can be used: {why}")
    return _Read(placed(images, len(photographs), config), tuple(unread))


def _spread(indices: Sequence[int], config: Any) -> list[int]:
    """The indices, of which those come first that lie evenly from the first to the last one."""
    first = np.linspace(0, len(indices) - 1, min(config.case_images, len(indices)))
    chosen = [indices[round(place)] for place in first.tolist()]
    return [*chosen, *(index for index in indices if index not in chosen)]


def _decoded(
    model: Any,
    tokenizer: WordTokenizer,
    search: Search,
    chunk: Sequence[_Read | str],
    size: int,
    devices: Sequence[Any],
) -> list[Written]:
    """The reports of those cases of a chunk that could be read."""
    arrays = [each.arrays for each in chunk if isinstance(each, _Read)]
    if not arrays:
        return []
    padded = arrays + arrays[-1:] * (size - len(arrays))
    batch = {name: np.stack([each[name] for each in padded]) for name in arrays[0]}
    found = model.best_reports(batch, search, devices)
    host = {name: np.asarray(array) for name, array in found.items()}
    written = []
    for row in range(len(arrays)):
        ids = host["words"][row]
        said = tokenizer.words(ids)
        steps = min(len(said) + 1, len(ids))  # the end is a word, too
        score = float(host["scores"][row]) * steps**search.length_penalty
        loss = float(host["losses"][row]) if "losses" in host else None
        words = int(host["loss_words"][row]) if "losses" in host else 0
        written.append(Written(tuple(said), score, loss=loss, loss_words=words))
    return written
