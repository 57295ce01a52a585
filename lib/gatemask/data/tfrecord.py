"""Write and read TFRecords without TensorFlow, whose import would take seconds in every worker process.

A file is a sequence of frames: length, checksum of the length, data, checksum of the data. The data are a
`tf.train.Example`, a protocol buffer with a map from names to lists. A test compares this module with TensorFlow's own
reader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

BYTES_LIST, INT64_LIST = 1, 3  # the fields of tf.train.Feature
LENGTH_DELIMITED = 2  # a wire type of protocol buffers

Features = Mapping[str, bytes | int | tuple[int, ...]]  # bytes, or non-negative integers


def write(path: Path, examples: Iterable[Features]) -> None:
    """Write one frame per example, in order.

    Args:
        path: TFRecord file.
        examples: Features by name.
    """
    with path.open("wb") as file:
        for features in examples:
            file.write(frame(serialize(features)))


def frame(data: bytes) -> bytes:
    """Return the frame of some data."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def frames(content: bytes, checksums: bool = False) -> Iterator[bytes]:
    """Yield the data of each frame of a file.

    Args:
        content: Bytes of the file.
        checksums: Whether to verify the checksums of the data. Default: False, for files whose hash was compared.

    Raises:
        ValueError: The file is cut short, is not a TFRecord file, or a checksum differs.
    """
    position = 0
    while position < len(content):
        start = position + 12  # after the length and its checksum
        size = int.from_bytes(content[position : position + 8], "little")
        if start + size + 4 > len(content):
            raise ValueError(f"cut short, or not a TFRecord file: {size} bytes are expected from byte {start} on")
        position = start + size + 4
        data = content[start : start + size]
        if checksums and content[start + size : position] != _checksum(data):
            raise ValueError(f"the record at byte {start} has another checksum")
        yield data


def serialize(features: Features) -> bytes:
    """Return a `tf.train.Example`, sorted by name."""
    entries = (field(1, field(1, name.encode()) + field(2, _feature(features[name]))) for name in sorted(features))
    return field(1, b"".join(entries))


def _feature(value: bytes | int | tuple[int, ...]) -> bytes:
    if not isinstance(value, bytes):
        numbers = (value,) if isinstance(value, int) else value
        return field(INT64_LIST, field(1, b"".join(map(varint, numbers))))
    return field(BYTES_LIST, field(1, value))


def field(number: int, data: bytes) -> bytes:
    """Return a field of a protocol buffer that holds bytes: its number, and data of any length."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(data)) + data


def varint(number: int) -> bytes:
    """Encode seven bits per byte, the lowest first; the eighth bit marks that more follow."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _checksum(data: bytes) -> bytes:
    """Return CRC-32C, rotated and offset, since plain checksums of data with checksums in it are weak."""
    try:
        import google_crc32c  # imported here: Kaggle's TPU image lacks it, and only reads records

        crc = google_crc32c.value(data)
    except ImportError:
        crc = _crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc32c(data: bytes) -> int:
    """Return CRC-32C, byte by byte: slow, for small files on machines without the package."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _crc_table() -> list[int]:
    values = list(range(256))
    for _ in range(8):
        values = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in values]
    return values
