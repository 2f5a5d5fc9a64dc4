"""Import and build killed at any moment: `verbs_kill.py` does it for long, and for more verbs."""

import os

import verbs_kill
from object_store import environment


def test_kills_on_a_disk(tmp_path):
    folder = tmp_path / "patients"
    folder.mkdir()
    assert verbs_kill.run(folder, 3, 1, root=str(tmp_path), environ=os.environ) >= 3


def test_kills_in_a_store(tmp_path, bucket, emulator_address):
    environ = environment(emulator_address)
    assert verbs_kill.run(tmp_path, 2, 2, root=bucket, environ=environ) >= 2
