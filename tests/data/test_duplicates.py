"""Changed copies are found, and images that only look alike are not mistaken for copies."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gatemask.data import duplicates
from gatemask.data.readers import read_image
from tests.conftest import SHARED, needs_nuclei


def scene(seed: int, size: int = 256) -> np.ndarray:
    """Return an image with its own details on a coarse structure common to all."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    common = 110 + 60 * np.sin(5 * x) * np.cos(4 * y)
    detail = cv2.resize(rng.normal(0, 22, (48, 48)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(common + detail, 0, 255).astype(np.uint8)[:, :, None]


def recompressed(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_GRAYSCALE)[
        :, :, None
    ]


CHANGES = {
    "recompressed": recompressed,
    "halved": lambda image: cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)[:, :, None],
    "doubled": lambda image: cv2.resize(image, (512, 512), interpolation=cv2.INTER_CUBIC)[:, :, None],
    "dimmed": lambda image: (image * 0.7 + 20).astype(np.uint8),
    "color": lambda image: np.repeat(image, 3, axis=2),
}


def pairs(images: list[np.ndarray], near: bool = True) -> set[tuple[int, int, str]]:
    digests = [image.tobytes().hex()[:4096] + str(image.shape) for image in images]
    copies, recognizable = duplicates.find_copies(
        digests, [duplicates.compute_signature(image) for image in images], near
    )
    assert recognizable
    return {tuple(pair) for pair in copies}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_near(change: str) -> None:
    images = [scene(number) for number in range(12)]
    images.append(CHANGES[change](images[5]))
    assert pairs(images) == {(5, 12, "near")}
    assert pairs(images, near=False) == set()


def test_identical_files_are_exact_each_with_the_first() -> None:
    images = [scene(0), scene(1), scene(0), scene(0)]
    assert pairs(images) == {(0, 2, "exact"), (0, 3, "exact")}


def test_blank_images_never_count_as_copies() -> None:
    assert pairs([np.zeros((64, 64, 1), np.uint8)] * 3 + [np.full((64, 64, 1), 7, np.uint8)]) == set()


def test_comparing_in_blocks_gives_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [scene(number % 7) for number in range(21)]
    expected = pairs([CHANGES["recompressed"](image) if n > 6 else image for n, image in enumerate(images)])
    monkeypatch.setattr(duplicates, "BLOCK", 4)
    assert expected == pairs([CHANGES["recompressed"](image) if n > 6 else image for n, image in enumerate(images)])
    assert expected


def test_the_search_stops_early_where_all_hashes_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "TOO_MANY", 3)
    signature = duplicates.compute_signature(scene(0))
    assert duplicates.find_copies([str(n) for n in range(50)], [signature] * 50, near=True) == ([], False)
    assert duplicates.find_copies(["a", "a", "b"], [signature] * 3, near=True)[1]


@needs_nuclei
def test_no_two_nuclei_tiles_are_copies_but_a_planted_one_is() -> None:
    images = [read_image(path, 3) for path in sorted((SHARED / "nuclei/images").glob("*.png"))]
    busiest = int(np.argmax([image.std() for image in images]))
    assert pairs(images) == set()
    copy = cv2.imdecode(cv2.imencode(".jpg", images[busiest], [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)
    assert pairs([*images, copy]) == {(busiest, len(images), "near")}
