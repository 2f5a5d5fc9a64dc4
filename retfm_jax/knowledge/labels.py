"""Labels as arrays: what the weighted similarity coupling compares."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from retfm_jax.errors import UserError
from retfm_jax.knowledge.labeler import Labeler
from retfm_jax.knowledge.vocabulary import load_vocabulary


def multi_hot(
    found: Iterable[Iterable[str]], condition_ids: Sequence[str]
) -> Float[np.ndarray, "reports conditions"]:
    """Lists of condition ids as a matrix of zeros and ones.

    Args:
      found: the ids of each report, such as `ReportLabels.patient`. Ids outside of
        `condition_ids` are left out.
      condition_ids: the columns, such as `Vocabulary.ids`.

    Returns:
      A float32 matrix; a row of zeros means that nothing is known.

    Raises:
      UserError: a column stands twice.
    """
    columns = {condition_id: column for column, condition_id in enumerate(condition_ids)}
    if len(columns) != len(condition_ids):
        twice = next(c for c in condition_ids if list(condition_ids).count(c) > 1)
        raise UserError(f"the condition {twice!r} stands twice in the list of labels")
    rows = [
        [columns[condition_id] for condition_id in ids if condition_id in columns] for ids in found
    ]
    matrix = np.zeros((len(rows), len(condition_ids)), np.float32)
    for row, hot in zip(matrix, rows, strict=True):
        row[hot] = 1
    return matrix


def label_reports(
    reports: Iterable[str],
    condition_ids: Sequence[str] | None = None,
    labeler: Labeler | None = None,
) -> Float[np.ndarray, "reports conditions"]:
    """The expert-knowledge labels of reports (or of the texts of single eyes) as a matrix.

    Args:
      reports: English, Chinese or mixed.
      condition_ids: the columns; all conditions of the labeler's vocabulary where None.
      labeler: one with the bundled vocabulary where None.

    Returns:
      As `multi_hot`: uncertain findings count as present, a row of zeros is an unknown report.
    """
    labeler = labeler or shared_labeler()
    ids = labeler.vocabulary.ids if condition_ids is None else condition_ids
    return multi_hot((labeler.label(report).patient for report in reports), ids)


@functools.cache
def shared_labeler(path: str | None = None, extend: tuple[str, ...] = ()) -> Labeler:
    """The process's labeler with a vocabulary: to prepare one takes a second.

    Args:
      path, extend: see `vocabulary.load_vocabulary`.
    """
    return Labeler(load_vocabulary(path, extend=extend))
