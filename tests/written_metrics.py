"""What a run wrote of itself, as tests compare it."""

import json
from pathlib import Path
from typing import Any


def written_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Lines of a run's metrics, without speeds, which no two runs share."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if "per_second" not in key} for line in found
    ]
