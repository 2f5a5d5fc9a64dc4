"""How many processor cores there are to work with."""

import os


def cores() -> int:
    """Cores that this process may use; macOS knows only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
