"""Writes the reports of cases into a file: any number of them, resumed where it stopped."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from retfm_jax.captioning import (
    PUBLISHED,
    ReadCase,
    Search,
    Written,
    checked,
    read_case,
    reports_of,
)
from retfm_jax.data.words import WordTokenizer
from retfm_jax.errors import Unusable
from retfm_jax.experiments.case_list import ListedCase, case_list
from retfm_jax.experiments.in_parts import complete, refuse_shared_stream, run_of
from retfm_jax.experiments.photograph_list import Listed
from retfm_jax.experiments.photograph_rows import FLAGS, Summary, look, refuse, rounded
from retfm_jax.experiments.prediction_files import Columns, Parts, Row, check_suffix, join
from retfm_jax.files import PathLike, as_path, check_writable
from retfm_jax.knowledge.labeler import ABSENT, PATIENT, PRESENT, UNCERTAIN, Labeler
from retfm_jax.knowledge.labels import shared_labeler
from retfm_jax.knowledge.laterality import SIDES
from retfm_jax.model import RetinalModel, load
from retfm_jax.runtime.signals import StopSignal
from retfm_jax.runtime.threads import cores, in_threads

#: Cases of a part: what a killed process has to do again, at most.
PART_SIZE = 128
#: Cases that are read ahead, each as the network takes it.
_AHEAD = 64
#: Significant digits of log-probabilities.
_DIGITS = 7

#: Columns of a file of reports, and what each holds.
#:
#: - `case`: as the list has it; `images`: its photographs, "" of a missing eye.
#: - `report`, `words`: the text, and how many words it has.
#: - `log_probability`: of the words and the end, the sum of ln p.
#: - `complete`: whether the report came to its end before the greatest length.
#: - `findings`, `uncertain`, `denied`: conditions that the labeler reads in it as present, as
#:   suspected and as absent, what they imply among them; `left_findings`, `right_findings`: those
#:   of an eye, suspected ones as well.
#: - `unread_images`: photographs that cannot be used, where others of the case can.
#: - `unreadable`: no photograph can be used; `not_fundus`, `low_quality`: said of some photograph,
#:   by rules that are not validated (see `data.quality`) and that know color photographs alone.
#: - `problem`: why photographs cannot be used.
COLUMNS: Columns = {
    "case": str,
    "images": list,
    "report": str,
    "log_probability": float,
    "words": int,
    "complete": bool,
    **dict.fromkeys(("findings", "uncertain", "denied"), list),
    **{f"{side}_findings": list for side in SIDES},
    "unread_images": int,
    **FLAGS,
    "problem": str,
}


def caption(
    workdir: PathLike,
    images: PathLike,
    out: PathLike,
    *,
    search: Search = PUBLISHED,
    on_error: str = "skip",
) -> Summary | None:
    """Writes a row for every case, in the order of the list; see `COLUMNS`.

    Memory does not grow with the number of photographs. All local devices share a batch; of several
    hosts each makes every so-manieth part, and process 0 joins them.

    Args:
      workdir: of the network, or its checkpoint folder, or weights, as `load` reads them.
      images: a table of cases (see `case_list`), a folder, one photograph, or "-", a list of paths
        on standard input.
      out: `.csv`, `.jsonl` or `.parquet`.
      search: how reports are searched for.
      on_error: "skip" gives cases that cannot be used a row that says so, "refuse" ends at the
        first one.

    Returns:
      the summary; None on other hosts than that of process 0.

    Raises:
      Stopped: a signal ended it; the same command resumes.
      UserError: the network writes no reports, there is no photograph, another process writes the
        same file, or what an earlier command left there was made of something else.
    """
    out = as_path(out)
    check_suffix(out)
    check_writable(out)
    refuse_shared_stream(images)
    model = load(workdir)
    search = checked(model, search)
    tokenizer = WordTokenizer(model.data_config.text)
    decided = {
        "search": search._asdict(),
        "words": [tokenizer.digest, tokenizer.context_length, model.data_config.case_images],
    }
    with case_list(images, PART_SIZE) as listed:
        return complete(
            Parts(out),
            listed,
            run_of(model, listed, decided),
            lambda items, stop: rows_of(model, items, search, listed.count, on_error, stop),
            lambda parts: join(out, COLUMNS, parts),
            doing="writing",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Looked:
    """A case that was looked at: what the network takes, or why it takes nothing, and its row."""

    read: ReadCase | Unusable
    row: Row


@contextlib.contextmanager
def rows_of(
    model: RetinalModel,
    cases: Iterable[ListedCase],
    search: Search,
    count: int,
    on_error: str,
    stop: StopSignal,
) -> Iterator[Iterator[Row]]:
    """Makes rows of cases: threads decode while the devices compute.

    Args:
      model: that writes reports.
      cases: any number, taken as they are needed.
      search: how reports are searched for.
      count: number of all cases of the list.
      on_error: "refuse" raises at the first case that cannot be used.
      stop: a signal that it got ends the rows.

    Yields:
      an iterator of rows, in order.
    """
    data = model.data_config
    labeler = shared_labeler(data.vocabulary, data.extend)
    longest = search.length or data.text.context_length
    nothing: Row = dict.fromkeys(COLUMNS)

    def seen(case: ListedCase) -> _Looked:
        return _look(model, case)

    def rows(looked: Iterator[_Looked]) -> Iterator[Row]:
        known: list[Row] = []

        def taken() -> Iterator[ReadCase | Unusable]:
            for each in looked:
                if stop.received is not None:
                    return
                if on_error == "refuse":
                    refuse([each.row])
                known.append(each.row)
                yield each.read

        for _, written in reports_of(model, taken(), search, count=count):
            if stop.received is not None:
                return
            said = {} if written is None else _said(written, labeler, longest)
            yield nothing | known.pop(0) | said

    with in_threads(seen, cases, threads=cores(), ahead=_AHEAD) as looked:
        yield rows(looked)


def _look(model: RetinalModel, case: ListedCase) -> _Looked:
    """Reads, measures and scales the photographs of a case, in a thread."""
    seen: list[Row] = []

    def decode(photograph: Listed, name: str) -> UInt8[np.ndarray, "h w 3"]:
        found = look(photograph, model.data_config.image.modality)
        seen.append(found.row)
        if found.image is None:
            raise Unusable("broken_image", found.row["problem"])
        return found.image

    names = ["" if each is None else each.name for each in case.photographs]
    row: Row = {"case": case.name, "images": names, "unreadable": False}
    try:
        read: ReadCase | Unusable = read_case(model, case.photographs, case.name, decode)
    except Unusable as error:
        return _Looked(error, row | {"unreadable": True, "problem": str(error)})
    usable = [each for each in seen if not each["unreadable"]]
    return _Looked(
        read,
        row
        | {name: _flag(usable, name) for name in ("not_fundus", "low_quality")}
        | {"unread_images": len(read.unread), "problem": "; ".join(read.unread) or None},
    )


def _flag(photographs: Sequence[Row], name: str) -> bool | None:
    """Whether some photograph has a flag; None where none was measured."""
    found = [each[name] for each in photographs if each[name] is not None]
    return any(found) if found else None


def _said(written: Written, labeler: Labeler, longest: int) -> dict[str, Any]:
    """What a report says, by column."""
    statuses = labeler.label(written.text).statuses

    def having(scope: str, *wanted: str) -> list[str]:
        return [name for name, status in statuses[scope].items() if status in wanted]

    return {
        "report": written.text,
        "log_probability": rounded(written.log_probability, _DIGITS),
        "words": len(written.words),
        "complete": len(written.words) < longest,
        "findings": having(PATIENT, PRESENT),
        "uncertain": having(PATIENT, UNCERTAIN),
        "denied": having(PATIENT, ABSENT),
        **{f"{side}_findings": having(side, PRESENT, UNCERTAIN) for side in SIDES},
    }
