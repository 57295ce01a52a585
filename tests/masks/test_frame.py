"""Images are fitted into a frame, and maps come back to the place where the pixels were."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gatemask.masks.frame import Fit, Frame, fit_image, fit_mask, resize, restore_map

FITS: list[Fit] = ["stretch", "pad", "crop"]
# Odd, oblong both ways, smaller and larger than the frames, of extreme aspect ratio.
IMAGE_SIZES = [(101, 101), (64, 96), (37, 250), (251, 33), (7, 5), (400, 299), (1, 90), (60, 1), (30, 3000)]
FRAMES = [(64, 64), (32, 96), (96, 32), (160, 64)]


def cases() -> Iterator[tuple[Frame, tuple[int, int]]]:
    for fit in FITS:
        for size in FRAMES:
            for image_size in IMAGE_SIZES:
                yield Frame(size, fit), image_size


def test_a_box_is_centered_and_as_large_as_its_fit_says() -> None:
    for frame, size in cases():
        check_box(frame, size)


def check_box(frame: Frame, size: tuple[int, int]) -> None:
    box = frame.box(size)
    for first, length, side in zip(box[:2], box[2:], size, strict=True):
        assert abs((first + length / 2) - side / 2) <= 0.5
        assert length >= side if frame.fit == "pad" else 1 <= length <= side
    assert box.height == size[0] or box.width == size[1]
    if frame.fit != "stretch":  # the aspect ratio is the frame's, to a pixel
        fitting = box.height * frame.size[1] / frame.size[0]
        assert abs(fitting - box.width) <= max(1, frame.size[1] / frame.size[0])
    turned = Frame(frame.size[::-1], frame.fit).box(size[::-1])
    assert turned == (box.left, box.top, box.width, box.height)


@pytest.mark.parametrize("resolution", [1, 0.5, 0.75, 2])
def test_a_blob_comes_back_to_its_place(resolution: float) -> None:
    """Also where the network sees another size than the records', and its map has that size."""
    moved = [check_blob(frame, size, resolution) for frame, size in cases()]
    assert sum(moved) > len(moved) / 2


def check_blob(frame: Frame, size: tuple[int, int], resolution: float) -> bool:
    """Return whether the image has lines enough to see the blob."""
    box = frame.box(size)
    rng = np.random.default_rng(sum(size) + sum(frame.size))
    pixel = [length / side for length, side in zip(box[2:], frame.size, strict=True)]  # of the frame, in the image
    pixel = [max(1, length / min(1, resolution)) for length in pixel]
    spread = [2 * length for length in pixel]
    shown = [(max(0, box[i]), min(size[i], box[i] + box[2 + i])) for i in (0, 1)]
    center = [rng.uniform(low, high) for low, high in shown]
    for axis, (low, high) in enumerate(shown):
        if high - low > 8 * spread[axis]:  # whole blobs have a center of mass; others only a profile
            center[axis] = rng.uniform(low + 4 * spread[axis], high - 4 * spread[axis])
    lines = [
        np.exp(-0.5 * ((np.arange(size[axis]) + 0.5 - center[axis]) / spread[axis]) ** 2).clip(0, 1) for axis in (0, 1)
    ]
    image = (255 * np.outer(*lines)).round().astype(np.uint8)[:, :, None]
    small_map = resize(fit_image(image, frame), tuple(round(side * resolution) for side in frame.size))
    restored = restore_map(small_map, frame, size)
    assert restored.shape == image.shape
    if image.max() < 60:
        return False
    for axis in (0, 1):
        low, high = shown[axis]
        before, after = (array[:, :, 0].astype(float).sum(axis=1 - axis) for array in (image, restored))
        assert not after[:low].any()
        assert not after[high:].any()
        places = np.arange(size[axis]) + 0.5
        if high - low > 8 * spread[axis]:
            moved = (before * places).sum() / before.sum() - (after * places).sum() / after.sum()
            assert abs(moved) <= max(1, 0.05 * pixel[axis]), (frame, size)
        else:  # shifted by a pixel or less: nowhere beyond its neighbors, but for what averaging takes from its peak
            shares = [array / array.sum() for array in (before[low:high], after[low:high])]
            assert np.abs(np.cumsum(shares[0]) - np.cumsum(shares[1])).max() <= 0.1, (frame, size)
    if frame.fit == "crop":
        outside = np.ones(size, bool)
        outside[shown[0][0] : shown[0][1], shown[1][0] : shown[1][1]] = False
        assert not restored[outside].any()
    return True


def test_records_are_the_mean_of_the_pixels_that_they_cover() -> None:
    """Against block means, where the image is a whole multiple of the frame."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (192, 128, 3)).astype(np.uint8)
    padded = np.zeros((192, 192, 3))
    padded[:, 32:160] = image
    for fit, whole in (("pad", padded), ("crop", image[32:160].astype(float)), ("stretch", image.astype(float))):
        size = (whole.shape[0] // 4, whole.shape[1] // 4)
        means = whole.reshape(size[0], 4, size[1], 4, 3).mean(axis=(1, 3))
        assert np.abs(fit_image(image, Frame(size, fit)) - means).max() <= 1  # type: ignore[arg-type]


def test_maps_are_interpolated_between_the_centers_of_pixels() -> None:
    """Against an interpolation in 64 bits, from the definition."""
    for frame, size in cases():
        check_interpolation(frame, size)


def check_interpolation(frame: Frame, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    small_map = rng.integers(0, 256, (frame.size[0] // 2, frame.size[1] // 2, 2)).astype(np.uint8)
    box, expected = frame.box(size), small_map.astype(float)
    for axis in (0, 1):
        count = small_map.shape[axis]
        places = (np.arange(size[axis]) - box[axis] + 0.5) * count / box[2 + axis] - 0.5
        low = np.floor(places.clip(0, count - 1)).astype(int)
        share = places.clip(0, count - 1) - low
        share = share.reshape(-1, 1, 1) if axis == 0 else share.reshape(1, -1, 1)
        after = np.minimum(low + 1, count - 1)
        expected = expected.take(low, axis) * (1 - share) + expected.take(after, axis) * share
    restored = restore_map(small_map, frame, size)
    if frame.fit == "crop":
        seen = np.zeros(size, bool)
        seen[box.top : box.top + box.height, box.left : box.left + box.width] = True
        assert not restored[~seen].any()
        restored, expected = restored[seen], expected[seen]
    assert np.abs(restored - expected).max() <= 1.5


@pytest.mark.parametrize("planes", [1, 3, 6])
def test_planes_are_fitted_alike_in_any_order_of_memory(planes: int) -> None:
    """Rounding must not depend on it: masks are decoded column by column, and made row by row elsewhere."""
    rng = np.random.default_rng(2)
    for frame, size in cases():
        mask = resize(rng.integers(0, 256, (size[0] // 9 + 2, size[1] // 9 + 2, planes)).astype(np.uint8), size) > 130
        together = fit_mask(mask, frame)
        assert (together.shape, together.dtype) == ((*frame.size, planes), np.uint8)
        assert together.flags.c_contiguous
        assert (fit_mask(np.asfortranarray(mask), frame) == together).all()
        for plane in range(planes):
            assert (fit_mask(mask[:, :, plane], frame) == together[:, :, plane]).all()
            assert (fit_mask(np.asfortranarray(mask[:, :, plane]), frame) == together[:, :, plane]).all()


@pytest.mark.parametrize("fit", FITS)
def test_a_map_goes_to_the_scoring_size(fit: Fit) -> None:
    """The middle of a disc stays at the same share of the sides."""
    rows, columns = np.mgrid[:400, :300]
    image = ((rows - 210) ** 2 + (columns - 120) ** 2 < 80**2).astype(np.uint8)[:, :, None] * 255
    frame = Frame((96, 96), fit)
    scored = restore_map(fit_image(image, frame), frame, (400, 300), (100, 90))[:, :, 0]
    assert scored.shape == (100, 90)
    weight = scored.astype(float)
    assert abs((weight.sum(axis=1) * (np.arange(100) + 0.5)).sum() / weight.sum() - 52.5) < 0.5
    assert abs((weight.sum(axis=0) * (np.arange(90) + 0.5)).sum() / weight.sum() - 36) < 0.5
    assert abs((scored >= 128).sum() / (100 * 90) - image.mean() / 255) < 0.01


def test_a_very_oblong_image_takes_little_memory() -> None:
    """Its borders would have 900 million pixels."""
    image = np.full((40, 30_000, 1), 200, np.uint8)
    frame = Frame((512, 512), "pad")
    fitted = fit_image(image, frame)
    assert 0 < fitted.max() <= 200
    assert (restore_map(np.full((512, 512, 1), 7, np.uint8), frame, (40, 30_000)) == 7).all()


def test_a_mask_keeps_its_area_when_it_shrinks() -> None:
    mask = np.zeros((256, 256), bool)
    mask[40:120, 64:160] = True
    small = fit_mask(mask, Frame((64, 64)))
    assert small.sum() == 20 * 24
    assert set(np.unique(small)) == {0, 1}
