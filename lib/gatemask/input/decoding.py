"""Encoded examples as arrays; decoded once, and then kept as far as a quarter of the free memory goes.

Decoding takes as long as all of augmentation together, and gives the same each epoch. What is kept is what every epoch
starts from: an image that is stored larger than the input is kept at the input's size.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from gatemask.data.encode import Example
from gatemask.errors import GatemaskError
from gatemask.input.augment import shrink_to_size

CACHE_SHARE = 0.25  # of the memory that is free when the first image is decoded


class DecodedExample(NamedTuple):
    """image uint8 (h, w, channels); mask uint8 (h, w), 0 to 255, None where it is empty or was not asked for."""

    image: np.ndarray
    mask: np.ndarray | None


class Decoder:
    """Decodes for one input size and number of channels, in any thread.

    What it keeps is found by the encoded bytes themselves, so that it cannot be out of date: the folds of an
    experiment share it.
    """

    def __init__(self, channels: int, size: int, limit: float | None = None) -> None:
        self.channels, self.size = channels, size
        self.limit = CACHE_SHARE * available_memory() if limit is None else limit
        self.used = 0
        self._kept: dict[tuple[bytes, bytes], DecodedExample] = {}
        self._lock = threading.Lock()

    def load(self, example: Example, mask: bool) -> DecodedExample:
        """An example at the size from which it is augmented; its mask where `mask` asks for it, and it has one.

        The arrays are shared: they must not be written to.

        Raises:
            GatemaskError: it cannot be decoded; names the image.
        """
        mask = mask and example.label != 0
        # Of both: copies of an image may have been annotated differently.
        key = (example.image, example.mask if mask else b"")
        found = self._kept.get(key)
        if found is None:
            found = DecodedExample(*shrink_to_size(*decode_example(example, self.channels, mask), self.size))
            self._keep(key, found)
        return found

    def forget(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._kept.clear()
            self.used = 0

    def _keep(self, key: tuple[bytes, bytes], found: DecodedExample) -> None:
        size = sum(map(len, key)) + sum(array.nbytes for array in found if array is not None)
        with self._lock:
            # Each epoch asks for all of them: to make room would only throw out what is needed next.
            if key not in self._kept and self.used + size <= self.limit:
                self._kept[key] = found
                self.used += size


_current: Decoder | None = None


def shared_decoder(channels: int, size: int) -> Decoder:
    """The process's decoder; one for another size takes the place of the last one, and of its memory."""
    global _current
    if _current is None or (_current.channels, _current.size) != (channels, size):
        _current = None
        _current = Decoder(channels, size)
    return _current


def decode_example(example: Example, channels: int, mask: bool = True) -> DecodedExample:
    """An example as it is stored.

    Raises:
        GatemaskError: it cannot be decoded; names the image.
    """
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    image = _decode(example, "image", example.image, flag)
    image = image.reshape(*image.shape[:2], channels)
    return DecodedExample(image, _decode(example, "mask", example.mask, cv2.IMREAD_GRAYSCALE) if mask else None)


def _decode(example: Example, what: str, data: bytes, flag: int) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if found is None:
        raise GatemaskError(
            f"The {what} of a record cannot be decoded.",
            where=example.image_id,
            received=f"{len(data)} bytes that are no picture",
            do="Run gatemask records check, and gatemask records make after it.",
        )
    return found


def available_memory() -> float:
    """Bytes that this process may still take: what the machine has free, or its container; 0 where nobody says."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().split("MemAvailable:")
        found.append(float(lines[1].split()[0]) * 1024)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max" is no number
            found.append(max(0.0, float(Path(limit).read_text()) - float(Path(used).read_text())))
    return min(found, default=0.0)
