"""Numbers with intervals: pure functions of scores, labels and patients."""
