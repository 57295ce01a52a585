"""Compose all geometric steps of `augment:` and resample an image and its mask once.

A 3 x 3 matrix maps pixels of the stored image to pixels of the square output. Steps that bend an image have no matrix:
they add to a field of displacements. Matrix and field together make one map of coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from gatemask.config import Affine, Distortion, ZoomToMask
from gatemask.data.readers import resize_image

HALF = 128  # a resampled pixel is mask from this level of 255 on


@dataclass
class Geometry:
    """Geometric parameters drawn for one image.

    Args:
        size: Side of the square output, in pixels.
        motion: Matrix from the square to the square, (3, 3): the steps so far.
        scale: Matrix from the stored image to the square, (3, 3).
        displacement: Offsets of x and y in the stored image in addition to the matrix, float32 (size, size, 2);
            None where no step bends.
        mask: Mask as stored, uint8 (h, w), above 0 inside; None if it is empty or not needed.
    """

    size: int
    motion: np.ndarray
    scale: np.ndarray
    displacement: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def matrix(self) -> np.ndarray:
        """Matrix from the stored image to the square, (3, 3)."""
        return self.motion @ self.scale

    def move(self, matrix: np.ndarray) -> None:
        """Add a linear step, a (3, 3) matrix from the square to the square."""
        self.motion = matrix @ self.motion
        if self.displacement is not None:
            # The field is smooth, so it can be resampled. Beyond its edge it keeps the edge's value.
            size, replicate = (self.size, self.size), cv2.BORDER_REPLICATE
            self.displacement = cv2.warpAffine(self.displacement, matrix[:2], size, borderMode=replicate)

    def bend(self, field: np.ndarray) -> None:
        """Add displacements, float32 (size, size, 2), in pixels of the square."""
        in_stored_image = field @ np.linalg.inv(self.matrix)[:2, :2].T.astype(np.float32)
        self.displacement = in_stored_image if self.displacement is None else self.displacement + in_stored_image


def resize_geometry(shape: tuple[int, ...], size: int, mask: np.ndarray | None = None) -> Geometry:
    """Return the geometry before any step: plain resizing.

    Args:
        shape: Shape of the stored image, (h, w, ...).
        size: Side of the square output, in pixels.
        mask: Mask as stored, uint8 (h, w); only `zoom_to_mask` looks at it. Default: none.
    """
    return Geometry(size, np.eye(3), _scale_matrix(size / shape[1], size / shape[0]), mask=mask)


# --- steps -------------------------------------------------------------------------------------------------


def _hflip(geometry: Geometry, p: float, rng: np.random.Generator) -> None:
    if rng.random() < p:
        geometry.move(flip_matrix(geometry.size, x=True))


def _vflip(geometry: Geometry, p: float, rng: np.random.Generator) -> None:
    if rng.random() < p:
        geometry.move(flip_matrix(geometry.size, y=True))


def _turn(geometry: Geometry, p: float, rng: np.random.Generator) -> None:
    chance, quarters = rng.random(), int(rng.integers(1, 4))
    if chance < p:
        quarter = np.array([[0, -1, geometry.size - 1], [1, 0, 0], [0, 0, 1.0]])
        geometry.move(np.linalg.matrix_power(quarter, quarters))


def _affine(geometry: Geometry, settings: Affine, rng: np.random.Generator) -> None:
    """Rotate, shear, zoom and shift about the center of the image."""
    chance, angle = rng.random(), math.radians(rng.uniform(-settings.rotate, settings.rotate))
    shear = rng.uniform(-settings.shear, settings.shear)
    zoom = rng.uniform(*settings.zoom)
    right, down = rng.uniform(-settings.shift, settings.shift, 2) * geometry.size
    if chance >= settings.p:
        return
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    linear = (cos, cos * shear - sin, sin, sin * shear + cos)
    geometry.move(linear_map_about_center(geometry.size, *linear, right, down))


def _zoom_to_mask(geometry: Geometry, settings: ZoomToMask, rng: np.random.Generator) -> None:
    """Enlarge a random window that holds the whole mask or, if that does not fit, one of its pixels."""
    chance, zoom, pixel_share, place = rng.random(), rng.uniform(*settings.zoom), rng.random(), rng.random(2)
    if chance >= settings.p:
        return
    size, mask = geometry.size, geometry.mask
    window = size / zoom
    lowest, highest = np.zeros(2), np.full(2, size - window)
    if mask is not None and (inside := np.flatnonzero(mask)).size:
        mask_edges = _edges_in_square(geometry, cv2.boundingRect(mask))
        y, x = divmod(inside[int(pixel_share * inside.size)], mask.shape[1])
        pixel_edges = _edges_in_square(geometry, (x, y, 1, 1))
        low, high = np.where(mask_edges[1] - mask_edges[0] <= window, mask_edges, pixel_edges)
        lowest, highest = np.clip([high - window, low], 0, size - window)
    start = lowest + place * np.maximum(0, highest - lowest)
    offset = (zoom - 1) / 2 - zoom * start  # pixel i reaches from i - 1/2 to i + 1/2
    geometry.move(np.array([[zoom, 0, offset[0]], [0, zoom, offset[1]], [0, 0, 1.0]]))


def _edges_in_square(geometry: Geometry, box: tuple[int, ...]) -> np.ndarray:
    """Edges in the square of a box (x, y, width, height) of the stored image: (low, high) x (x, y), from 0 to size."""
    corners = _map_corners(geometry.matrix, *box) + 0.5
    return np.array([corners.min(0), corners.max(0)])


def _elastic(geometry: Geometry, settings: Distortion, rng: np.random.Generator) -> None:
    chance = rng.random()
    nodes = rng.uniform(-1, 1, (settings.cells + 1, settings.cells + 1, 2))
    if chance < settings.p:
        geometry.bend(_interpolate_nodes(nodes * settings.amount * geometry.size, geometry.size))


def _grid(geometry: Geometry, settings: Distortion, rng: np.random.Generator) -> None:
    chance = rng.random()
    columns, rows = rng.uniform(-1, 1, (2, settings.cells + 1))
    if chance < settings.p:
        nodes = np.stack(np.meshgrid(columns, rows), axis=-1)
        geometry.bend(_interpolate_nodes(nodes * settings.amount * geometry.size, geometry.size))


def _interpolate_nodes(nodes: np.ndarray, size: int) -> np.ndarray:
    """Smooth field, float32 (size, size, 2), through values at the corners of cells, (cells + 1, cells + 1, 2)."""
    cells = len(nodes) - 1
    side = round(size * (cells + 1) / cells)  # cv2 puts nodes at the centers of their squares: cut off half a cell
    first = (side - size) // 2
    smooth = cv2.resize(nodes.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return smooth[first : first + size, first : first + size]


GeometryStep = Callable[[Geometry, Any, np.random.Generator], None]
GEOMETRY_STEPS: dict[str, GeometryStep] = {
    "hflip": _hflip,
    "vflip": _vflip,
    "turn": _turn,
    "affine": _affine,
    "zoom_to_mask": _zoom_to_mask,
    "elastic": _elastic,
    "grid": _grid,
}


# --- matrices ----------------------------------------------------------------------------------------------


def flip_matrix(size: int, x: bool = False, y: bool = False) -> np.ndarray:
    """Return the matrix, (3, 3), that mirrors a square of `size` pixels left to right (x), top to bottom (y)."""
    return np.array([[-1 if x else 1, 0, (size - 1) * x], [0, -1 if y else 1, (size - 1) * y], [0, 0, 1.0]])


def linear_map_about_center(
    size: int, xx: float, xy: float, yx: float, yy: float, right: float = 0.0, down: float = 0.0
) -> np.ndarray:
    """Return the matrix, (3, 3), of a linear map about the center of a square.

    Args:
        size: Side of the square, in pixels.
        xx: Share of x in the new x.
        xy: Share of y in the new x.
        yx: Share of x in the new y.
        yy: Share of y in the new y.
        right: Shift of the center, in pixels. Default: 0.
        down: Shift of the center, in pixels. Default: 0.
    """
    center = (size - 1) / 2
    return np.array(
        [[xx, xy, center + right - (xx + xy) * center], [yx, yy, center + down - (yx + yy) * center], [0, 0, 1.0]]
    )


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
        out: Receives the result, uint8 (size, size, channels), C-contiguous.
    """
    flat = out[:, :, 0] if out.shape[2] == 1 else out  # cv2 drops a single channel and writes only to its own shape
    size = (geometry.size, geometry.size)
    if geometry.displacement is not None:
        _copy_unless_shared(cv2.remap(image, *_source_coordinates(geometry), cv2.INTER_LINEAR, dst=flat), flat)
    elif (rearrange := _pixel_rearrangement(geometry)) is not None:
        out[:] = rearrange(resize_image(image, geometry.size))
    else:
        warped = cv2.warpAffine(image, geometry.matrix[:2], size, dst=flat, flags=cv2.INTER_LINEAR)
        _copy_unless_shared(warped, flat)


def resample_mask(mask: np.ndarray | None, geometry: Geometry, out: np.ndarray) -> None:
    """Resample a mask once.

    Args:
        mask: Mask as stored, uint8 (h, w), 0 or 255; None for an empty one.
        geometry: Parameters from `draw_parameters`.
        out: Receives the result, uint8 (size, size, 1), 0 or 1.
    """
    out[:] = 0
    if mask is None:
        return
    if geometry.displacement is not None or _pixel_rearrangement(geometry) is not None:
        resampled = np.empty_like(out)
        resample(mask[:, :, None], geometry, resampled)
        np.greater_equal(resampled, HALF, out=out.view(bool))
        return
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return
    # Masks are small: only their bounding box is resampled, with a border of one pixel for interpolation.
    corners = _map_corners(geometry.matrix, x - 1, y - 1, width + 2, height + 2)
    box = np.clip([np.floor(corners.min(0)), np.ceil(corners.max(0)) + 1], 0, geometry.size).astype(int)
    (left, top), (right, bottom) = box
    if right <= left or bottom <= top:
        return
    matrix = geometry.matrix.copy()
    matrix[:2, 2] += matrix[:2, :2] @ (x, y) - (left, top)
    part = cv2.warpAffine(mask[y : y + height, x : x + width], matrix[:2], (int(right - left), int(bottom - top)))
    np.greater_equal(part, HALF, out=out[top:bottom, left:right, 0].view(bool))


def _copy_unless_shared(result: np.ndarray, out: np.ndarray) -> None:
    if not np.may_share_memory(result, out):
        out[:] = result


def _pixel_rearrangement(geometry: Geometry) -> Callable[[np.ndarray], np.ndarray] | None:
    """Function that mirrors and turns a square (s, s, c) as `motion` says; None if `motion` does anything else."""
    (xx, xy, right), (yx, yy, down), _ = geometry.motion.tolist()
    signs = (xx, yy) if xx else (xy, yx)
    last = float(geometry.size - 1)
    if (xy, yx) != (0, 0) and (xx, yy) != (0, 0):
        return None
    if {*map(abs, signs)} != {1.0} or (right, down) != tuple(last if sign < 0 else 0.0 for sign in signs):
        return None

    def rearrange(image: np.ndarray) -> np.ndarray:
        turned = image if xx else image.transpose(1, 0, 2)
        return turned[:: int(signs[1]), :: int(signs[0])]

    return rearrange


def _source_coordinates(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Position in the stored image of each pixel of the square: x and y, float32 (size, size)."""
    assert geometry.displacement is not None
    inverse = np.linalg.inv(geometry.matrix).astype(np.float32)
    line = np.arange(geometry.size, dtype=np.float32)
    x, y = (row[0] * line[None, :] + (row[1] * line + row[2])[:, None] for row in inverse[:2])
    return x + geometry.displacement[..., 0], y + geometry.displacement[..., 1]
