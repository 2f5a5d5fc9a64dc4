"""Reports that a network writes of cases, for `RetinalModel` and what evaluates it."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from retfm_jax.data.images import ImageError, fit
from retfm_jax.data.kinds.case import evenly_first, placed
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
    tokenizer = WordTokenizer(model.data_config.text)

    def read(numbered: tuple[int, tuple[Any, str | None]]) -> "ReadCase | Unusable":
        number, (case, reference) = numbered
        photographs = photographs_of(case, number)
        try:
            found = read_case(model, photographs, f"case {number}")
        except Unusable as error:
            if unusable is None:
                raise
            return error
        if reference is None:
            return found
        return found._replace(arrays={**found.arrays, "tokens": tokenizer.row(reference)})

    pairs = zip(cases, itertools.repeat(None) if references is None else references, strict=False)
    bar = progress_bar(total=count, desc="writing", unit="case", disable=not progress)
    ahead = 2 * _plan(model, count)[0]
    with bar, in_threads(read, enumerate(pairs), threads=cores(), ahead=ahead) as rows:
        for number, (row, written) in enumerate(reports_of(model, rows, search, count=count)):
            if isinstance(row, Unusable):
                assert unusable is not None, "the reading raises without the list"
                unusable.append((number, str(row)))
            yield written
            bar.update(1)


def reports_of(
    model: Any,
    rows: Iterator["ReadCase | Unusable"],
    search: Search = PUBLISHED,
    *,
    count: int | None = None,
) -> Iterator[tuple["ReadCase | Unusable", Written | None]]:
    """Writes the reports of cases that were read.

    Args:
      model: a `RetinalModel` that writes reports.
      rows: the cases, of which as many are taken at a time as the devices take.
      search: how reports are searched for.
      count: number of cases; None: unknown, which spreads them over all local devices.

    Yields:
      each case with its report, in order; None of one that is unusable.

    Raises:
      UserError: the network writes no reports or has no words, or an option is out of its range.
    """
    search = checked(model, search)
    tokenizer = WordTokenizer(model.data_config.text)
    size, devices = _plan(model, count)
    while chunk := list(itertools.islice(rows, size)):
        found = iter(_decoded(model, tokenizer, search, chunk, size, devices))
        for row in chunk:
            usable = isinstance(row, ReadCase)
            yield row, next(found)._replace(unread=row.unread) if usable else None


def _plan(model: Any, count: int | None) -> tuple[int, Sequence[Any]]:
    """Number of cases that are decoded at once, and the devices that share them."""
    devices = jax.local_devices()
    each = max(1, _PHOTOGRAPHS // model.data_config.case_images)
    if count is not None and count < each * len(devices):
        each, devices = 1 if count == 1 else each, devices[:1]
    return each * len(devices), devices


class ReadCase(NamedTuple):
    """A case as the network takes it.

    Attributes:
      arrays: `image` and `has_image`, see `data.kinds.case.placed`, and `tokens` of a reference
        whose loss is computed.
      unread: sentences on the images that could not be used.
    """

    arrays: Mapping[str, np.ndarray]
    unread: tuple[str, ...]


def checked(model: Any, search: Search) -> Search:
    """Checks a search against a network.

    Args:
      model: a `RetinalModel`.
      search: how reports are searched for.

    Returns:
      the search with a length.

    Raises:
      UserError: the network writes no reports or has no words, or an option is out of its range.
    """
    model.require_words()
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


def photographs_of(case: Any, number: int) -> Sequence[Any]:
    """Lists the photographs of a case.

    Args:
      case: a photograph, or a sequence of them, in which None or b"" is one that is missing; one of
        a record stays as it is, as its photographs are read when they are taken.
      number: of the case, for messages.

    Raises:
      UserError: it is neither, or there is none.
    """
    if isinstance(case, bytes) and not case:
        case = [None]
    if isinstance(case, list | tuple):
        case = [None if isinstance(each, bytes) and not each else each for each in case]
    elif isinstance(case, Sequence) and not isinstance(case, str | bytes | bytearray | memoryview):
        return case
    return as_images(case, what=f"images of case {number}", missing=True)


def read_case(
    model: Any,
    photographs: Sequence[Any],
    what: str,
    decode: Callable[[Any, str], UInt8[np.ndarray, "h w 3"]] | None = None,
) -> ReadCase:
    """Reads a case: of more photographs than the network takes at once, some from end to end.

    Args:
      model: a `RetinalModel` that writes reports.
      photographs: of the case, in order; None or b"" is one that is missing.
      what: the case, for messages.
      decode: makes pixels of a photograph and a name for messages; None: `model.decode`. It raises
        ImageError or Unusable of one that cannot be used.

    Raises:
      Unusable: no photograph can be used.
    """
    config = model.data_config
    images: dict[int, np.ndarray] = {}
    unread: list[str] = []
    for index in evenly_first(len(photographs), config.case_images):
        if len(images) == config.case_images:
            break
        photograph = photographs[index]
        if photograph is None or (isinstance(photograph, bytes) and not photograph):
            continue
        own = isinstance(photograph, str | os.PathLike)
        name = str(photograph) if own else f"image {index} of {what}"
        try:
            images[index] = fit((decode or model.decode)(photograph, name), config.image)
        except (ImageError, Unusable) as error:
            unread.append(str(error))
    if not images:
        why = unread[0] if unread else "it has none"
        raise Unusable("broken_image", f"{what} has no photograph that can be used: {why}")
    return ReadCase(placed(images, len(photographs), config), tuple(unread))


def _decoded(
    model: Any,
    tokenizer: WordTokenizer,
    search: Search,
    chunk: Sequence[ReadCase | Unusable],
    size: int,
    devices: Sequence[Any],
) -> list[Written]:
    """The reports of those cases of a chunk that could be read."""
    arrays = [each.arrays for each in chunk if isinstance(each, ReadCase)]
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
