"""The command line answers at once and speaks plainly."""

import argparse
import errno
import io
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from retfm_jax import cli
from retfm_jax.cli import options, tasks
from retfm_jax.cli.tables import Table
from retfm_jax.config import bundled_configs, load_config
from retfm_jax.config.reference import entries
from retfm_jax.console import say
from retfm_jax.data.tasks import described_tasks
from retfm_jax.errors import Stopped
from retfm_jax.evaluation.protocols import protocol_names
from retfm_jax.experiments import embedding, photograph_list
from retfm_jax.files import atomic_write
from retfm_jax.progress import progress_bar


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


def test_every_verb_leads_to_a_function_of_its_own():
    verbs = dict(_verbs(cli.make_parser()))
    assert ("data", "check") in verbs
    assert all(map(callable, verbs.values()))
    assert len(set(verbs.values())) == len(verbs)


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


def test_help_says_no_default_where_there_is_none():
    for parser in _parsers(cli.make_parser()):
        said = parser.format_help()
        assert "default: None" not in said
        assert "default: False" not in said
    assert "(default: 5)" in next(p for p in _parsers(cli.make_parser()) if "--rounds" in
                                  p.format_help()).format_help()  # fmt: skip


def _parsers(parser):
    yield parser
    for action in parser._actions:
        for child in (getattr(action, "choices", None) or {}).values() if action.nargs else ():
            if hasattr(child, "_actions"):
                yield from _parsers(child)


_EVALUATE = ["evaluate", "--workdir", "w", "--out", "o"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*_EVALUATE, "--draws", "-1"], "--draws must be at least 1"),
        ([*_EVALUATE, "--folds", "0"], "--folds must be at least 1"),
        (
            [*_EVALUATE, "--head_learning_rate", "inf"],
            "--head_learning_rate must be at least 0, not inf",
        ),
        (["bench", "all", "--config", "quickstart", "--rounds", "0"], "--rounds must be"),
        (["data", "build", "odir5k", "--workers", "-2"], "--workers must be at least 1, not -2"),
        (["data", "import", "--name", "x", "--image_size", "-1"], "--image_size must be"),
        (["data", "build", "odir5k", "--seed", str(2**40)], "--seed must be at most 4294967295"),
        (["import", "x.pt", "--method", "vilref", "--workdir", "w", "--text_num_heads", "0"],
         "--text_num_heads must be at least 1"),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_at_once(arguments, message, capsys):
    assert cli.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_lists_may_be_given_in_parts():
    parser = argparse.ArgumentParser()
    options.listed(parser, "--shots", default="all")
    assert parser.parse_args([]).shots == "all"
    assert parser.parse_args(["--shots", "1,5"]).shots == "1,5"
    assert parser.parse_args(["--shots", "all", "--shots", "5", "--shots=10%"]).shots == "all,5,10%"


def test_a_protocol_given_twice_is_not_lost(capsys, tmp_path):
    arguments = ["evaluate", "--workdir", str(tmp_path), "--out", str(tmp_path / "found.json")]
    assert cli.main([*arguments, "--task", "zero_shot", "--task", "zero_shot"]) == 1
    assert "a protocol occurs twice" in capsys.readouterr().err


def test_failures_of_the_machine_are_one_line(monkeypatch, capsys):
    def fails(args):
        raise OSError(errno.EROFS, "Read-only file system", "there/w")

    monkeypatch.setattr(tasks, "run", fails)
    assert cli.main(["tasks"]) == 1
    assert capsys.readouterr().err == "retfm tasks: Read-only file system: there/w\n"


def test_a_reader_that_has_had_enough_is_no_failure():
    command = f"{sys.executable} -m retfm_jax.cli configs quickstart | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.stdout.startswith("quickstart: A RET-CLIP")
    assert result.stderr == ""


def test_every_config_task_and_entry_is_listed(capsys):
    assert cli.main(["configs"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in bundled_configs())
    assert cli.main(["tasks"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*protocol_names(), *described_tasks()))
    assert cli.main(["configs", "vilref_synthetic", "--config.train.steps=3"]) == 0
    listed = capsys.readouterr().out
    assert "train.steps = 3\n    int, at least 1, or null\n    steps of the whole run" in listed
    assert "elimination only: " in listed


@pytest.mark.parametrize("name", bundled_configs())
def test_every_entry_says_what_it_means(name):
    found = {entry.path: entry for entry in entries(load_config(name))}
    assert len(found) > 70
    assert [path for path, entry in found.items() if not entry.meaning] == []
    assert found["mesh.fsdp"].kind == "int, at least 1 or -1"
    assert found["data.augment.crop_area"].kind == (
        "list of 2: float, greater than 0 and at most 1, the smaller one first"
    )
    assert found["data.language"].kind == "'en' or 'zh' or 'mixed'"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_verb_which_tidies_up(number, monkeypatch, capsys, tmp_path):
    def works(args):
        with atomic_write(tmp_path / "out") as file:
            file.write("half")
            os.kill(os.getpid(), number)
            time.sleep(10)

    before = [signal.signal(signal.SIGTERM, signal.SIG_DFL), signal.getsignal(signal.SIGINT)]
    try:
        monkeypatch.setattr(tasks, "run", works)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert cli.main(["tasks"]) == 128 + number
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.startswith("retfm tasks: ")


class _Unread(io.StringIO):
    """A stream that nobody takes from."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "status"), [(errno.EPIPE, 0), (errno.EIO, 0), (errno.ENOSPC, 1)]
)
def test_output_that_nobody_takes_costs_no_work(number, status, monkeypatch):
    done = []

    def works(args):
        say("begins", style="bold")
        Table("title", ["name"]).show()
        say("and warns", error=True)
        list(progress_bar(range(2), desc="works"))
        done.append(True)

    monkeypatch.setattr(tasks, "run", works)
    monkeypatch.setattr(sys, "stdout", _Unread(number))
    monkeypatch.setattr(sys, "stderr", _Unread(number))
    assert cli.main(["tasks"]) == status
    assert done == [True]
    monkeypatch.setattr(sys, "stdout", None)  # closed from the beginning
    assert cli.main(["tasks"]) == 0  # what one command lost is no matter of the next one


def test_a_stopped_run_says_so_to_its_scheduler_even_where_nobody_reads(monkeypatch):
    def stops(args):
        raise Stopped("saved")

    monkeypatch.setattr(tasks, "run", stops)
    monkeypatch.setattr(sys, "stderr", _Unread(errno.EIO))  # of a terminal that was closed
    assert cli.main(["tasks"]) == 75
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["tasks"]) == 75


@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [
        ("{0} --version >&-", 0, ""),
        ("{0} --version <&- >&- 2>&-", 0, ""),
        ("{0} nonsense 2>&-", 2, ""),
        ("{0} --help >/dev/full", 1, "cannot write to standard output: No space left on device"),
        ("{0} --version >/dev/full", 1, "cannot write to standard output: No space left"),
    ],
)
def test_standard_files_may_be_closed_or_full(shell, status, said):
    command = shell.format(f"{sys.executable} -m retfm_jax.cli")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
    assert result.returncode == status
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--config", "quickstart", "--workdir", ""], "--workdir"),
        ([*_EVALUATE, "--dataset", " "], "--dataset"),
        ([*_EVALUATE, "--language", "en", "--language="], "--language"),
        (["data", "import", "--name", "x", "--manifest", "m", "--shares", ""], "--shares"),
        (["configs", ""], "name"),
    ],
)
def test_a_variable_that_was_not_set_is_no_value(arguments, named, capsys):
    assert cli.main(arguments) == 1
    assert f"{named} is empty" in capsys.readouterr().err


def test_a_machine_without_memory_is_one_line(monkeypatch, capsys):
    def fails(args):
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setattr(tasks, "run", fails)
    assert cli.main(["tasks"]) == 1
    assert capsys.readouterr().err == (
        "retfm tasks: there is not enough memory: Unable to allocate 7 TiB\n"
    )


def test_one_photograph_is_embedded_as_a_folder_of_one(tmp_path):
    photograph = tmp_path / "left eye.JPG"
    Image.new("RGB", (8, 8), "red").save(photograph, "JPEG")
    assert photograph_list.photographs_of(photograph) == ([photograph], [])
    (tmp_path / "list.csv").write_text("image\nleft eye.JPG\n")
    assert photograph_list.photographs_of(tmp_path / "list.csv") == ([photograph], [])


def test_names_of_bytes_that_are_no_text_are_written_as_escapes(capsys):
    names = ["a.png", os.fsdecode(b"\xff\xfe.png"), "\xe9 \u53f3.png"]
    assert embedding.as_written(names) == ["a.png", "\\xff\\xfe.png", "\xe9 \u53f3.png"]
    assert capsys.readouterr().out.startswith("1 names hold bytes that are no UTF-8")
    assert embedding.as_written(["a.png"]) == ["a.png"]
    assert capsys.readouterr().out == ""


def test_names_that_no_file_can_have_are_left_out_by_row(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    names = ["a" * 5000, "a.png", "http://host/a.png", '"nul\0"', "b/" * 3000 + "c.png", "a.png/x"]
    (tmp_path / "list.csv").write_text("\n".join(["image", *names]))
    paths, unusable = photograph_list.photographs_of(tmp_path / "list.csv")
    assert paths == [tmp_path / "a.png"]
    rows = sorted(int(said.partition(" row ")[2].partition(":")[0]) for said in unusable)
    assert rows == [2, 4, 5, 6, 7]
