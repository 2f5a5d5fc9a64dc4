"""The verbs `retfm data build` and `retfm data list`."""

import argparse
import tempfile

import pytest
from test_odir5k import LONG, release

from retfm_jax.cli import data_build, data_list
from retfm_jax.errors import UserError


def arguments(**values) -> argparse.Namespace:
    names = ("source", "image_size", "on_error", "shares", "seed", "workers", "patients")
    defaults = dict.fromkeys((*names, "population")) | {"overwrite": False}
    return argparse.Namespace(**defaults | values)


def test_a_builder_is_built_and_listed(tmp_path, monkeypatch, capsys):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    source = release(tmp_path / "odir", LONG, per_image=True)
    args = arguments(
        name="odir5k", source=str(source), data_dir=str(tmp_path / "data"), shares="1,0,0"
    )
    data_build.run(args)
    assert "odir5k/1.0.0: train 3 records" in capsys.readouterr().out
    data_list.run(args)
    listed = capsys.readouterr().out
    for name in ("import", "odir5k", "synthetic_fundus", "train 3"):
        assert name in listed
    with pytest.raises(UserError, match="is there already"):
        data_build.run(args)
    args.overwrite = True
    data_build.run(args)
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "odir"}, "no builder 'odir'; there are "),
        ({"name": "manifest"}, "retfm data import"),
        ({"name": "odir5k"}, "odir5k wants the folder of its release as source. Download ODIR-5K"),
        ({"name": "odir5k", "source": "/none/such"}, "is not a folder"),
        ({"name": "odir5k", "source": "x", "patients": 9}, "--patients means nothing to"),
        ({"name": "synthetic_fundus", "source": "x"}, "--source means nothing to"),
        ({"name": "odir5k", "source": "x", "image_size": -1}, "give 0 for originals"),
    ],
)
def test_mistakes_are_told(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        data_build.run(arguments(data_dir=str(tmp_path), **values))
