"""Compose all geometric steps of `augment:` and resample an image and its mask once.

A 3 x 3 matrix maps pixels of the stored image to pixels of the output. Steps that bend an image have no matrix: they
add to a field of displacements. Matrix and field together make one map of coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from gatemask.config import Affine, Distortion, ZoomToMask
from gatemask.input import quadrants
from gatemask.input.step_kind import StepKind, always, between
from gatemask.masks.frame import HALF, resize

MOST_CHANNELS = 4  # that OpenCV warps at once
CROP_MARGIN = 2  # pixels between the edge of a crop and the pixel of a mask that it shows for certain
LARGE_MASK = 0.4  # share of the image from which on the bounding box of a mask is not faster than the whole


class Crop(NamedTuple):
    """Random crops of the output.

    Args:
        size: Height and width of a crop, in pixels; at most those of the output.
        positives: Share of the crops of images with a mask that show part of it for certain. Default: 0.
    """

    size: tuple[int, int]
    positives: float = 0.0


class Window(NamedTuple):
    """A part of the output.

    Args:
        x: First column.
        y: First row.
        size: Height and width, in pixels.
    """

    x: int
    y: int
    size: tuple[int, int]

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.y, self.y + self.size[0]), slice(self.x, self.x + self.size[1])

    def shift(self, sign: int) -> np.ndarray:
        """Return the matrix, (3, 3), from the output to the window (-1), or back (1)."""
        return np.array([[1, 0, sign * self.x], [0, 1, sign * self.y], [0, 0, 1.0]])


@dataclass
class Geometry:
    """Geometric parameters drawn for one image.

    Args:
        size: Height and width of the output, in pixels.
        motion: Matrix from the output to the output, (3, 3): the steps so far.
        scale: Matrix from the stored image to the output, (3, 3).
        displacement: Offsets of x and y in the stored image in addition to the matrix, float32 (height, width, 2);
            None where no step bends.
        mask: Masks of the classes as stored, uint8 (classes, h, w), above 0 inside; None if they are empty or not
            needed.
        window: Part of the output that is resampled; None for all of it.
    """

    size: tuple[int, int]
    motion: np.ndarray
    scale: np.ndarray
    displacement: np.ndarray | None = None
    mask: np.ndarray | None = None
    window: Window | None = None

    @property
    def matrix(self) -> np.ndarray:
        """Matrix from the stored image to the output or its window, (3, 3)."""
        whole = self.motion @ self.scale
        return whole if self.window is None else self.window.shift(-1) @ whole

    @property
    def resampled_size(self) -> tuple[int, int]:
        """Height and width of what is resampled: the output or its window."""
        return self.size if self.window is None else self.window.size

    @property
    def sides(self) -> np.ndarray:
        """Width and height of the output: the extent of x and y."""
        return np.array(self.size[::-1])

    def move(self, matrix: np.ndarray) -> None:
        """Add a linear step, a (3, 3) matrix from the output to the output."""
        self.motion = matrix @ self.motion
        if self.displacement is not None:
            # The field is smooth, so it can be resampled. Beyond its edge it keeps the edge's value.
            size, replicate = self.size[::-1], cv2.BORDER_REPLICATE
            self.displacement = cv2.warpAffine(self.displacement, matrix[:2], size, borderMode=replicate)

    def align(self) -> None:
        """Round the matrix by less than a pixel where that makes warping faster, see `quadrants`."""
        if self.displacement is None and _pixel_rearrangement(self) is None:
            aligned = quadrants.align(self.matrix, self.resampled_size) @ np.linalg.inv(self.scale)
            self.motion = aligned if self.window is None else self.window.shift(1) @ aligned

    def bend(self, field: np.ndarray) -> None:
        """Add displacements, float32 (height, width, 2), in pixels of the output."""
        in_stored_image = field @ np.linalg.inv(self.matrix)[:2, :2].T.astype(np.float32)
        self.displacement = in_stored_image if self.displacement is None else self.displacement + in_stored_image


def resize_geometry(shape: tuple[int, ...], size: tuple[int, int], mask: np.ndarray | None = None) -> Geometry:
    """Return the geometry before any step: plain resizing.

    Args:
        shape: Shape of the stored image, (h, w, ...).
        size: Height and width of the output, in pixels.
        mask: Masks as stored, uint8 (classes, h, w); only `zoom_to_mask` looks at them. Default: none.
    """
    return Geometry(size, np.eye(3), _scale_matrix(size[1] / shape[1], size[0] / shape[0]), mask=mask)


# --- steps -------------------------------------------------------------------------------------------------


def _hflip(geometry: Geometry, p: float, numbers: np.ndarray) -> None:
    if numbers[0] < p:
        geometry.move(flip_matrix(geometry.size, x=True))


def _vflip(geometry: Geometry, p: float, numbers: np.ndarray) -> None:
    if numbers[0] < p:
        geometry.move(flip_matrix(geometry.size, y=True))


def _turn(geometry: Geometry, p: float, numbers: np.ndarray) -> None:
    chance, quarters = numbers[0], 1 + int(3 * numbers[1])
    if chance < p:
        height, width = geometry.size
        assert height == width, "experiments with oblong inputs may not turn images"
        quarter = np.array([[0, -1, height - 1], [1, 0, 0], [0, 0, 1.0]])
        geometry.move(np.linalg.matrix_power(quarter, quarters))


def _affine(geometry: Geometry, settings: Affine, numbers: np.ndarray) -> None:
    """Rotate, shear, zoom and shift about the center of the image."""
    chance, turned, sheared, zoomed, *shifted = numbers.tolist()
    if chance >= settings.p:
        return
    angle = math.radians(between(-settings.rotate, settings.rotate, turned))
    shear, zoom = between(-settings.shear, settings.shear, sheared), between(*settings.zoom, zoomed)
    height, width = geometry.size
    right, down = (between(-settings.shift, settings.shift, number) for number in shifted)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    linear = (cos, cos * shear - sin, sin, sin * shear + cos)
    geometry.move(linear_map_about_center(geometry.size, *linear, right * width, down * height))


def _zoom_to_mask(geometry: Geometry, settings: ZoomToMask, numbers: np.ndarray) -> None:
    """Enlarge a random window that holds the whole mask or, if that does not fit, one of its pixels."""
    chance, zoomed, pixel_share = numbers[:3].tolist()
    if chance >= settings.p:
        return
    zoom, place = between(*settings.zoom, zoomed), numbers[3:]
    sides, mask = geometry.sides, None if geometry.mask is None else _union(geometry.mask)
    window = sides / zoom
    lowest, highest = np.zeros(2), sides - window
    if mask is not None and (box := cv2.boundingRect(mask))[2]:
        low, high = mask_edges = _edges_in_output(geometry, box)
        fits = high - low <= window
        if not fits.all():
            pixel_edges = _edges_in_output(geometry, _choose_pixel(mask, box, pixel_share))
            low, high = np.where(fits, mask_edges, pixel_edges)
        lowest, highest = np.clip([high - window, low], 0, sides - window)
    start = lowest + place * np.maximum(0, highest - lowest)
    offset = (zoom - 1) / 2 - zoom * start  # pixel i reaches from i - 1/2 to i + 1/2
    geometry.move(np.array([[zoom, 0, offset[0]], [0, zoom, offset[1]], [0, 0, 1.0]]))


def _union(mask: np.ndarray) -> np.ndarray:
    """Union, uint8 (h, w), of the masks of all classes, (classes, h, w)."""
    return mask[0] if len(mask) == 1 else mask.max(axis=0)


def _choose_pixel(mask: np.ndarray, box: Sequence[int], share: float) -> tuple[int, int, int, int]:
    """Box of a pixel of a mask (h, w), selected by a number in [0, 1); `box` is that of the mask."""
    left, top, width, height = box
    inside = np.flatnonzero(mask[top : top + height, left : left + width])
    y, x = divmod(int(inside[int(share * inside.size)]), width)
    return left + x, top + y, 1, 1


def _edges_in_output(geometry: Geometry, box: Sequence[int]) -> np.ndarray:
    """Edges in the output of a box (x, y, width, height) of the stored image: (low, high) x (x, y), from 0 to size."""
    corners = _map_corners(geometry.matrix, *box) + 0.5
    return np.array([corners.min(0), corners.max(0)])


def _elastic(geometry: Geometry, settings: Distortion, numbers: np.ndarray) -> None:
    if numbers[0] < settings.p:
        nodes = (2 * numbers[1:] - 1).reshape(settings.cells + 1, settings.cells + 1, 2)
        geometry.bend(_interpolate_nodes(nodes * settings.amount * geometry.sides, geometry.size))


def _grid(geometry: Geometry, settings: Distortion, numbers: np.ndarray) -> None:
    if numbers[0] < settings.p:
        columns, rows = (2 * numbers[1:] - 1).reshape(2, settings.cells + 1)
        nodes = np.stack(np.meshgrid(columns, rows), axis=-1)
        geometry.bend(_interpolate_nodes(nodes * settings.amount * geometry.sides, geometry.size))


def _interpolate_nodes(nodes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Smooth field, float32 (height, width, 2), through values at the corners of cells, (cells + 1, cells + 1, 2)."""
    cells = len(nodes) - 1
    # cv2 puts nodes at the centers of their cells: half a cell is cut off on each side.
    height, width = (round(side * (cells + 1) / cells) for side in size)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    smooth = cv2.resize(nodes.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return smooth[top : top + size[0], left : left + size[1]]


GEOMETRY_STEPS: dict[str, StepKind[Geometry]] = {
    "hflip": StepKind(_hflip, always(1)),
    "vflip": StepKind(_vflip, always(1)),
    "turn": StepKind(_turn, always(2)),
    "affine": StepKind(_affine, always(6)),
    "zoom_to_mask": StepKind(_zoom_to_mask, always(5)),
    "elastic": StepKind(_elastic, lambda settings: 1 + 2 * (settings.cells + 1) ** 2),
    "grid": StepKind(_grid, lambda settings: 1 + 2 * (settings.cells + 1)),
}


CROP_NUMBERS = 4  # random numbers that a crop takes


def place_crop(geometry: Geometry, crop: Crop, numbers: np.ndarray) -> None:
    """Choose the window of a crop, after all steps: at random, or so that it shows a random pixel of the mask.

    Args:
        geometry: Parameters from `draw_parameters`; receives the window.
        crop: Size of the crop, and share of those that show a mask.
        numbers: Random numbers, `CROP_NUMBERS` of them, in [0, 1).
    """
    chance, pixel_share = numbers[:2].tolist()
    lowest, highest = np.zeros(2), geometry.sides - crop.size[::-1]
    if geometry.mask is not None and chance < crop.positives:
        shown = np.empty((*geometry.size, 1), np.uint8)
        resample_mask(_union(geometry.mask)[None], geometry, shown)
        inside = np.flatnonzero(shown)
        if inside.size:
            y, x = divmod(int(inside[int(pixel_share * inside.size)]), geometry.size[1])
            pixel, last = np.array([x, y]), np.array(crop.size[::-1]) - 1
            lowest, highest = np.clip([pixel + CROP_MARGIN - last, pixel - CROP_MARGIN], 0, highest)
    left, top = (lowest + numbers[2:] * (highest - lowest + 1)).astype(int).tolist()
    geometry.window = Window(left, top, crop.size)


# --- matrices ----------------------------------------------------------------------------------------------


def flip_matrix(size: tuple[int, int], x: bool = False, y: bool = False) -> np.ndarray:
    """Return the matrix, (3, 3), that mirrors an image of a size (h, w) left to right (x), top to bottom (y)."""
    height, width = size
    return np.array([[-1 if x else 1, 0, (width - 1) * x], [0, -1 if y else 1, (height - 1) * y], [0, 0, 1.0]])


def linear_map_about_center(
    size: tuple[int, int], xx: float, xy: float, yx: float, yy: float, right: float = 0.0, down: float = 0.0
) -> np.ndarray:
    """Return the matrix, (3, 3), of a linear map about the center of an image.

    Args:
        size: Height and width of the image, in pixels.
        xx: Share of x in the new x.
        xy: Share of y in the new x.
        yx: Share of x in the new y.
        yy: Share of y in the new y.
        right: Shift of the center, in pixels. Default: 0.
        down: Shift of the center, in pixels. Default: 0.
    """
    y, x = (size[0] - 1) / 2, (size[1] - 1) / 2
    # The difference is 0 for a square, whose matrices thereby stay what they were to the last bit.
    new_x, new_y = (xx + xy) * x + xy * (y - x), (yx + yy) * y + yx * (x - y)
    return np.array([[xx, xy, x + right - new_x], [yx, yy, y + down - new_y], [0, 0, 1.0]])


def _scale_matrix(factor_x: float, factor_y: float) -> np.ndarray:
    """Matrix of resizing as `cv2.resize` does it: the outer edges of the pixels coincide."""
    return np.array([[factor_x, 0, (factor_x - 1) / 2], [0, factor_y, (factor_y - 1) / 2], [0, 0, 1.0]])


def _map_corners(matrix: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """Outer corners of a box of pixels, mapped by a matrix: (4, 2)."""
    left, top, right, bottom = x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5
    points = np.array([[left, top, 1], [right, top, 1], [left, bottom, 1], [right, bottom, 1]])
    return points @ matrix[:2].T


# --- resampling --------------------------------------------------------------------------------------------


def resample(image: np.ndarray, geometry: Geometry, out: np.ndarray) -> None:
    """Resample an image once; pixels from outside the image become 0.

    An image that is only mirrored or turned is not interpolated: without other steps it is resized exactly as inference
    resizes it.

    Args:
        image: Image as stored, uint8 (h, w, channels).
        geometry: Parameters from `draw_parameters`.
        out: Receives the result, uint8 (height, width, channels), C-contiguous: the output, or its window.
    """
    if geometry.displacement is None and (rearrange := _pixel_rearrangement(geometry)) is not None:
        rearranged = rearrange(resize(image, geometry.size))
        out[:] = rearranged if geometry.window is None else rearranged[geometry.window.slices]
        return
    if out.shape[2] > MOST_CHANNELS:
        for start in range(0, out.shape[2], MOST_CHANNELS):
            channels = np.s_[:, :, start : start + MOST_CHANNELS]
            part = np.empty_like(out[channels], order="C")
            resample(np.ascontiguousarray(image[channels]), geometry, part)
            out[channels] = part
        return
    flat = out[:, :, 0] if out.shape[2] == 1 else out  # cv2 drops a single channel and writes only to its own shape
    if geometry.displacement is not None:
        _copy_unless_shared(cv2.remap(image, *_source_coordinates(geometry), cv2.INTER_LINEAR, dst=flat), flat)
    else:
        quadrants.warp(image, geometry.matrix, flat)


def resample_mask(mask: np.ndarray | None, geometry: Geometry, out: np.ndarray, cut: bool = True) -> None:
    """Resample all planes of a mask once.

    Args:
        mask: Mask as stored, uint8 (planes, h, w), 0 or 255; None for an empty one.
        geometry: Parameters from `draw_parameters`.
        out: Receives the result, uint8 (height, width, planes), 0 or 1.
        cut: Whether to cut levels at half; without, `out` receives levels from 0 to 255. Default: True.
    """
    out[:] = 0
    if mask is None:
        return
    by_box = geometry.displacement is None and _pixel_rearrangement(geometry) is None
    for index, plane in enumerate(mask):
        x, y, width, height = cv2.boundingRect(plane)
        if not width:
            continue
        if not by_box or width * height > LARGE_MASK * plane.size:
            resampled = np.empty((*geometry.resampled_size, 1), np.uint8)
            resample(plane[:, :, None], geometry, resampled)
            _store(resampled[:, :, 0], out[:, :, index], cut)
        else:
            _resample_box(plane, (x, y, width, height), geometry, out[:, :, index], cut)


def _store(levels: np.ndarray, out: np.ndarray, cut: bool) -> None:
    if cut:
        np.greater_equal(levels, HALF, out=out.view(bool))
    else:
        out[:] = levels


def _resample_box(
    plane: np.ndarray, box: tuple[int, int, int, int], geometry: Geometry, out: np.ndarray, cut: bool
) -> None:
    """Resample a plane's bounding box (x, y, width, height) alone, with a border for interpolation: masks are small."""
    x, y, width, height = box
    corners = _map_corners(geometry.matrix, x - 1, y - 1, width + 2, height + 2)
    edges = np.clip([np.floor(corners.min(0)), np.ceil(corners.max(0)) + 1], 0, geometry.resampled_size[::-1]).astype(
        int
    )
    (left, top), (right, bottom) = edges
    if right <= left or bottom <= top:
        return
    matrix = geometry.matrix.copy()
    matrix[:2, 2] += matrix[:2, :2] @ (x, y) - (left, top)
    part = cv2.warpAffine(plane[y : y + height, x : x + width], matrix[:2], (int(right - left), int(bottom - top)))
    _store(part, out[top:bottom, left:right], cut)


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return an image of any dtype, (h, w, channels), warped by a (3, 3) matrix; pixels from outside become 0."""
    size, channels = image.shape[1::-1], image.shape[2]
    if channels <= MOST_CHANNELS:
        return cv2.warpAffine(image, matrix[:2], size, flags=cv2.INTER_LINEAR).reshape(image.shape)
    starts = range(0, channels, MOST_CHANNELS)
    parts = [np.ascontiguousarray(image[:, :, start : start + MOST_CHANNELS]) for start in starts]
    return np.concatenate([warp(part, matrix) for part in parts], axis=2)


def _copy_unless_shared(result: np.ndarray, out: np.ndarray) -> None:
    if not np.may_share_memory(result, out):
        out[:] = result


def _pixel_rearrangement(geometry: Geometry) -> Callable[[np.ndarray], np.ndarray] | None:
    """Function that mirrors and turns an image (h, w, c) as `motion` says; None if `motion` does anything else."""
    (xx, xy, right), (yx, yy, down), _ = geometry.motion.tolist()
    signs = (xx, yy) if xx else (xy, yx)
    last = (float(geometry.size[1] - 1), float(geometry.size[0] - 1))
    if (xy, yx) != (0, 0) and ((xx, yy) != (0, 0) or last[0] != last[1]):
        return None
    shifts = tuple(end if sign < 0 else 0.0 for sign, end in zip(signs, last, strict=True))
    if {*map(abs, signs)} != {1.0} or (right, down) != shifts:
        return None

    def rearrange(image: np.ndarray) -> np.ndarray:
        turned = image if xx else image.transpose(1, 0, 2)
        return turned[:: int(signs[1]), :: int(signs[0])]

    return rearrange


def _source_coordinates(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Position in the stored image of each pixel that is resampled: x and y, float32 (height, width)."""
    displacement = geometry.displacement
    assert displacement is not None
    if geometry.window is not None:
        displacement = displacement[geometry.window.slices]
    inverse = np.linalg.inv(geometry.matrix).astype(np.float32)
    down, right = (np.arange(side, dtype=np.float32) for side in geometry.resampled_size)
    x, y = (row[0] * right[None, :] + (row[1] * down + row[2])[:, None] for row in inverse[:2])
    return x + displacement[..., 0], y + displacement[..., 1]
