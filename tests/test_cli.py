"""The command line answers at once and speaks plainly."""

import subprocess
import sys

import pytest

from retfm_jax import cli


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from retfm_jax import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'numpy', 'grain', 'transformers', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "train" in result.stdout


def _verbs(parser, path=()):
    for action in parser._actions:
        for name, child in (getattr(action, "choices", None) or {}).items() if action.nargs else ():
            if hasattr(child, "_actions"):
                yield from _verbs(child, (*path, name))
    if parser.get_default("run"):
        yield path, parser.get_default("run")


def test_every_verb_leads_to_a_function():
    import importlib

    verbs = dict(_verbs(cli.make_parser()))
    assert ("data", "check") in verbs
    for run in verbs.values():
        module, _, function = run.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_user_errors_have_no_traceback(capsys, tmp_path):
    assert cli.main(["train", "--config", "nothing", "--workdir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("retfm train: no config 'nothing'")
    assert "Traceback" not in error


def test_unknown_config_key_is_refused(capsys, tmp_path):
    arguments = ["train", "--config", "quickstart", "--workdir", str(tmp_path)]
    assert cli.main([*arguments, "--config.train.stepz=3"]) == 1
    assert "did you mean config.train.steps" in capsys.readouterr().err


def test_overrides_where_there_is_no_config(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["label", "x.jsonl", "--out", "y.jsonl", "--config.train.steps=3"])
    assert stop.value.code == 2
    assert "takes no config" in capsys.readouterr().err
