"""What the extra for data installs is enough for: `python building.py FOLDER`, which is empty."""

import contextlib
import io
import sys

from retfm_jax import cli

heard = io.StringIO()
for command in (
    "data build synthetic_fundus --patients 6 --image_size 32 --workers 1 --data_dir {0}",
    "data list --data_dir {0}",
    "data check synthetic_fundus --data_dir {0} --out {0}/check",
):
    with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
        status = cli.main(command.format(sys.argv[1]).split())
    assert status == 0, heard.getvalue()
