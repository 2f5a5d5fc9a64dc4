"""From a release to a dataset: rows, checks, splits, and the builders by name."""
