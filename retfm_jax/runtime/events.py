"""Files of TensorBoard events, written without a library: those import PyTorch where it is there.

A file is a sequence of records, each a message `Event` of protocol buffers. See
tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto and
tensorflow/core/lib/io/record_writer.h.
"""

import re
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_ILLEGAL = re.compile(r"[^-/\w.]")
#: Wire types: a varint, eight bytes, bytes with their length before them, four bytes.
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5


class EventWriter:
    """Writes scalars to a new file `events.out.tfevents.*`."""

    def __init__(self, folder: Path):
        """Creates the file.

        Args:
          folder: where it shall be.

        Raises:
          OSError: it cannot be written.
        """
        # In nanoseconds behind: starts within one second have files of their own.
        started = f"{int(time.time())}.{socket.gethostname()}.{time.time_ns()}"
        self._file = (folder / f"events.out.tfevents.{started}").open("wb")
        self._write(_bytes(3, b"brain.Event:2"))

    def purge(self, step: int) -> None:
        """Tells readers to forget what earlier files hold of later steps.

        Args:
          step: the last one that stays.
        """
        start = _key(1, _VARINT) + _varint(1)  # SessionLog.START
        self._write(_key(2, _VARINT) + _varint(step + 1) + _bytes(7, start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one event for each value.

        Args:
          step: number of updates so far.
          values: numbers by name.
        """
        for name, value in values.items():
            tag = _ILLEGAL.sub("_", name).lstrip("/").encode()
            shown = _bytes(1, tag) + _key(2, _FLOAT) + _float(value)
            self._write(_key(2, _VARINT) + _varint(step) + _bytes(5, _bytes(1, shown)))

    def flush(self) -> None:
        """Hands what was written to the operating system.

        Raises:
          OSError: the disk is full.
        """
        self._file.flush()

    def close(self) -> None:
        """Closes the file.

        Raises:
          OSError: the disk is full.
        """
        self._file.close()

    def _write(self, fields: bytes) -> None:
        event = _key(1, _DOUBLE) + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))


def _key(field: int, kind: int) -> bytes:
    return bytes([field << 3 | kind])


def _varint(number: int) -> bytes:
    """A whole number in groups of seven bits, the lowest ones first."""
    groups = [number & 127]
    while number := number >> 7:
        groups[-1] |= 128
        groups.append(number & 127)
    return bytes(groups)


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(content)) + content


def _float(value: float) -> bytes:
    """Four bytes; what is too large for them is infinite."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def _castagnoli() -> list[int]:
    """CRC-32C of each byte."""
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


_TABLE = _castagnoli()


def _checksum(content: bytes) -> bytes:
    """CRC-32C, masked as records have it, because checksums of checksums are weak."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
