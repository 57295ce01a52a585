"""Headers of PNG and JPEG files: what the decoder's output is checked against."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's SOF markers
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Header:
    """What a file says about its picture.

    Args:
        height: Height, in pixels.
        width: Width, in pixels.
        bits: Bits per sample.
        samples: Samples per pixel: colors, transparency included.
        orientation: EXIF orientation, 1 to 8. Default: 1, upright.
        frames: Number of frames. Default: 1.
        palette: Whether pixels are entries of a palette. Default: False.
        transparency: Whether the file holds transparency. Default: False.
        complete: Whether the file reaches its end. Default: True.
        adobe: Whether a JPEG follows Adobe's conventions for ink. Default: False.
    """

    height: int
    width: int
    bits: int
    samples: int
    orientation: int = 1
    frames: int = 1
    palette: bool = False
    transparency: bool = False
    complete: bool = True
    adobe: bool = False


def png_header(data: bytes) -> Header:
    """Return the header of a PNG file.

    Raises:
        struct.error: The file ends within its header.
    """
    chunks = dict[bytes, bytes]()
    for kind, body in _png_chunks(data):
        chunks.setdefault(kind, body)
    width, height, bits, color = struct.unpack(">IIBB", chunks.get(b"IHDR", b"")[:10])
    return Header(
        height,
        width,
        bits,
        samples={0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color, 0),
        orientation=exif_orientation(chunks.get(b"eXIf", b"")),
        frames=struct.unpack(">I", chunks[b"acTL"][:4])[0] if b"acTL" in chunks else 1,
        palette=color == 3,
        transparency=color in (4, 6) or b"tRNS" in chunks,
        complete=b"IEND" in chunks,
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind = data[at + 4 : at + 8]
        yield kind, data[at + 8 : at + 8 + min(length, 1 << 16)]
        at += 12 + length


def jpeg_header(data: bytes) -> Header:
    """Return the header of a JPEG file.

    Raises:
        struct.error: The file ends within its header.
    """
    orientation, adobe, at = 1, False, 2
    while True:
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] == b"\xff":  # fill bytes
            at += 1
        start, marker, length = struct.unpack(">BBH", data[at : at + 4])
        if start != 0xFF or length < 2:
            raise struct.error("no marker")
        body = data[at + 4 : at + 2 + length]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = exif_orientation(body[6:])
        adobe = adobe or (marker == 0xEE and body.startswith(b"Adobe"))
        if marker in FRAME_HEADERS:
            bits, height, width, samples = struct.unpack(">BHHB", body[:6])
            complete = data.rfind(b"\xff\xd9") > at
            return Header(height, width, bits, samples, orientation, complete=complete, adobe=adobe)
        at += 2 + length


def exif_orientation(exif: bytes) -> int:
    """Return the orientation of an EXIF block, 1 to 8; 1 if it has none, or cannot be understood."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == ORIENTATION:
                (value,) = struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
