"""The benchmark: models by tasks by protocols, every cell alike, resumable, on one page."""
