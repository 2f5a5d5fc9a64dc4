"""Wording of the reports of a training split, learned from its records."""

import numpy as np

from retfm_jax.data.records import PatientRecord
from retfm_jax.data.sources import RecordSource
from retfm_jax.knowledge.labels import shared_labeler
from retfm_jax.knowledge.wording import ReportWording, learn_wording
from retfm_jax.runtime.threads import cores, in_threads

#: So many reports, spread over the split, tell how all of them speak; more would cost minutes.
_MOST_REPORTS = 8192


def split_wording(source: RecordSource) -> ReportWording:
    """Learns the wording of a split: the same for the same records, in whatever process.

    Args:
      source: of patients or of images with captions.
    """
    count = len(source)
    rows = np.unique(np.linspace(0, count - 1, min(count, _MOST_REPORTS)).astype(np.int64))

    def report(row: int) -> dict[str, str]:
        record = source[row]
        return dict(record.report if isinstance(record, PatientRecord) else record.caption)

    with in_threads(report, rows.tolist(), threads=cores(), ahead=64) as reports:
        return learn_wording(reports, shared_labeler())
