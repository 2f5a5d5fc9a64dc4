"""Speed: what this machine does in a second, as ratios of runs that take turns."""
