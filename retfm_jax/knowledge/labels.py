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
    """Turns lists of condition ids into a matrix of zeros and ones.

    Args:
      found: the ids of each report, such as `ReportLabels.patient`. Ids outside of
        `condition_ids` are left out.
      condition_ids: the columns, such as `Vocabulary.ids`.

    Returns:
      the matrix, (reports, conditions) float32; a row of zeros means that nothing is known.

    Raises:
      UserError: a column occurs twice.
    """
    columns = {condition_id: column for column, condition_id in enumerate(condition_ids)}
    if len(columns) != len(condition_ids):
        twice = next(c for c in condition_ids if list(condition_ids).count(c) > 1)
        raise UserError(f"the condition {twice!r} occurs twice in the list of labels")
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
    """Labels reports, or the texts of single eyes, as rows of a matrix.

    Args:
      reports: English, Chinese or mixed, as written.
      condition_ids: the columns; all conditions of the labeler's vocabulary where None.
      labeler: one with the bundled vocabulary where None.

    Returns:
      the matrix, (reports, conditions) float32, as `multi_hot` makes it: uncertain findings count
      as present, a row of zeros is an unknown report.

    Raises:
      UserError: the reports are one text alone, or one of them is no text (its number is named); a
        column is unknown or occurs twice.
    """
    if isinstance(reports, str | bytes) or not isinstance(reports, Iterable):
        raise UserError(f"give the reports as a list of texts, not as {type(reports).__name__}")
    labeler = labeler or shared_labeler()
    ids = labeler.vocabulary.ids if condition_ids is None else condition_ids
    if isinstance(ids, str):
        raise UserError(f"give the columns as a list, [{ids!r}], not as a string")
    unknown = [str(each) for each in ids if each not in labeler.vocabulary.ids]
    if unknown:
        raise UserError(f"{', '.join(unknown)}: no condition of the vocabulary has this id")
    found = []
    for number, report in enumerate(reports):
        try:
            found.append(labeler.label(report).patient)
        except UserError as error:
            raise UserError(f"report number {number}: {error}") from error
    return multi_hot(found, ids)


@functools.cache
def shared_labeler(path: str | None = None, extend: tuple[str, ...] = ()) -> Labeler:
    """Labeler that the process shares: preparing one takes a second.

    Args:
      path, extend: see `vocabulary.load_vocabulary`.
    """
    return Labeler(load_vocabulary(path, extend=extend))
