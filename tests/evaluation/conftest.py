"""A user's own folder of class folders."""

import pytest
from colour_world import CLASSES, photograph


@pytest.fixture
def class_folder(tmp_path):
    """A user's own folder: train and test, three classes, a few photographs of each."""
    root = tmp_path / "mine"
    for split, count in (("train", 6), ("test", 4)):
        for index, name in enumerate(CLASSES[:3]):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 1000 * (split == "test") + 100 * index + number
                (folder / f"{number}.png").write_bytes(photograph(name, seed))
    return root
