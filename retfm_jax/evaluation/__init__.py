"""What a network knows of a split: protocols, metrics with intervals, reports."""
