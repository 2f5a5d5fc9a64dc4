"""Whatever happens, a name holds what it held before or all of what was to be written."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from retfm_jax import files
from retfm_jax.errors import UserError


@pytest.fixture(params=["disk", "store"])
def folder(request, tmp_path):
    """A folder that is not there yet, on a local disk and in an object store."""
    if request.param == "disk":
        return files.as_path(tmp_path / "folder")
    return files.as_path(request.getfixturevalue("bucket")) / "folder"


class _Failure(Exception):
    pass


def _fail_after(opened, content: str) -> None:
    """Writes into what `opened` opens, and fails before it is closed."""
    with pytest.raises(_Failure), contextlib.ExitStack() as stack:
        _write_and_fail(stack.enter_context(opened), content)


def _write_and_fail(opened, content: str) -> None:
    if isinstance(opened, Path):
        (opened / "info.json").write_text(content)
    else:
        opened.write(content)
    raise _Failure


def _names(folder) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files.files_below(folder)]


def test_text_and_bytes_come_back(folder):
    with files.atomic_write(folder / "a" / "text") as file:
        file.write("左眼 drusen\n")
    with files.atomic_write(folder / "bytes", "wb") as file:
        file.write(b"\x00\xff")
    files.write_json(folder / "value.json", {"名": 1.5})
    assert (folder / "a" / "text").read_text(encoding="utf-8") == "左眼 drusen\n"
    assert files.read_bytes(folder / "bytes") == b"\x00\xff"
    assert files.read_json(folder / "value.json") == {"名": 1.5}
    assert _names(folder) == ["a/text", "bytes", "value.json"]


def test_one_of_many_files_takes_the_place_of_what_a_killed_process_left(folder):
    for content in (b"first", b"second"):
        files.write_one_of_many(folder / "a" / "1.png", content)
        assert _names(folder) == ["a/1.png"]
        assert files.read_bytes(folder / "a" / "1.png") == content
        if not files.is_remote(folder):
            (folder / "a" / ".1.png.writing").write_bytes(b"half")
    files.write_one_of_many(folder / "a" / "1.png", b"third")
    assert _names(folder) == ["a/1.png"]
    with pytest.raises(UserError, match="cannot write"):
        files.write_one_of_many(Path("/proc/version/x"), b"")


def test_a_block_that_fails_leaves_the_old_content_and_nothing_else(folder):
    files.write_json(folder / "value.json", 1)
    _fail_after(files.atomic_write(folder / "value.json"), "half")
    _fail_after(files.atomic_write(folder / "new"), "half")
    assert files.read_json(folder / "value.json") == 1
    assert _names(folder) == ["value.json"]


def test_a_folder_is_there_when_its_block_has_ended(folder):
    with files.whole_folder(folder, last="info.json") as made:
        (made / "shards").mkdir()
        (made / "shards" / "0").write_bytes(b"record")
        (made / "info.json").write_text("{}")
        assert not folder.exists()
    assert _names(folder) == ["info.json", "shards/0"]
    with pytest.raises(UserError, match="not empty"), files.whole_folder(folder, last="info.json"):
        pass


def test_a_folder_that_fails_leaves_the_one_that_was_there(folder):
    with files.whole_folder(folder, last="info.json") as made:
        (made / "info.json").write_text("old")
        (made / "only-old").write_text("old")
    _fail_after(files.whole_folder(folder, last="info.json", overwrite=True), "new")
    assert (folder / "info.json").read_text() == "old"
    with files.whole_folder(folder, last="info.json", overwrite=True) as made:
        (made / "info.json").write_text("new")
    assert (folder / "info.json").read_text() == "new"
    assert _names(folder.parent) == ["folder/info.json"]


def test_objects_have_no_folder_outside_their_root(bucket):
    root = f"{bucket}/images"
    assert str(files.inside(root, "a/../b.jpg")) == f"{root}/b.jpg"
    for relative in ("../b.jpg", "a/../../b.jpg", "/b.jpg"):
        with pytest.raises(UserError, match="outside"):
            files.inside(root, relative)


def test_readers_of_local_files_get_a_copy_of_an_object(folder):
    with files.atomic_write(folder / "weights.pt", "wb") as file:
        file.write(b"weights")
    with files.local_file(folder / "weights.pt") as path:
        assert path.suffix == ".pt"
        assert path.read_bytes() == b"weights"


def test_removing_takes_all_that_is_below(folder):
    for name in ("a/b/c", "a/d"):
        files.write_json(folder / name, 0)
    files.remove(folder / "a" / "d")
    assert _names(folder) == ["a/b/c"]
    files.remove(folder / "a")
    files.remove(folder / "a")
    assert _names(folder) == []


@pytest.mark.parametrize(
    ("path", "why"),
    [("s3://bucket/run", "gs://"), ("gs://", "no bucket"), ("file:///tmp/x", "gs://")],
)
def test_paths_that_are_none_are_no_local_folders(path, why):
    with pytest.raises(UserError, match=why):
        files.as_path(path)


def test_without_the_extra_one_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'gcsfs"):
        files.as_path("gs://bucket/run")


def test_an_object_that_is_not_there_is_named(bucket):
    with pytest.raises(UserError, match=r"gs://.*/missing.json"):
        files.read_json(f"{bucket}/missing.json")


def test_a_bucket_that_is_not_there_is_named(bucket):
    with pytest.raises(UserError, match="gs://no-such-bucket/x"):
        files.write_json("gs://no-such-bucket/x", 1)


def test_links_stay_links_and_permissions_stay(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to("target")
    files.write_json(link, "new")
    assert link.is_symlink()
    assert json.loads(target.read_text()) == "new"
    assert target.stat().st_mode & 0o777 == 0o600


def test_devices_are_written_to_and_stay(tmp_path):
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    for path in ("/dev/null", link):
        files.write_json(path, "anything")
        assert Path(path).is_char_device()
    assert link.is_symlink()


def test_a_pipe_is_written_to_where_someone_reads_and_refused_where_nobody_does(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="pipe"):
        files.write_json(pipe, 1)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.write_json(pipe, "drusen")
        assert os.read(reader, 100) == b'"drusen"\n'
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_folder_and_a_socket_are_refused(tmp_path):
    import socket

    with pytest.raises(UserError, match="folder"):
        files.write_json(tmp_path, 1)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(UserError, match="no file"):
            files.write_json(tmp_path / "socket", 1)


_PRINT = "from retfm_jax import files; print('a'); files.write_json('{}', 'b'); print('c')"


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_takes_its_turn(tmp_path, name):
    out = tmp_path / "out"
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", _PRINT.format(name)], stdout=file, check=True)
    assert out.read_text() == 'a\n"b"\nc\n'
    assert os.listdir(tmp_path) == ["out"]


def test_names_may_be_as_long_as_the_disk_allows(tmp_path):
    path = tmp_path / ("眼" * 83 + ".json")
    files.write_json(path, 1)
    assert files.read_json(path) == 1


def test_names_may_be_bytes_that_are_no_utf8(tmp_path):
    name = os.fsdecode("caf\u00e9".encode("latin-1") + b"\xff" * 120)
    for kept in ("old", "new"):
        files.write_json(tmp_path / name, kept)
        with files.whole_folder(tmp_path / f"{name}.d", last="info", overwrite=True) as made:
            (made / "info").write_text(kept)
    assert files.read_json(tmp_path / name) == "new"
    assert (tmp_path / f"{name}.d" / "info").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"{name}.d"])


def test_a_path_with_a_zero_in_it_is_refused():
    with pytest.raises(UserError, match="no path"):
        files.as_path("run\0.json")


_KILLED = textwrap.dedent("""
    import os, signal, sys
    from retfm_jax import files
    if sys.argv[1] == "file":
        with files.atomic_write(sys.argv[2]) as file:
            file.write("half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    with files.whole_folder(sys.argv[2], last="info", overwrite=True) as made:
        (made / "shard").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
""")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_leaves_goes_with_the_next_that_writes(tmp_path, kind):
    path = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", _KILLED, kind, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(os.listdir(tmp_path)) == 1
    if kind == "file":
        files.write_json(path, 1)
    else:
        with files.whole_folder(path, last="info") as made:
            (made / "info").touch()
    assert os.listdir(tmp_path) == ["out"]


def test_what_another_process_is_writing_stays(tmp_path):
    with files.whole_folder(tmp_path / "out", last="info") as made:
        files.remove_abandoned(tmp_path / "out")
        assert made.is_dir()
    with files.atomic_write(tmp_path / "file") as file:
        files.remove_abandoned(tmp_path / "file")
        assert Path(file.name).exists()


def test_a_folder_whose_replacement_was_killed_halfway_comes_back(tmp_path):
    # Between the two renames: the old one aside, the new one without its name.
    made = tmp_path / ".out.writing-x"
    made.mkdir()
    aside = tmp_path / ".out.writing-x.replaced"
    aside.mkdir()
    (aside / "info").write_text("old")
    held = os.open(made, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    files.remove_abandoned(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == [made.name, aside.name]  # its writer still runs
    os.close(held)
    files.remove_abandoned(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "info").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file/out.json", "Not a directory"),
        ("file/deeper/out.json", "Not a directory"),
        ("folder", "it is a folder"),
        ("link/out.json", "Not a directory"),
        ("/proc/out.json", "cannot write /proc/out.json"),
        ("/dev/null/out", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("", "empty path"),
    ],
)
def test_what_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch, name, why):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    Path("link").symlink_to("file")
    with pytest.raises(UserError, match=why):
        files.check_writable(name)


def test_looking_whether_a_file_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "new" / "file")
    for name in ("old", "missing/below/out.json", "link"):
        files.check_writable(tmp_path / name)
    files.check_writable("/dev/stdout")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "old"]
    assert (tmp_path / "old").read_text() == "old"


def test_a_reader_that_has_had_enough_is_told_from_a_disk_that_fails():
    command = (
        "import sys; from retfm_jax.files import atomic_write\n"
        "with atomic_write('/dev/stdout') as file: file.write('line\\n' * 100_000)"
    )
    shell = f'{sys.executable} -c "$CODE" | head -n 1'
    result = subprocess.run(
        shell, shell=True, capture_output=True, text=True, env=os.environ | {"CODE": command}
    )
    assert result.stdout == "line\n"
    assert "BrokenPipeError" in result.stderr  # which the command line takes in silence
    assert "UserError" not in result.stderr
