"""Fit images of any size into the one size of records and networks, and bring maps back: the only copy of each.

A frame is the size of the records and the way images are fitted into it. A map belongs to the same frame as the input
it was predicted from, whatever its own resolution.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np

from gatemask.config import Competition

Fit = Literal["stretch", "pad", "crop"]
HALF = 128  # a resized pixel is mask from this level of 255 on


class Box(NamedTuple):
    """Part of an image that fills a frame, in pixels of the image; it may reach beyond the image.

    Args:
        top: First row; negative for rows above the image.
        left: First column; negative for columns left of the image.
        height: Number of rows.
        width: Number of columns.
    """

    top: int
    left: int
    height: int
    width: int

    def meets(self, image_size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the rows and columns that box and image share: in the box, and in the image.

        >>> Box(-1, 0, 4, 2).meets((2, 2))
        ((slice(1, 3, None), slice(0, 2, None)), (slice(0, 2, None), slice(0, 2, None)))
        """
        (box_y, image_y), (box_x, image_x) = (
            _shared(first, length, side) for first, length, side in zip(self[:2], self[2:], image_size, strict=True)
        )
        return (box_y, box_x), (image_y, image_x)


def _shared(first: int, length: int, side: int) -> tuple[slice, slice]:
    begin, end = max(0, first), min(side, first + length)
    return slice(begin - first, end - first), slice(begin, end)


class Frame(NamedTuple):
    """Size of the records, and how images are fitted into it.

    Args:
        size: Height and width, in pixels.
        fit: "stretch" for the image's sides to become the frame's; "pad" for the whole image in the middle of black
            borders; "crop" for the middle of the image, as much as covers the frame. Default: "stretch".
    """

    size: tuple[int, int]
    fit: Fit = "stretch"

    def box(self, image_size: tuple[int, int]) -> Box:
        """Return the part of an image that fills the frame.

        Its sides are whole pixels, so that images, masks and maps of any resolution are cut at the same place.

        Args:
            image_size: Height and width of the image, in pixels.

        >>> Frame((64, 64), "pad").box((100, 50)), Frame((64, 64), "crop").box((100, 50))
        (Box(top=0, left=-25, height=100, width=100), Box(top=25, left=0, height=50, width=50))
        """
        height, width = image_size
        if self.fit == "stretch":
            return Box(0, 0, height, width)
        if (height * self.size[1] >= width * self.size[0]) == (self.fit == "pad"):  # the width follows from the height
            covered = max(1, round(height * self.size[1] / self.size[0]))
            return Box(0, (width - covered) // 2, height, covered)
        covered = max(1, round(width * self.size[0] / self.size[1]))
        return Box((height - covered) // 2, 0, covered, width)


def comp_frame(comp: Competition) -> Frame:
    """Return the frame of a competition's records."""
    return Frame(comp.records.shape, comp.image.fit)


def fit_image(image: np.ndarray, frame: Frame) -> np.ndarray:
    """Return an image as its record holds it.

    Args:
        image: uint8 (height, width, channels).
        frame: Frame of the records.

    Returns:
        uint8 (frame height, frame width, channels).

    >>> fit_image(np.full((4, 2, 1), 9, np.uint8), Frame((4, 4), "pad"))[:, :, 0].tolist()[0]
    [0, 9, 9, 0]
    """
    height, width, channels = image.shape
    box = frame.box((height, width))
    in_box, in_image = box.meets((height, width))
    part = image[in_image]
    # The side without borders first: of an oblong image, the borders would otherwise take most of the memory.
    if box.height > height:
        part = resize(part, (height, frame.size[1]))
        bordered = np.zeros((box.height, frame.size[1], channels), np.uint8)
        bordered[in_box[0]] = part
    elif box.width > width:
        part = resize(part, (frame.size[0], width))
        bordered = np.zeros((frame.size[0], box.width, channels), np.uint8)
        bordered[:, in_box[1]] = part
    else:
        bordered = part
    return np.ascontiguousarray(resize(bordered, frame.size))


def fit_mask(mask: np.ndarray, frame: Frame) -> np.ndarray:
    """Return a mask as its record holds it: a new pixel belongs to the mask if at least half of its area did.

    Args:
        mask: bool (height, width) or (height, width, planes).
        frame: Frame of the records.

    Returns:
        uint8 of the frame's size, 0 or 1; planes as in `mask`.

    >>> fit_mask(np.array([[True, True], [False, False]]), Frame((1, 2))).tolist()
    [[1, 1]]
    """
    # Turned, since decoded masks lie in memory column by column, and turning them would take longest. Others are turned
    # as well: rows first would round differently.
    turned = Frame(frame.size[::-1], frame.fit)

    def fit_plane(plane: np.ndarray) -> np.ndarray:
        levels = np.ascontiguousarray(plane.T).astype(np.uint8) * np.uint8(255)
        return (fit_image(levels[:, :, None], turned)[:, :, 0] >= HALF).T

    if mask.ndim == 2:
        return np.ascontiguousarray(fit_plane(mask), np.uint8)
    return np.stack([fit_plane(plane) for plane in np.moveaxis(mask, 2, 0)], axis=2).astype(np.uint8, order="C")


def finish_levels(levels: np.ndarray, classes: int, ignored: bool) -> None:
    """Turn planes of soft masks that were interpolated into planes that networks learn, in place.

    Shares of classes stay; the other planes become 0 or 255 again. Beside ignored pixels, whose share is unknown, a
    share is that of the known part of its pixel.

    Args:
        levels: uint8 (height, width, planes), 0 to 255: classes, then borders, then ignored pixels.
        classes: Number of classes.
        ignored: Whether the last plane holds ignored pixels.

    >>> levels = np.array([[[96, 64], [96, 192]]], np.uint8)
    >>> finish_levels(levels, 1, True)
    >>> levels.tolist()
    [[[128, 0], [0, 255]]]
    """
    if ignored and levels[:, :, -1].any():
        known = 255 - levels[:, :, -1:].astype(np.float32)
        shares = np.minimum(levels[:, :, :classes] / np.maximum(known, 1), 1)
        levels[:, :, :classes] = np.rint(255 * shares * (known > 255 - HALF))
    for plane in range(classes, levels.shape[2]):
        levels[:, :, plane] = np.where(levels[:, :, plane] >= HALF, 255, 0)


def restore_map(
    small_map: np.ndarray, frame: Frame, image_size: tuple[int, int], size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return a map of the frame as a map of the image, by bilinear interpolation; 0 where the frame did not reach.

    Args:
        small_map: uint8 (h, w, classes), of any resolution.
        frame: Frame of the records from which it was predicted.
        image_size: Height and width of the image, in pixels.
        size: Height and width of the result, in pixels. Default: those of the image.

    Returns:
        uint8 (height, width, classes).

    >>> frame = Frame((4, 4), "pad")
    >>> small_map = fit_image(np.full((8, 4, 1), 9, np.uint8), frame)
    >>> restore_map(small_map, frame, (8, 4)).shape
    (8, 4, 1)
    """
    if frame.fit == "stretch":
        return resize_map(small_map, size or image_size)
    box = frame.box(image_size)
    (box_y, box_x), in_image = box.meets(image_size)
    part = small_map
    if box.height > image_size[0]:  # rows of the borders are cut off before columns are made of them, or vice versa
        part = resize_map(part, (box.height, part.shape[1]))[box_y]
    elif box.width > image_size[1]:
        part = resize_map(part, (part.shape[0], box.width))[:, box_x]
    part = resize_map(part, (box_y.stop - box_y.start, box_x.stop - box_x.start))
    if part.shape[:2] == tuple(image_size):
        restored = part
    else:
        restored = np.zeros((*image_size, small_map.shape[2]), np.uint8)
        restored[in_image] = part
    return np.ascontiguousarray(resize_map(restored, size or image_size))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image; shrinking averages.

    Args:
        image: uint8 (height, width, channels).
        size: Height and width of the result, in pixels.
    """
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    channels = image.shape[2]
    if channels <= 4:
        resized: np.ndarray = cv2.resize(image, size[::-1], interpolation=method).reshape(*size, channels)
        return resized
    # OpenCV resizes at most four channels at once.
    parts = [resize(np.ascontiguousarray(image[:, :, start : start + 4]), size) for start in range(0, channels, 4)]
    return np.concatenate(parts, axis=2)


def resize_map(small_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map by bilinear interpolation.

    Args:
        small_map: uint8 (h, w, classes).
        size: Height and width of the result, in pixels.

    Returns:
        uint8 (height, width, classes).

    >>> resize_map(np.zeros((2, 2, 1), np.uint8), (4, 6)).shape
    (4, 6, 1)
    """
    if small_map.shape[:2] == tuple(size):
        return small_map
    planes = small_map.shape[2]
    if planes <= 4:
        resized: np.ndarray = cv2.resize(small_map, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        return resized.reshape(*size, planes)
    parts = [
        resize_map(np.ascontiguousarray(small_map[:, :, start : start + 4]), size) for start in range(0, planes, 4)
    ]
    return np.concatenate(parts, axis=2)
