"""Decode TIFF files with tifffile, which needs only NumPy for most of them.

Kaggle's image has tifffile but not imagecodecs, so what tifffile alone cannot decompress is decompressed by libraries
of that image: LZW by Pillow's libtiff, strip by strip, JPEG and fax compression by Pillow. Training and inference thus
read the same pixels.
"""

from __future__ import annotations

import logging
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gatemask.data.pictures import BYTE, damaged, from_pillow, mismatch, require_one_frame, require_plausible, truncated
from gatemask.data.stored import Range, StoredImage
from gatemask.errors import GatemaskError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

NONE, LZW, JPEG, DEFLATE = 1, 5, 7, 8
WITH_PILLOW = {2, 3, 4, 6, JPEG}  # fax, old and new JPEG
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4
PREMULTIPLIED, STRAIGHT = 1, 2  # kinds of transparency


def decode_tiff(data: bytes, where: Path) -> StoredImage:
    """Decode a TIFF file as it is stored.

    Args:
        data: Contents of the file.
        where: The file, for errors.

    Raises:
        GatemaskError: The file is cut short, has several pages, or holds what cannot be understood.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # whatever matters raises an error
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            page = _only_page(file, where)
            _require_known_kind(page, where)
            _require_complete(page, data, where)
            orientation = int(page.tags.valueof(274, 1))
            stored = _decode_page(page, data, where)
    except (tifffile.TiffFileError, struct.error, IndexError, KeyError, TypeError, ValueError) as error:
        raise damaged(where, str(error)) from None
    lossy = page.compression in (6, JPEG)
    if not 1 <= orientation <= 8:
        orientation = 1
    return StoredImage(stored.pixels, stored.limits, stored.alpha, stored.opaque, stored.indices, orientation, lossy)


def _only_page(file: TiffFile, where: Path) -> TiffPage:
    """Return the picture; previews at lower resolution and transparency masks do not count as pages."""
    pages: list[Any] = [page.aspage() for page in file.pages]
    pages = [page for page in pages if not page.is_reduced and not page.is_mask]
    if not pages:
        raise damaged(where, "a TIFF file without a picture")
    require_one_frame(len(pages), where)
    page = pages[0]
    shape = file.series[0].shape if file.series else page.shape  # ImageJ stacks have one page for all images
    require_one_frame(max(int(np.prod(shape) // max(np.prod(page.shape), 1)), page.imagedepth), where)
    return page


def _require_known_kind(page: TiffPage, where: Path) -> None:
    bits, extra = page.bitspersample, len(page.extrasamples)
    colors = COLORS.get(int(page.photometric), 0)
    fits = colors == page.samplesperpixel - extra and isinstance(bits, int)
    if extra:  # a band of its own, unless it is transparency, is only left out of colors
        fits = fits and extra == 1 and (colors >= 3 or int(page.extrasamples[0]) in (PREMULTIPLIED, STRAIGHT))
    if page.photometric == YCBCR:
        fits = fits and page.compression in WITH_PILLOW
    if page.photometric in (PALETTE, CMYK):
        fits = fits and bits <= 8 and page.sampleformat in (UNSIGNED, UNDEFINED)
    if page.compression in WITH_PILLOW:
        fits = fits and bits in (1, 8) and (page.planarconfig == 1 or page.samplesperpixel == 1)
    if not fits or page.sampleformat not in (UNSIGNED, SIGNED, FLOAT, UNDEFINED):
        kind = getattr(page.photometric, "name", page.photometric)
        raise GatemaskError(
            "Unsupported kind of TIFF image.",
            where=where,
            received=f"{kind}, {page.samplesperpixel} samples of {bits} bits, {extra} of them extra, "
            f"compression {getattr(page.compression, 'name', page.compression)}",
            expected="gray, RGB, a palette, CMYK with 8 bits, or JPEG, with or without transparency",
            do="Convert the file to a gray or RGB image.",
        )


def _require_complete(page: TiffPage, data: bytes, where: Path) -> None:
    """Raise if a strip or tile is missing or reaches past the end: tifffile would fill it with zeros."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if page.is_tiled:
        across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
        expected = across * down
    else:
        expected = -(-page.imagelength // min(page.rowsperstrip or page.imagelength, page.imagelength))
    expected *= page.samplesperpixel if page.planarconfig == 2 else 1
    if len(offsets) < expected or len(counts) < expected or not all(offsets) or not all(counts):
        raise damaged(where, f"{sum(1 for count in counts if count)} of {expected} strips or tiles")
    if any(offset + count > len(data) for offset, count in zip(offsets, counts, strict=False)):
        raise truncated(where, len(data))
    row = -(-page.imagewidth * page.samplesperpixel * int(page.bitspersample) // 8)
    plain = page.compression == NONE and not page.is_tiled and page.planarconfig == 1
    if plain and sum(counts) < row * page.imagelength:
        raise truncated(where, len(data))


def _decode_page(page: TiffPage, data: bytes, where: Path) -> StoredImage:
    if page.compression in WITH_PILLOW:
        return _decode_with_pillow(page, data, where)
    try:
        pixels = _read_lzw(page, data, where) if page.compression == LZW else page.asarray()
    except (ValueError, NotImplementedError, ImportError) as error:
        if not isinstance(error, ImportError) and "imagecodecs" not in str(error):
            raise
        raise GatemaskError(
            "A TIFF file is stored in a way that needs another package.",
            where=where,
            received=f"compression {getattr(page.compression, 'name', page.compression)}, {page.bitspersample} bits, "
            f"predictor {page.predictor}",
            expected="no compression, LZW, Deflate, PackBits or JPEG; 1, 8, 16 or 32 bits",
            do="Run pip install imagecodecs. Kaggle's image lacks it: for inference, convert the files.",
        ) from None
    samples = page.samplesperpixel
    if samples > 1 and page.planarconfig == 2:
        pixels = np.moveaxis(pixels.reshape(samples, *pixels.shape[-2:]), 0, -1)
    if pixels.size != page.imagelength * page.imagewidth * samples:
        raise mismatch(where, str(pixels.shape), str((page.imagelength, page.imagewidth, samples)))
    pixels = pixels.reshape(page.imagelength, page.imagewidth, samples)
    return _interpret(page, pixels.astype(np.uint8) if pixels.dtype == bool else pixels)


def _interpret(page: TiffPage, pixels: np.ndarray) -> StoredImage:
    """Return samples (height, width, samples) as levels or colors."""
    limits = _limits(page)
    colors = COLORS[int(page.photometric)]
    alpha, opaque = None, limits[1] if limits else 1.0
    kinds = [int(kind) for kind in page.extrasamples]
    if kinds and kinds[0] in (PREMULTIPLIED, STRAIGHT):
        alpha = pixels[:, :, colors]
        if kinds[0] == PREMULTIPLIED:
            pixels = _undo_premultiplication(pixels, colors, alpha, opaque)
    pixels = pixels[:, :, :colors]
    if page.photometric == PALETTE:
        table = np.asarray(page.colormap).T
        table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)  # some writers store 8 bits
        colored, gray = table[pixels[:, :, 0]], (table == table[:, :1]).all()
        return StoredImage(colored[:, :, 0] if gray else colored, BYTE, alpha, opaque, indices=pixels[:, :, 0])
    if page.photometric == CMYK:
        ink = 255 - pixels.astype(np.uint16)
        pixels, limits = ((ink[:, :, :3] * ink[:, :, 3:] + 127) // 255).astype(np.uint8), BYTE
    if page.photometric == WHITE_IS_ZERO and limits:
        pixels = (limits[0] + limits[1] - pixels.astype(np.float64)).astype(pixels.dtype)
    return StoredImage(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, limits, alpha, opaque)


def _limits(page: TiffPage) -> Range | None:
    bits = int(page.bitspersample)
    if page.sampleformat == FLOAT:
        return None
    if page.sampleformat == SIGNED:
        return float(-(1 << (bits - 1))), float((1 << (bits - 1)) - 1)
    return 0.0, float((1 << bits) - 1)


def _undo_premultiplication(pixels: np.ndarray, colors: int, alpha: np.ndarray, opaque: float) -> np.ndarray:
    """Return colors as they were before they were multiplied by their opacity."""
    share = np.where(alpha > 0, alpha, opaque)[:, :, None] / opaque
    restored = np.clip(pixels[:, :, :colors] / share, 0, opaque)
    return (restored if pixels.dtype.kind == "f" else restored.round()).astype(pixels.dtype)


def _decode_with_pillow(page: TiffPage, data: bytes, where: Path) -> StoredImage:
    from PIL import Image

    require_plausible(page.imagelength, page.imagewidth, data, where)
    Image.MAX_IMAGE_PIXELS = None
    if orientation := page.tags.get(274):  # which Pillow would apply, to TIFF files alone
        at, order = orientation.valueoffset, page.parent.byteorder
        data = data[:at] + struct.pack(f"{order}H", 1) + data[at + 2 :]
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            stored = from_pillow(image, where)
    except (OSError, SyntaxError, ValueError) as error:
        raise damaged(where, str(error)) from None
    if stored.pixels.shape[:2] != (page.imagelength, page.imagewidth):
        raise mismatch(where, str(stored.pixels.shape), str((page.imagelength, page.imagewidth)))
    return stored


def _read_lzw(page: TiffPage, data: bytes, where: Path) -> np.ndarray:
    """Return the samples of a page with LZW compression.

    libtiff decompresses the strips or tiles as rows of gray bytes. They are appended to the file in a compression that
    Python has, which leaves predictor and layout to tifffile.
    """
    import tifffile

    planes = 1 if page.planarconfig == 1 else page.samplesperpixel
    samples = page.samplesperpixel // planes
    width, height = page.tilewidth or page.imagewidth, page.tilelength or page.rowsperstrip or page.imagelength
    row = -(-width * samples * int(page.bitspersample) // 8)
    whole, offsets, counts = bytearray(data), [], []
    for plane in range(planes):  # within a plane, only the last strip may be shorter
        part = slice(plane * len(page.dataoffsets) // planes, (plane + 1) * len(page.dataoffsets) // planes)
        strips = list(zip(page.dataoffsets[part], page.databytecounts[part], strict=True))
        rows = height * len(strips) if page.is_tiled else page.imagelength
        plain = _decompress_rows(data, strips, row, rows, height, where)
        for start in range(0, rows, height):
            # Not uncompressed: tifffile 2026.3 mistakes the axis of a predictor without compression.
            strip = zlib.compress(plain[start : start + height].tobytes(), level=0)
            offsets.append(len(whole))
            counts.append(len(strip))
            whole += strip
    with tifffile.TiffFile(BytesIO(bytes(whole))) as file:
        page = file.pages[page.index].aspage()
        page.compression, page.dataoffsets, page.databytecounts = DEFLATE, tuple(offsets), tuple(counts)
        return page.asarray()


def _decompress_rows(
    data: bytes, strips: list[tuple[int, int]], row: int, rows: int, height: int, where: Path
) -> np.ndarray:
    """Return the bytes of strips as uint8 (rows, row), decompressed by Pillow's libtiff.

    Args:
        data: The file, to which a directory is appended that describes the strips as a gray image of bytes.
        strips: Offset and length of each strip.
        row: Bytes per row.
        rows: Number of rows.
        height: Rows per strip.
        where: The file, for errors.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    tables = len(data) + len(data) % 2
    offsets, counts = (struct.pack(f"<{len(strips)}I", *values) for values in zip(*strips, strict=True))
    start, many = tables + 8 * len(strips), len(strips) > 1
    entries = [
        (256, 4, 1, row),
        (257, 4, 1, rows),
        (258, 3, 1, 8),
        (259, 3, 1, LZW),
        (262, 3, 1, BLACK_IS_ZERO),
        (273, 4, len(strips), tables if many else strips[0][0]),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, len(strips), tables + len(offsets) if many else strips[0][1]),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    whole = struct.pack("<2sHI", b"II", 42, start) + data[8:] + bytes(len(data) % 2) + offsets + counts
    whole += struct.pack("<H", len(entries)) + directory + bytes(4)
    try:
        with Image.open(BytesIO(whole)) as image:
            pixels = np.asarray(image)  # raises on damaged data, where OpenCV returns what memory holds
    except (OSError, SyntaxError, ValueError) as error:
        raise damaged(where, f"LZW data that does not decompress: {error}") from None
    if pixels.shape != (rows, row):
        raise mismatch(where, str(pixels.shape), str((rows, row)))
    return pixels
