"""Where each pixel comes from: every geometric step of `augment:` in one matrix, resampled once.

A matrix is 3 x 3 and maps pixels of the image as it was stored to pixels of the square that comes out. What bends, and
so has no matrix, adds to a field of displacements; with one, matrix and field make one map of coordinates.
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

ROUND = 128  # of 255: from half of a pixel on, it is mask


@dataclass
class Geometry:
    """What was drawn for one image.

    Args:
        size: of the square that comes out.
        moves: 3 x 3, from the square to the square: what the steps did so far.
        scale: 3 x 3, from the stored image to the square.
        displacement: float32 (size, size, 2): by how much x and y in the stored image lie beside what the matrix says.
        mask: uint8 (h, w) as stored, above 0 inside; None where the image is empty or nobody needs it.
    """

    size: int
    moves: np.ndarray
    scale: np.ndarray
    displacement: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def matrix(self) -> np.ndarray:
        return self.moves @ self.scale

    def move(self, matrix: np.ndarray) -> None:
        self.moves = matrix @ self.moves
        if self.displacement is not None:  # smooth, so that it may be resampled; beyond its edge it goes on as it ended
            size, replicate = (self.size, self.size), cv2.BORDER_REPLICATE
            self.displacement = cv2.warpAffine(self.displacement, matrix[:2], size, borderMode=replicate)

    def bend(self, field: np.ndarray) -> None:
        """Add displacements (size, size, 2) in pixels of the square."""
        inside = field @ np.linalg.inv(self.matrix)[:2, :2].T.astype(np.float32)
        self.displacement = inside if self.displacement is None else self.displacement + inside


def resize_geometry(shape: tuple[int, ...], size: int, mask: np.ndarray | None = None) -> Geometry:
    """The geometry of a stored image (h, w, ...) before any step: resized, pixel centres kept in place."""
    return Geometry(size, np.eye(3), _scale(size / shape[1], size / shape[0]), mask=mask)


# --- drawing -----------------------------------------------------------------------------------------------


def _flip_x(to: Geometry, p: float, rng: np.random.Generator) -> None:
    if rng.random() < p:
        to.move(flip_matrix(to.size, x=True))


def _flip_y(to: Geometry, p: float, rng: np.random.Generator) -> None:
    if rng.random() < p:
        to.move(flip_matrix(to.size, y=True))


def _turn(to: Geometry, p: float, rng: np.random.Generator) -> None:
    drawn, quarters = rng.random(), int(rng.integers(1, 4))
    if drawn < p:
        quarter = np.array([[0, -1, to.size - 1], [1, 0, 0], [0, 0, 1.0]])
        to.move(np.linalg.matrix_power(quarter, quarters))


def _affine(to: Geometry, settings: Affine, rng: np.random.Generator) -> None:
    """Rotation, shear, zoom and shift about the center of the image."""
    drawn, angle = rng.random(), math.radians(rng.uniform(-settings.rotate, settings.rotate))
    shear = rng.uniform(-settings.shear, settings.shear)
    zoom = rng.uniform(*settings.zoom)
    right, down = rng.uniform(-settings.shift, settings.shift, 2) * to.size
    if drawn >= settings.p:
        return
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    to.move(linear_map_about_center(to.size, cos, cos * shear - sin, sin, sin * shear + cos, right, down))


def _zoom_to_mask(to: Geometry, settings: ZoomToMask, rng: np.random.Generator) -> None:
    """Enlarge a window that holds the whole mask where it fits, and else a pixel of it; drawn evenly among those."""
    drawn, zoom, which, places = rng.random(), rng.uniform(*settings.zoom), rng.random(), rng.random(2)
    if drawn >= settings.p:
        return
    window = to.size / zoom
    lowest, highest = np.zeros(2), np.full(2, to.size - window)
    if to.mask is not None and (inside := np.flatnonzero(to.mask)).size:
        box, pixel = _seen(to, cv2.boundingRect(to.mask)), divmod(inside[int(which * inside.size)], to.mask.shape[1])
        one = _seen(to, (pixel[1], pixel[0], 1, 1))
        held = np.where(box[1] - box[0] <= window, box, one)
        lowest, highest = np.clip([held[1] - window, held[0]], 0, to.size - window)
    start = lowest + places * np.maximum(0, highest - lowest)
    away = (zoom - 1) / 2 - zoom * start  # pixel i reaches from i - 1/2 to i + 1/2
    to.move(np.array([[zoom, 0, away[0]], [0, zoom, away[1]], [0, 0, 1.0]]))


def _seen(to: Geometry, box: tuple[int, ...]) -> np.ndarray:
    """Edges of a box (x, y, width, height) of the stored image in the square: (low, high) x (x, y), from 0 to size."""
    edges = _corners(to.matrix, *box) + 0.5
    return np.array([edges.min(0), edges.max(0)])


def _elastic(to: Geometry, settings: Distortion, rng: np.random.Generator) -> None:
    drawn = rng.random()
    nodes = rng.uniform(-1, 1, (settings.cells + 1, settings.cells + 1, 2))
    if drawn < settings.p:
        to.bend(_between(nodes * settings.amount * to.size, to.size))


def _grid(to: Geometry, settings: Distortion, rng: np.random.Generator) -> None:
    drawn = rng.random()
    columns, rows = rng.uniform(-1, 1, (2, settings.cells + 1))
    if drawn < settings.p:
        nodes = np.stack(np.meshgrid(columns, rows), axis=-1)
        to.bend(_between(nodes * settings.amount * to.size, to.size))


def _between(nodes: np.ndarray, size: int) -> np.ndarray:
    """Values at the corners of cells, (cells + 1, cells + 1, 2), as a smooth float32 field (size, size, 2)."""
    cells = len(nodes) - 1
    side = round(size * (cells + 1) / cells)  # cv2 puts nodes into the middle of their squares: cut half a cell off
    first = (side - size) // 2
    smooth = cv2.resize(nodes.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return smooth[first : first + size, first : first + size]


DrawGeometry = Callable[[Geometry, Any, np.random.Generator], None]
GEOMETRY_STEPS: dict[str, DrawGeometry] = {
    "hflip": _flip_x,
    "vflip": _flip_y,
    "turn": _turn,
    "affine": _affine,
    "zoom_to_mask": _zoom_to_mask,
    "elastic": _elastic,
    "grid": _grid,
}


# --- matrices ----------------------------------------------------------------------------------------------


def flip_matrix(size: int, x: bool = False, y: bool = False) -> np.ndarray:
    """The matrix that mirrors a square of `size` pixels: left and right, up and down."""
    return np.array([[-1 if x else 1, 0, (size - 1) * x], [0, -1 if y else 1, (size - 1) * y], [0, 0, 1.0]])


def linear_map_about_center(
    size: int, xx: float, xy: float, yx: float, yy: float, right: float = 0.0, down: float = 0.0
) -> np.ndarray:
    """The matrix of a linear map that leaves the center of a square in its place, or moves it by (right, down)."""
    center = (size - 1) / 2
    return np.array(
        [[xx, xy, center + right - (xx + xy) * center], [yx, yy, center + down - (yx + yy) * center], [0, 0, 1.0]]
    )


def _scale(fx: float, fy: float) -> np.ndarray:
    """Resizing with pixel centres kept in place, as cv2.resize does it."""
    return np.array([[fx, 0, (fx - 1) / 2], [0, fy, (fy - 1) / 2], [0, 0, 1.0]])


def _corners(matrix: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """The outer corners of a box of pixels, mapped: (4, 2)."""
    left, top, right, bottom = x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5
    points = np.array([[left, top, 1], [right, top, 1], [left, bottom, 1], [right, bottom, 1]])
    return points @ matrix[:2].T


# --- resampling --------------------------------------------------------------------------------------------


def resample(image: np.ndarray, by: Geometry, out: np.ndarray) -> None:
    """Bring an image to its place; what comes from outside is 0.

    Args:
        image: uint8 (h, w, channels).
        by: what was drawn; its steps are resampled together, once. Mirrored and turned images are not resampled at
            all: without other geometry, an image is resized exactly as inference does it.
        out: uint8 (size, size, channels), C-contiguous; written to.
    """
    flat = out[:, :, 0] if out.shape[2] == 1 else out  # cv2 drops a single channel, and writes only to its own shape
    size = (by.size, by.size)
    if by.displacement is not None:
        _put(cv2.remap(image, *_coordinates(by), cv2.INTER_LINEAR, dst=flat), flat)
    elif (order := _mirrored(by)) is not None:
        out[:] = order(resize_image(image, by.size))
    else:
        _put(cv2.warpAffine(image, by.matrix[:2], size, dst=flat, flags=cv2.INTER_LINEAR), flat)


def resample_mask(mask: np.ndarray | None, by: Geometry, out: np.ndarray) -> None:
    """The same for a mask, uint8 (h, w), 0 or 255; `out` is uint8 (size, size, 1), 0 or 1. None is an empty one."""
    out[:] = 0
    if mask is None:
        return
    if by.displacement is not None or _mirrored(by) is not None:
        whole = np.empty_like(out)
        resample(mask[:, :, None], by, whole)
        np.greater_equal(whole, ROUND, out=out.view(bool))
        return
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return
    # Masks are small: only the part that holds one is resampled, with a border of what may shine in.
    edges = _corners(by.matrix, x - 1, y - 1, width + 2, height + 2)
    (left, top), (right, bottom) = np.clip([np.floor(edges.min(0)), np.ceil(edges.max(0)) + 1], 0, by.size).astype(int)
    if right <= left or bottom <= top:
        return
    matrix = by.matrix.copy()
    matrix[:2, 2] += matrix[:2, :2] @ (x, y) - (left, top)
    part = cv2.warpAffine(mask[y : y + height, x : x + width], matrix[:2], (int(right - left), int(bottom - top)))
    np.greater_equal(part, ROUND, out=out[top:bottom, left:right, 0].view(bool))


def _put(written: np.ndarray, out: np.ndarray) -> None:
    if not np.may_share_memory(written, out):
        out[:] = written


def _mirrored(by: Geometry) -> Callable[[np.ndarray], np.ndarray] | None:
    """What mirrors and turns a square (s, s, c) as `moves` says, where it does nothing else."""
    (xx, xy, right), (yx, yy, down), _ = by.moves.tolist()
    signs = (xx, yy) if xx else (xy, yx)
    last = float(by.size - 1)
    if (xy, yx) != (0, 0) and (xx, yy) != (0, 0):
        return None
    if {*map(abs, signs)} != {1.0} or (right, down) != tuple(last if sign < 0 else 0.0 for sign in signs):
        return None

    def order(image: np.ndarray) -> np.ndarray:
        turned = image if xx else image.transpose(1, 0, 2)
        return turned[:: int(signs[1]), :: int(signs[0])]

    return order


def _coordinates(by: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the square lies in the stored image: x and y, float32 (size, size)."""
    assert by.displacement is not None
    back = np.linalg.inv(by.matrix).astype(np.float32)
    line = np.arange(by.size, dtype=np.float32)
    x, y = (row[0] * line[None, :] + (row[1] * line + row[2])[:, None] for row in back[:2])
    return x + by.displacement[..., 0], y + by.displacement[..., 1]
