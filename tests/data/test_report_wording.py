"""Wording is learned from a split's records, and kept with the network."""

from retfm_jax.data import report_wording
from retfm_jax.data.records import ImageRecord, PatientRecord


class Records:
    """Records that count how often they are read."""

    def __init__(self, kind, count):
        self.kind, self.count, self.read = kind, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        text = {"en": "Left eye: drusen." if index % 2 else "Left eye: cataract.", "zh": ""}
        record = object.__new__(self.kind)
        object.__setattr__(record, "report" if self.kind is PatientRecord else "caption", text)
        return record


def test_patients_and_captions_are_read():
    for kind in (PatientRecord, ImageRecord):
        wording = report_wording.split_wording(Records(kind, 20))
        assert wording.forms["en"]["drusen"] == {"drusen": 10}
        assert wording.frames["en"]["left"] == {"Left eye: {}.": 20}


def test_of_many_reports_some_from_everywhere_are_enough(monkeypatch):
    monkeypatch.setattr(report_wording, "_MOST_REPORTS", 50)
    first, again = (Records(PatientRecord, 200_000) for _ in range(2))
    assert report_wording.split_wording(first) == report_wording.split_wording(again)
    assert sorted(first.read) == sorted(again.read)
    assert len(set(first.read)) == 50
    assert max(first.read) == 199_999
