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
from typing import NamedTuple

BYTES_LIST, INT64_LIST = 1, 3  # the fields of tf.train.Feature
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
LONGEST_VARINT = 10  # bytes

Features = Mapping[str, bytes | int | tuple[int, ...]]  # bytes, or non-negative integers


class Span(NamedTuple):
    """A range of bytes in a file.

    Args:
        start: Position of the first byte.
        stop: Position after the last byte.
    """

    start: int
    stop: int


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


def frames(content: bytes, checksums: bool = False) -> Iterator[Span]:
    """Yield where the data of each frame of a file are.

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
        stop = start + size
        if stop + 4 > len(content):
            raise ValueError(f"cut short, or not a TFRecord file: {size} bytes are expected from byte {start} on")
        position = stop + 4
        if checksums and content[stop:position] != _checksum(content[start:stop]):
            raise ValueError(f"the record at byte {start} has another checksum")
        yield Span(start, stop)


def parse(content: bytes, frame: Span) -> dict[str, Span | tuple[int, ...]]:
    """Return the features of a `tf.train.Example`: integers, and where the bytes of the others are.

    Args:
        content: Bytes of the file.
        frame: Position of the example.

    Raises:
        ValueError: The frame does not hold an example of bytes and integers.
    """
    features: dict[str, Span | tuple[int, ...]] = {}
    for entries in _only(content, frame, 1):
        for entry in _only(content, entries, 1):
            name, feature = b"", Span(entry.stop, entry.stop)
            for number, value in _fields(content, entry):
                if number == 1 and isinstance(value, Span):
                    name = content[value.start : value.stop]
                elif number == 2 and isinstance(value, Span):
                    feature = value
            features[name.decode()] = _parse_feature(content, feature)
    return features


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


def _parse_feature(content: bytes, feature: Span) -> Span | tuple[int, ...]:
    """Return the only string of a list of bytes, or all integers of a list of integers."""
    for number, value in _fields(content, feature):
        if not isinstance(value, Span):
            continue
        if number == BYTES_LIST:
            return next(iter(_only(content, value, 1)), Span(value.stop, value.stop))
        if number == INT64_LIST:
            integers: list[int] = []
            for _, part in _fields(content, value):
                integers += _unpack(content, part) if isinstance(part, Span) else (part,)
            return tuple(integers)
    raise ValueError(f"the feature at byte {feature.start} holds neither bytes nor integers")


def _only(content: bytes, span: Span, wanted: int) -> Iterator[Span]:
    """Yield the values of one field, which have a length."""
    for number, value in _fields(content, span):
        if number == wanted and isinstance(value, Span):
            yield value


def _fields(content: bytes, span: Span) -> Iterator[tuple[int, Span | int]]:
    """Yield number and value of each field of a message."""
    position = span.start
    while position < span.stop:
        key, position = _read_varint(content, position, span.stop)
        number, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            integer, position = _read_varint(content, position, span.stop)
            yield number, integer
            continue
        if wire_type == LENGTH_DELIMITED:
            size, position = _read_varint(content, position, span.stop)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f"the field before byte {position} has the unknown type {wire_type}")
        if position + size > span.stop:
            raise ValueError(f"the field at byte {position} is longer than its message")
        yield number, Span(position, position + size)
        position += size


def _unpack(content: bytes, span: Span) -> list[int]:
    integers, position = [], span.start
    while position < span.stop:
        integer, position = _read_varint(content, position, span.stop)
        integers.append(integer)
    return integers


def _read_varint(content: bytes, position: int, stop: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    number = 0
    for place in range(LONGEST_VARINT):
        if position >= stop:
            break
        byte = content[position]
        position += 1
        number |= (byte & 127) << (7 * place)
        if byte < 128:
            return number, position
    raise ValueError(f"the number before byte {position} has no end")


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
