"""Synthetic fundus photographs in folders of classes, of patients with two eyes each."""

from pathlib import Path

from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye, encode
from retfm_jax.data_builders.synthetic_fundus.population import Eye, Finding, Look

#: A class, and the finding that all its eyes have.
CLASSES = {"drusen": "drusen", "exudates": "hard_exudates", "glaucoma": "large_cup", "normal": ""}


def photograph(name: str, seed: int, side: str = "left", size: int = 64) -> bytes:
    """An eye of a class, as a JPEG or PNG file holds it."""
    finding = CLASSES[name]
    findings = {finding: Finding(0.7, "scattered" if finding == "hard_exudates" else "")}
    cup_ratio = 0.85 if finding == "large_cup" else 0.3
    eye = Eye(side, cup_ratio, findings if finding else {}, exposure=1.0, seed=seed)
    look = Look(pigment=0.4, gains=(1.0, 1.0, 1.0), vignette=0.2, cut=0.0)
    return encode(draw_eye(eye, look, size))


def write_class_folders(root: Path, patients: int = 60, size: int = 64) -> Path:
    """Writes two eyes of every patient into the folder of the patient's class, without splits."""
    for patient in range(patients):
        name = list(CLASSES)[patient % len(CLASSES)]
        (root / name).mkdir(parents=True, exist_ok=True)
        for side in ("left", "right"):
            data = photograph(name, 2 * patient + (side == "right"), side, size)
            (root / name / f"{patient}_{side}.jpg").write_bytes(data)
    return root


if __name__ == "__main__":
    import sys

    write_class_folders(Path(sys.argv[1]), *map(int, sys.argv[2:]))
