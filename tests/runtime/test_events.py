"""The files of TensorBoard events are those of a library, byte for byte."""

import math
import subprocess
import sys
import time

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from retfm_jax.runtime.events import EventWriter

VALUES = {"loss": 0.25, "eval/AUROC of 糖网, left": -1e-20, "/odd?": math.nan, "large": math.inf}


def test_bytes_are_those_of_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1234567890.5)
    ours = EventWriter(tmp_path)
    ours.purge(299)
    theirs = EventsWriter(str(tmp_path / "theirs"))
    theirs.write_event(
        Event(wall_time=time.time(), step=300, session_log=SessionLog(status=SessionLog.START))
    )
    for step in (1, 127, 128, 300, 2**40):
        ours.scalars(step, VALUES)
        for name, value in VALUES.items():
            event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
            theirs.write_event(event)
    ours.close()
    theirs.close()
    (written,), (wanted,) = tmp_path.glob("events.out.tfevents.*"), tmp_path.glob("theirs.*")
    assert written.read_bytes() == wanted.read_bytes()


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_a_number_beyond_four_bytes_is_infinite(tmp_path, value):
    infinite = math.copysign(math.inf, value)
    contents = []
    for number, written in enumerate((value, infinite)):
        (tmp_path / str(number)).mkdir()
        writer = EventWriter(tmp_path / str(number))
        writer.scalars(1, {"loss": written})
        writer.close()
        (file,) = (tmp_path / str(number)).iterdir()
        contents.append(file.read_bytes())
    # The value stands before the checksum at the end.
    assert contents[0][-8:-4] == contents[1][-8:-4]


def test_training_does_not_import_pytorch():
    code = "import sys, retfm_jax.training.loop; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
