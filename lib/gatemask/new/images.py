"""Look at the images: sizes, channels, bits, levels, slices that resemble their neighbors, copies."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from gatemask.console import progress
from gatemask.data.dicom import is_dicom
from gatemask.data.duplicates import compute_signature, find_copies
from gatemask.data.groups import credible
from gatemask.data.pictures import gray_if_equal
from gatemask.data.readers import inspect_image, read_stored
from gatemask.errors import GatemaskError
from gatemask.new.decisions import Decisions
from gatemask.new.naming import Naming, volumes

SAMPLED = 48  # images that are decoded
COMPARED = 1500  # images that are searched for copies
PIXELS = 1_000_000_000  # that are decoded for one purpose, at most
THUMBNAIL = 48  # pixels
UNUSED = 0.25  # share of the range of 16 bits below which levels are spread by percentiles
SIMILAR = 0.75  # neighboring slices differ less than so much of what other slices differ

Size = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class ImageFacts:
    """What the images have in common.

    Args:
        count: Number of images.
        kind: Reader: "DICOM", "PNG", "JPEG", "TIFF", ...
        sizes: Height and width of each image by path below the raw folder.
        channels: 1 or 3, of one file.
        bits: Bits of a level.
        window: Value of image.window.
        lossy: Whether files are compressed as JPEG.
    """

    count: int
    kind: str
    sizes: dict[str, Size]
    channels: int
    bits: int
    window: str | dict[str, list[float]]
    lossy: bool

    @property
    def size(self) -> Size | None:
        """Height and width that all images have; None if they differ."""
        found = set(self.sizes.values())
        return next(iter(found)) if len(found) == 1 else None

    @property
    def typical(self) -> Size:
        """Median height and width."""
        height, width = np.median(list(self.sizes.values()), axis=0)
        return int(height), int(width)

    @property
    def largest(self) -> Size:
        """Height and width of the image with most pixels."""
        return max(self.sizes.values(), key=lambda size: size[0] * size[1])

    @property
    def aspects(self) -> tuple[float, float]:
        """Width by height: what all but a twentieth of the images exceed, and do not exceed."""
        shares = [width / height for height, width in self.sizes.values()]
        low, high = np.percentile(shares, [5, 95])
        return float(low), float(high)


def examine_images(raw: Path, names: Sequence[str], decisions: Decisions) -> ImageFacts:
    """Return what the images have in common, and report it.

    Args:
        raw: The raw folder.
        names: Paths below it of the files that name images.
        decisions: Findings and questions.

    Raises:
        GatemaskError: No image can be read.
    """
    sizes, unreadable = read_sizes(raw, names)
    if not sizes:
        raise GatemaskError("No image can be read.", where=raw / names[0], received=next(iter(unreadable.values())))
    sample = spread(list(sizes), SAMPLED, sizes)
    seen = [found for found in map(_look, (raw / name for name in sample)) if found is not None]
    if not seen:
        raise GatemaskError("None of the images can be decoded.", where=raw / sample[0])
    kind = Counter(one.kind for one in seen).most_common(1)[0][0]
    channels = max(one.channels for one in seen)
    bits = max(one.bits for one in seen)
    window, why = _window(seen)
    facts = ImageFacts(len(names), kind, sizes, channels, bits, window, any(one.lossy for one in seen))
    decisions.note("images", f"{facts.count} {kind} files", f"for example {names[0]}")
    decisions.note("size", *_describe_sizes(facts))
    color = "color" if channels == 3 else "gray, though stored as color" if any(o.gray for o in seen) else "gray"
    decisions.note("channels", f"{channels} ({color}), {bits} bits", f"{len(seen)} images were decoded")
    if bits > 8 or window != "full":
        decisions.note("levels", str(window), why)
    if unreadable:
        name, reason = next(iter(unreadable.items()))
        decisions.note("unreadable", f"{len(unreadable)} images are left out", f"{name}: {reason}")
    return facts


def spread(items: Sequence[T], count: int, sizes: Mapping[str, Size]) -> list[T]:
    """Return items from all parts of a sequence, fewer of them where images are large.

    Args:
        items: Items to sample, one per image.
        count: Number of items, at most.
        sizes: Height and width by path.
    """
    pixels = int(np.median([height * width for height, width in sizes.values()])) if sizes else 1
    count = max(1, min(count, PIXELS // max(1, pixels)))
    return list(items[:: max(1, -(-len(items) // count))])


def _describe_sizes(facts: ImageFacts) -> tuple[str, str]:
    counted = Counter(facts.sizes.values())
    if len(counted) == 1:
        return f"{facts.typical[0]} x {facts.typical[1]}", "all images have it"
    (small, large), (common, number) = (
        (min(counted, key=lambda size: size[0] * size[1]), facts.largest),
        counted.most_common(1)[0],
    )
    low, high = facts.aspects
    return (
        f"mixed, {small[0]} x {small[1]} to {large[0]} x {large[1]}",
        f"{len(counted)} sizes, most often {common[0]} x {common[1]} ({number}); width is {low:.2f} to {high:.2f} of "
        "height",
    )


def read_sizes(raw: Path, names: Sequence[str]) -> tuple[dict[str, Size], dict[str, str]]:
    """Return the size of each image, from its header, and why others cannot be read."""

    def read(name: str) -> Size | str:
        try:
            return read_size(raw / name)
        except Exception as error:  # decoders raise almost anything on a damaged file
            return str(error).splitlines()[0] if str(error) else type(error).__name__

    with ThreadPoolExecutor() as pool:
        found = list(progress(pool.map(read, names), "reading sizes", len(names)))
    sizes = {name: size for name, size in zip(names, found, strict=True) if not isinstance(size, str)}
    return sizes, {name: size for name, size in zip(names, found, strict=True) if isinstance(size, str)}


def read_size(path: Path) -> Size:
    """Return height and width of an image as it is stored, without decoding it."""
    with path.open("rb") as file:
        dicom = is_dicom(file.read(256), path)
    if dicom:
        import pydicom

        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        return int(dataset.Rows), int(dataset.Columns)
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as image:
        return image.height, image.width


# --- contents --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    kind: str
    channels: int
    bits: int
    lossy: bool
    gray: bool  # stored as color
    used: float  # share of the range of levels
    own_window: bool  # DICOM with a window of its own
    floating: bool


def _look(path: Path) -> _Seen | None:
    try:
        with path.open("rb") as file:
            start = file.read(256)
        return _look_at_dicom(path) if is_dicom(start, path) else _look_at_picture(path, start)
    except Exception:  # decoders raise almost anything on a damaged file
        return None


def _look_at_picture(path: Path, start: bytes) -> _Seen:
    kinds = {b"\x89PN": "PNG", b"\xff\xd8\xff": "JPEG", b"II*": "TIFF", b"MM\0": "TIFF", b"BM": "BMP"}
    kind = next((name for mark, name in kinds.items() if start.startswith(mark)), path.suffix.lstrip(".").upper())
    stored = read_stored(path)
    pixels = stored.pixels if stored.pixels.ndim == 2 else gray_if_equal(stored.pixels)
    floating = stored.pixels.dtype.kind == "f"
    low, high = np.percentile(pixels[::4, ::4], [0.5, 99.5])
    limits = stored.limits or (float(low), float(high))
    used = float(high - low) / max(limits[1] - limits[0], 1e-9)
    bits = 32 if floating else 8 * stored.pixels.dtype.itemsize
    gray = stored.pixels.ndim == 3 and pixels.ndim == 2
    return _Seen(kind, 1 if pixels.ndim == 2 else 3, bits, stored.lossy, gray, used, False, floating)


def _look_at_dicom(path: Path) -> _Seen:
    import pydicom

    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    channels = 1 if str(dataset.get("PhotometricInterpretation", "")).startswith("MONO") else 3
    own = "WindowWidth" in dataset or "VOILUTSequence" in dataset
    bits = int(dataset.get("BitsStored", 8))
    used = 1.0
    if bits > 8:
        try:
            pixels, _ = inspect_image(path, channels, "full")
            low, high = np.percentile(pixels, [0.5, 99.5])
            used = float(high - low) / 255
        except GatemaskError:  # the range of its levels is unknown
            used = 0.0
    return _Seen("DICOM", channels, bits, False, False, used, own, False)


def _window(seen: Sequence[_Seen]) -> tuple[str | dict[str, list[float]], str]:
    """Return the value of image.window, and why."""
    used = float(np.median([one.used for one in seen]))
    if any(one.floating for one in seen):
        return {"percentiles": [0.5, 99.5]}, "floating-point levels have no range of their own"
    if max(one.bits for one in seen) <= 8 or used >= UNUSED:
        return "full", f"levels use {used:.0%} of the range"
    if all(one.own_window for one in seen):
        return "file", f"the files bring their own window, and levels use {used:.0%} of the range"
    return {"percentiles": [0.5, 99.5]}, f"levels use only {used:.0%} of the range"


# --- slices and copies -----------------------------------------------------------------------------------------


def neighbors_are_alike(raw: Path, naming: Naming, names: Sequence[str]) -> bool:
    """Whether neighboring slices resemble each other more than slices of other volumes do."""
    found = [slices for slices in volumes(naming, names).values() if len(slices) > 1]
    chosen = found[:: max(1, len(found) // 12)][:12]
    thumbnails = []
    for slices in chosen:
        middle = len(slices) // 2
        thumbnails.append([_thumbnail(raw / slices[place][1]) for place in (middle - 1, middle)])
    near = [float(np.abs(a - b).mean()) for a, b in thumbnails]
    far = [float(np.abs(one[1] - other[1]).mean()) for one, other in pairwise(thumbnails)]
    return bool(near and far) and float(np.median(near)) < SIMILAR * float(np.median(far))


def _thumbnail(path: Path) -> np.ndarray:
    image, _ = inspect_image(path, 1, "full")
    return cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)


def find_duplicates(raw: Path, names: Sequence[str], facts: ImageFacts, decisions: Decisions) -> str:
    """Return groups.duplicates: "near", or "exact" where images are too similar to recognize near copies."""
    sample = list(names)[: len(spread(names, COMPARED, facts.sizes))]

    def read(name: str) -> tuple[str, str, object] | None:
        try:
            image, _ = inspect_image(raw / name, facts.channels, "full" if facts.bits <= 16 else (0.5, 1.0))
        except Exception:  # reported by `data prepare`
            return None
        return name, hashlib.sha256((raw / name).read_bytes()).hexdigest(), compute_signature(image)

    with ThreadPoolExecutor() as pool:
        read_images = [one for one in progress(pool.map(read, sample), "comparing", len(sample)) if one is not None]
    pairs, certain = find_copies([one[1] for one in read_images], [one[2] for one in read_images], near=True)  # type: ignore[misc]
    near = [(read_images[pair.first][0], read_images[pair.second][0]) for pair in pairs if pair.kind == "near"]
    exact = sum(pair.kind == "exact" for pair in pairs)
    looked = f"{len(read_images)} images were compared"
    if not certain or not credible(near, len(read_images)):
        decisions.note(
            "duplicates", f"{exact} exact copies", f"{looked}; they are too similar to recognize near copies"
        )
        return "exact"
    decisions.note("duplicates", f"{exact} exact and {len(near)} near copies", f"{looked}; copies share a group")
    return "near"
