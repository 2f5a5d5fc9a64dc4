"""Pickles and pages of an LMDB that somebody made to do harm, or that a copy cut short."""

import os
import pickle
import random
import tracemalloc
from pathlib import Path

import lmdb
import pytest

from retfm_jax.data.building.rows import Unusable
from retfm_jax.data.importing import lmdb_pages, published
from retfm_jax.errors import UserError

TEXT = b"X\x01\0\0\0a"


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + TEXT + b"r" + (60_000_000).to_bytes(4, "little") + b"\x85.",  # LONG_BINPUT
        b"\x80\x02" + TEXT + b"p60000000\n\x85.",  # PUT
        b"\x80\x02" + TEXT + b"q\xff\x85.",  # BINPUT
        b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + TEXT + b"\x85.",  # FRAME
        b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b"a\x85.",  # BINUNICODE8
        b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"a\x85.",  # BINBYTES8
        b"\x80\x02\x8b\xff\xff\xff\x7f\x01\x85.",  # LONG4
        b"\x80\x02L" + b"9" * 100_000 + b"L\n\x85.",  # LONG
        b"\x80\x02" + TEXT + b"q\0" + b"h\0h\0\x86q\0" * 60 + b"\x85.",  # tuples that double
        b"(" * 100_000 + b"t.",
        b"(" + TEXT * 10_000 + b"t.",
        b"\x80\x02j\xff\xff\xff\xff\x85.",  # LONG_BINGET
        b"\x80\x02X\xff\xff\xff\xffa\x85.",
        b"\x85.",
        b".",
        b"",
        b"\x80\x02" + TEXT,
    ],
)
def test_a_pickle_takes_no_more_memory_than_it_has_bytes(data):
    tracemalloc.start()
    try:
        published.load_plain(data, "key")
    except UserError as error:
        assert "key" in str(error)  # noqa: PT017 - some of them are readable
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [("a", "b"), ("a", 1, "左眼"), ("a", "a"), ("x" * 70_000, "y" * 300), (1 << 40, -5, "é")],
)
def test_what_the_published_tool_writes_is_read(value, protocol):
    assert published.load_plain(pickle.dumps(value, protocol), "key") == value


@pytest.mark.parametrize("value", [("a", "\ud800"), ("a", 1 << 70, "b"), ("a", 1 << 40_000, "b")])
def test_what_would_fail_later_costs_its_row(value):
    with pytest.raises(Unusable, match=r"key: half of a character|key: a number of"):
        published.load_plain(pickle.dumps(value), "key")


def fill(folder: Path, seed: int) -> None:
    """A tree of some depth, with values within pages and over several, some of them deleted."""
    rng = random.Random(seed)
    with lmdb.open(str(folder), map_size=1 << 26) as store:
        for _ in range(3):
            with store.begin(write=True) as write:
                for _ in range(400):
                    key = f"patient number {rng.randrange(500)}".encode()
                    if rng.random() < 0.2:
                        write.delete(key)
                    else:
                        write.put(key, rng.randbytes(rng.choice([10, 200, 1900, 3000, 20_000])))


@pytest.mark.parametrize("seed", [1, 25])
def test_a_whole_lmdb_passes_and_no_cut_one_does_harm(tmp_path, seed):
    fill(tmp_path, seed)
    lmdb_pages.check(tmp_path)
    file = tmp_path / "data.mdb"
    size = file.stat().st_size
    rng = random.Random(seed)
    for length in sorted((rng.randrange(size) for _ in range(40)), reverse=True):
        os.truncate(file, length)
        try:
            lmdb_pages.check(tmp_path)
        except UserError as error:
            assert str(file) in str(error)  # noqa: PT017 - what is behind the last page may go
            continue
        with lmdb.open(str(tmp_path), readonly=True, lock=False) as store, store.begin() as read:
            assert sum(len(value) for _, value in read.cursor()) > 0


def test_bytes_that_changed_are_found_or_do_no_harm(tmp_path):
    fill(tmp_path, 3)
    file = tmp_path / "data.mdb"
    whole = file.read_bytes()
    rng = random.Random(3)
    found = 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(20):
            position = rng.randrange(2, len(data) // 4096) * 4096 + rng.randrange(40)
            data[position] = rng.randrange(256)
        file.write_bytes(data)
        try:
            lmdb_pages.check(tmp_path)
        except UserError:
            found += 1
            continue
        with lmdb.open(str(tmp_path), readonly=True, lock=False) as store, store.begin() as read:
            try:
                for _ in read.cursor():
                    pass
            except lmdb.Error:
                found += 1
    assert found > 20


@pytest.mark.parametrize("content", [b"", b"x" * 10_000, None])
def test_what_is_no_lmdb_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(UserError, match=r"is no LMDB|is a damaged LMDB"):
        lmdb_pages.check(tmp_path)
