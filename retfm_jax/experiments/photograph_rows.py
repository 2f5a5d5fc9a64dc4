"""What tables of photographs say of each: whether it could be used, its quality, its side."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8

from retfm_jax.data import dicom, image_files
from retfm_jax.data.image_limits import ImageError
from retfm_jax.data.images import decode
from retfm_jax.data.laterality_guess import guess_side
from retfm_jax.data.quality import quality, small_disc
from retfm_jax.errors import Unusable, UserError
from retfm_jax.experiments.photograph_list import Listed
from retfm_jax.experiments.prediction_files import Columns, Row
from retfm_jax.files import as_path

#: Columns of flags, counted in summaries, and of what else is known of a photograph.
FLAGS: Columns = dict.fromkeys(("unreadable", "not_fundus", "low_quality"), bool)
KNOWN: Columns = {
    **dict.fromkeys(("eye", "eye_from"), str),
    **dict.fromkeys(("quality", "sharpness", "illumination", "field"), float),
    "problem": str,
}
#: Sentences that a summary holds.
_MOST_PROBLEMS = 50
#: Significant digits of measures of quality.
_DIGITS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A photograph that was looked at.

    Attributes:
      image: (h, w, 3) uint8, RGB, at its own size; None where it cannot be used.
      row: what is known of it, by column.
    """

    image: UInt8[np.ndarray, "h w 3"] | None
    row: Row


def look(photograph: Listed, modality: str) -> Seen:
    """Reads, decodes and measures a photograph.

    Args:
      photograph: of a list.
      modality: what it is; what is not "cfp" is not measured, as all measures are of color fundus
        photographs.

    Returns:
      it, with a row of `image`, the flags and, of one that can be used, what else is known; the row
      of one that cannot says why in `problem`.
    """
    row: Row = {"image": photograph.name}
    try:
        if photograph.problem:
            raise Unusable("missing_image", photograph.problem)
        data = image_files.read(as_path(photograph.path))
        image = decode(data, photograph.path)
    except (ImageError, Unusable) as error:
        return Seen(None, unreadable(photograph, error))
    side = dicom.laterality(data) if dicom.is_dicom(data) else None
    if modality != "cfp":
        nothing = dict.fromkeys((*FLAGS, *KNOWN))
        row = nothing | row | {"unreadable": False, "eye": side}
        return Seen(image, row | {"eye_from": "header" if side else None})
    small = small_disc(image)
    measured = quality(small)
    guess = guess_side(small).side if side is None and measured.is_fundus else None
    row |= {
        "unreadable": False,
        "not_fundus": not measured.is_fundus,
        "low_quality": measured.is_low,
        "quality": rounded(measured.score, _DIGITS),
        "sharpness": rounded(measured.sharpness, _DIGITS),
        "illumination": rounded(measured.illumination, _DIGITS),
        "field": rounded(measured.field, _DIGITS),
        "eye": side or guess,
        "eye_from": "header" if side else "guess" if guess else None,
    }
    return Seen(image, row)


def unreadable(photograph: Listed, error: Exception) -> Row:
    """Row of a photograph that cannot be used.

    Args:
      photograph: of a list.
      error: says why.
    """
    return {"image": photograph.name, "unreadable": True, "problem": str(error)}


def refuse(rows: Iterable[Row]) -> None:
    """Refuses photographs that cannot be used.

    Args:
      rows: of photographs.

    Raises:
      UserError: one of them cannot be.
    """
    for row in rows:
        if row["unreadable"]:
            raise UserError(
                f"{row['problem']}; no table was written, as on_error refuse asks (finished parts "
                "stay, and the same command resumes)"
            )


def rounded(value: float, digits: int) -> float:
    """Rounds a number to significant digits.

    Args:
      value: any number.
      digits: how many stay.
    """
    return float(f"{value:.{digits}g}")


@dataclasses.dataclass(frozen=True)
class Summary:
    """Summary of a table of photographs.

    Attributes:
      count: rows, of photographs that could be used and of others.
      resumed: of these, rows that an earlier command had made.
      unreadable, not_fundus, low_quality: rows with these flags.
      unmeasured: rows of images that are no color fundus photographs and have no such flags.
      first_problems: sentences on the first photographs that could not be used.
    """

    count: int
    resumed: int
    unreadable: int
    not_fundus: int
    low_quality: int
    unmeasured: int
    first_problems: tuple[str, ...]


class Counts:
    """Counts flags of rows that pass."""

    def __init__(self) -> None:
        self._counts = collections.Counter[str]()
        self._problems: list[str] = []

    def counted(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Counts rows.

        Args:
          rows: of photographs, with all flags.

        Returns:
          the rows.
        """
        for row in rows:
            self._counts.update(flag for flag in FLAGS if row[flag])
            self._counts["unmeasured"] += not row["unreadable"] and row["not_fundus"] is None
            if row["unreadable"] and len(self._problems) < _MOST_PROBLEMS:
                self._problems.append(row["problem"])
        return rows

    def summary(self, count: int, resumed: int) -> Summary:
        """Sums up what was counted.

        Args:
          count: rows in all.
          resumed: of these, rows that an earlier command had made.
        """
        return Summary(
            count, resumed, **{flag: self._counts[flag] for flag in (*FLAGS, "unmeasured")},
            first_problems=tuple(self._problems),
        )  # fmt: skip
