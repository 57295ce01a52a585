"""Changed copies are found, and images that only look alike are not mistaken for copies."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gatemask.data import duplicates, hash_search
from gatemask.data.groups import join_groups
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


def test_comparing_in_small_parts_gives_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [scene(number % 7) for number in range(21)]
    expected = pairs([CHANGES["recompressed"](image) if n > 6 else image for n, image in enumerate(images)])
    monkeypatch.setattr(duplicates, "PAIRS", 4)
    assert expected == pairs([CHANGES["recompressed"](image) if n > 6 else image for n, image in enumerate(images)])
    assert expected


def planted(count: int, seed: int) -> list[duplicates.Signature]:
    """Return signatures with a set of 300 near copies, small sets, and pairs at, below and above both limits."""
    rng = np.random.default_rng(seed)
    kinds = np.concatenate([np.zeros(300, int), rng.integers(1, count // 2, count - 300)])
    hashes, details = rng.integers(0, 2**63, count, dtype=np.uint64), rng.normal(0, 24, (count, 32, 32)).astype(int)
    signatures = []
    for kind in kinds.tolist():
        code = int(hashes[kind])
        for bit in rng.choice(64, rng.integers(0, 8), replace=False).tolist():
            code ^= 1 << bit
        noise = rng.normal(0, rng.choice([0, 10, 15]), (32, 32)).astype(int)
        signatures.append(
            duplicates.Signature(f"{code:016x}", np.clip(details[kind] + noise, -127, 127).astype(np.int8))
        )
    return signatures


def all_pairs(signatures: list[duplicates.Signature]) -> set[tuple[int, int, str]]:
    """Return the near copies by comparing every image with every other."""
    codes = np.array([int(signature.phash, 16) for signature in signatures], np.uint64)
    details = np.stack([signature.details.ravel() for signature in signatures]).astype(np.float32)
    norms = (details * details).sum(axis=1)
    found = set()
    for row, code in enumerate(codes):
        close = row + 1 + np.flatnonzero(np.bitwise_count(codes[row + 1 :] ^ code) <= duplicates.NEAR_BITS)
        correlation = details[close] @ details[row] / np.sqrt(norms[close] * norms[row])
        found |= {(row, other, "near") for other in close[correlation >= duplicates.NEAR_CORRELATION].tolist()}
    return found


def groups_of(copies: set[tuple[int, int, str]], count: int) -> dict[str, str]:
    return join_groups([str(n) for n in range(count)], [], [(str(first), str(second)) for first, second, _ in copies])


@pytest.mark.parametrize("seed", range(3))
def test_pairs_and_groups_are_those_of_comparing_all_images(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    signatures, digests = planted(2_000, seed), [str(number) for number in range(2_000)]
    monkeypatch.setattr(hash_search, "KEYS_PAY", 0)
    monkeypatch.setattr(duplicates, "WAITING", 1_000)
    copies, _ = duplicates.find_copies(digests, signatures, near=True)
    listed, expected = {tuple(pair) for pair in copies}, all_pairs(signatures)
    assert groups_of(listed, 2_000) == groups_of(expected, 2_000)
    large = {pair for pair in expected if pair[1] < 300}
    assert len(large) > 5_000
    assert listed - large == expected - large
    assert listed & large < large  # of the large set, only pairs that connect it
    assert len(listed & large) < 300
    monkeypatch.setattr(duplicates, "LARGE_SET", 10_000)
    copies, _ = duplicates.find_copies(digests, signatures, near=True)
    assert [tuple(pair) for pair in copies] == sorted(expected)


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
