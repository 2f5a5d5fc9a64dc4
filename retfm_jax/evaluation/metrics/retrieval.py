"""Image-report retrieval: recall at k both ways, without holding the whole similarity matrix."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import EmbeddedSplit, Embedding, same_report_groups
from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.evaluation.metrics.intervals import proportion

RECALL_AT = (1, 5, 10)
DIRECTIONS = ("image_to_report", "report_to_image")
#: Rows of queries and of the gallery whose similarities exist at one time.
QUERY_CHUNK, GALLERY_CHUNK = 1024, 16384


def _pad(rows: np.ndarray, chunk: int, value: float) -> np.ndarray:
    """Fills the last chunk, so that every chunk has one shape and compiles once."""
    missing = -len(rows) % chunk
    return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1), constant_values=value)


def _similarities(
    queries: Float[Array, "q d"], gallery: Float[Array, "g d"]
) -> Float[Array, "q g"]:
    return jnp.dot(queries, gallery.T, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _best_right(
    best: Float[Array, " q"],
    queries: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    same: Bool[Array, "q g"],
) -> Float[Array, " q"]:
    """The largest similarity with a right answer so far."""
    right = jnp.where(same, _similarities(queries, gallery), -jnp.inf)
    return jnp.maximum(best, right.max(1))


@jax.jit
def _wrong_above(
    best: Float[Array, " q"],
    queries: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    wrong: Bool[Array, "q g"],
) -> Int[Array, " q"]:
    """How many wrong answers are at least as similar as the best right one."""
    return (wrong & (_similarities(queries, gallery) >= best[:, None])).sum(1)


def ranks(
    queries: Embedding, gallery: Embedding, groups: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Ranks, from 1 on, of the first right answer to every query.

    Query i is answered rightly by every gallery item of its group (its own and its duplicates). A
    wrong answer that ties with the best right one ranks before it, so that a model which embeds
    everything alike is not rewarded.

    Args:
      queries, gallery: unit-norm vectors (n, d) float32; item i of both belongs to record i.
      groups: equal numbers for equal reports, (n) integers of at least 0.
    """
    count = len(queries)
    query_chunk, gallery_chunk = min(QUERY_CHUNK, count), min(GALLERY_CHUNK, count)
    gallery = _pad(gallery, gallery_chunk, 0.0)
    gallery_groups = _pad(groups, gallery_chunk, -1)
    queries = _pad(queries, query_chunk, 0.0)
    query_groups = _pad(groups, query_chunk, -2)
    blocks = [slice(s, s + gallery_chunk) for s in range(0, len(gallery), gallery_chunk)]
    result = []
    for start in range(0, len(queries), query_chunk):
        rows = queries[start : start + query_chunk]
        group = query_groups[start : start + query_chunk, None]
        best = jnp.full(query_chunk, -jnp.inf)
        for block in blocks:
            best = _best_right(best, rows, gallery[block], group == gallery_groups[block])
        above = np.zeros(query_chunk, np.int64)
        for block in blocks:
            wrong = (group != gallery_groups[block]) & (gallery_groups[block] >= 0)
            above += np.asarray(_wrong_above(best, rows, gallery[block], wrong))
        result.append(1 + above)
    return np.concatenate(result)[:count]


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Retrieval over the records of a split that have both an image and a report.

    Attributes:
      language: of the reports.
      rows: the records' positions in the split (n).
      groups: equal numbers for equal reports (n).
      ranks: by direction, of the first right answer to every query (n), from 1 on.
      recalls: by direction and name ("recall_at_5"), with exact intervals.
      skipped: number of records without an image or without a report in this language.
    """

    language: str
    rows: Int[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"]
    ranks: Mapping[str, Int[np.ndarray, " n"]]
    recalls: Mapping[str, Mapping[str, Estimate]]
    skipped: int

    def to_json(self) -> dict[str, Any]:
        """Converts the retrieval to JSON values, with the recall at 1 that guessing would reach."""
        _, sizes = np.unique(self.groups, return_inverse=False, return_counts=True)
        share = float((sizes**2).sum()) / len(self.rows) ** 2
        return {
            "language": self.language,
            "counts": {
                "records": len(self.rows),
                "distinct_reports": len(sizes),
                "without_image_or_report": self.skipped,
            },
            "expected_recall_at_1_of_guessing": round(share, 6),
            **{
                direction: {
                    "median_rank": float(np.median(self.ranks[direction])),
                    **{name: value.to_json() for name, value in recalls.items()},
                }
                for direction, recalls in self.recalls.items()
            },
        }


def retrieve(split: EmbeddedSplit, language: str) -> Retrieval:
    """Looks up every report by its image and every image by its report.

    Patients are looked up at the patient level. Records whose reports read alike answer each
    other's queries: nobody could tell them apart by the text.

    Args:
      split: an embedded split.
      language: of the reports, one in which the split's texts are embedded.

    Raises:
      UserError: fewer than two records have an image and a report in this language.
    """
    view = split.views[split.main_view]
    reports = split.reports.get(language, ())
    written = np.array([bool(text.strip()) for text in reports])
    usable = np.flatnonzero(view.seen & written) if len(written) else np.array([], np.int64)
    if len(usable) < 2:
        raise UserError(
            f"retrieval needs at least two records with an image and a report in {language!r}; "
            f"the split has {len(usable)}"
        )
    groups = same_report_groups([reports[row] for row in usable])
    images, texts = view.images[usable], view.texts[language][usable]
    pairs = {"image_to_report": (images, texts), "report_to_image": (texts, images)}
    found = {direction: ranks(*pairs[direction], groups) for direction in DIRECTIONS}
    hits = np.stack([found[direction] <= k for direction in DIRECTIONS for k in RECALL_AT], axis=1)

    patients = [split.patient_ids[row] for row in usable]
    values = [proportion(column, patients) for column in hits.T]
    names = [f"recall_at_{k}" for k in RECALL_AT]
    recalls = {
        direction: dict(zip(names, values[position * len(names) :][: len(names)], strict=True))
        for position, direction in enumerate(DIRECTIONS)
    }
    return Retrieval(language, usable, groups, found, recalls, skipped=len(view.seen) - len(usable))


def best_answers(
    query: Float[np.ndarray, " d"],
    gallery: Embedding,
    groups: Int[np.ndarray, " n"],
    count: int,
) -> list[int]:
    """Finds the gallery's best items for one query, the same report only once.

    Args:
      query: a unit-norm vector (d) float32.
      gallery: unit-norm vectors (n, d) float32.
      groups: equal numbers for equal reports, (n) integers.
      count: how many items at most.

    Returns:
      their positions in the gallery, the most similar first.
    """
    answers: list[int] = []
    for row in np.argsort(-(gallery @ query), kind="stable"):
        if groups[row] not in groups[answers]:
            answers.append(int(row))
        if len(answers) == count:
            break
    return answers
