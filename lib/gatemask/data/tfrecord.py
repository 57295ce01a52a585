"""Writing TFRecords without TensorFlow, whose import takes seconds that a machine full of decoders needs.

A file is a row of frames: length, checksum of the length, data, checksum of the data. The data are a
`tf.train.Example`, a protocol buffer of a map from names to lists. A test holds this module to TensorFlow's own reader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

BYTES_LIST, INT64_LIST = 1, 3  # the fields of tf.train.Feature
LENGTH_DELIMITED = 2  # a wire type of protocol buffers


def write(path: Path, examples: Iterable[Mapping[str, bytes | int]]) -> None:
    """One frame an example, in order."""
    with path.open("wb") as file:
        for features in examples:
            data = serialise(features)
            length = struct.pack("<Q", len(data))
            file.write(length + _checksum(length) + data + _checksum(data))


def serialise(features: Mapping[str, bytes | int]) -> bytes:
    """A `tf.train.Example` of single values, sorted by name; whole numbers must not be negative."""
    entries = (_field(1, _field(1, name.encode()) + _field(2, _feature(features[name]))) for name in sorted(features))
    return _field(1, b"".join(entries))


def _feature(value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _field(INT64_LIST, _field(1, _varint(value)))
    return _field(BYTES_LIST, _field(1, value))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and offset, since plain checksums of data that hold checksums tell little."""
    import google_crc32c  # here, since Kaggle's TPU image lacks it, where records are only read

    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
