"""Fit images of any size into the one size of records and networks, and bring maps back: the only copy of each.

A frame is the size of the records and the way images are fitted into it. A map belongs to the same frame as the input
it was predicted from, whatever its own resolution.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np

Fit = Literal["stretch", "pad", "crop"]
HALF = 128  # a resized pixel is mask from this level of 255 on


class Window(NamedTuple):
    """Part of a frame, or of an image, in shares of its sides: from 0 to 1, or beyond.

    Args:
        top: Upper edge.
        left: Left edge.
        bottom: Lower edge.
        right: Right edge.
    """

    top: float
    left: float
    bottom: float
    right: float


WHOLE = Window(0.0, 0.0, 1.0, 1.0)


class Frame(NamedTuple):
    """Size of the records, and how images are fitted into it.

    Args:
        size: Height and width, in pixels.
        fit: "stretch" for the image's sides to become the frame's; "pad" for the whole image in the middle of black
            borders; "crop" for the middle of the image, as much as covers the frame. Default: "stretch".
    """

    size: tuple[int, int]
    fit: Fit = "stretch"

    def place(self, image_size: tuple[int, int]) -> Window:
        """Return where in the frame an image lies, in shares of the frame's sides.

        Beyond 0 and 1 for "crop": the image reaches out of the frame.

        Args:
            image_size: Height and width of the image, in pixels.

        >>> Frame((64, 64), "pad").place((100, 50))
        Window(top=0.0, left=0.25, bottom=1.0, right=0.75)
        """
        if self.fit == "stretch":
            return WHOLE
        scales = self.size[0] / image_size[0], self.size[1] / image_size[1]
        scale = min(scales) if self.fit == "pad" else max(scales)
        height, width = scale * image_size[0] / self.size[0], scale * image_size[1] / self.size[1]
        return Window((1 - height) / 2, (1 - width) / 2, (1 + height) / 2, (1 + width) / 2)


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
    if frame.fit == "stretch":
        return resize(image, frame.size)
    place = frame.place(image.shape[:2])
    top, bottom = (round(edge * frame.size[0]) for edge in (place.top, place.bottom))
    left, right = (round(edge * frame.size[1]) for edge in (place.left, place.right))
    scaled = resize(image, (max(1, bottom - top), max(1, right - left)))
    out = np.zeros((*frame.size, image.shape[2]), np.uint8)
    inside = np.s_[max(0, top) : min(bottom, frame.size[0]), max(0, left) : min(right, frame.size[1])]
    out[inside] = scaled[inside[0].start - top : inside[0].stop - top, inside[1].start - left : inside[1].stop - left]
    return out


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
    planes = mask[:, :, None] if mask.ndim == 2 else mask
    if planes.flags.f_contiguous and not planes.flags.c_contiguous:  # decoded masks: copying would take longest
        turned = Frame(frame.size[::-1], frame.fit)
        fitted = np.stack([fit_mask(plane.T, turned).T for plane in np.moveaxis(planes, 2, 0)], axis=2)
    else:
        levels = planes.astype(np.uint8) * np.uint8(255)
        fitted = (fit_image(np.ascontiguousarray(levels), frame) >= HALF).astype(np.uint8)
    return np.ascontiguousarray(fitted[:, :, 0] if mask.ndim == 2 else fitted)


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
    height, width = size or image_size
    if frame.fit == "stretch":
        return resize_map(small_map, (height, width))
    place = frame.place(image_size)
    h, w = small_map.shape[:2]
    # From pixels of the result to pixels of the map; pixel i reaches from i - 1/2 to i + 1/2.
    scale_y, scale_x = h * (place.bottom - place.top) / height, w * (place.right - place.left) / width
    offset_y, offset_x = h * place.top + (scale_y - 1) / 2, w * place.left + (scale_x - 1) / 2
    matrix = np.array([[scale_x, 0, offset_x], [0, scale_y, offset_y]])
    inside = cv2.BORDER_REPLICATE if frame.fit == "pad" else cv2.BORDER_CONSTANT
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    planes = [
        cv2.warpAffine(np.ascontiguousarray(plane), matrix, (width, height), flags=flags, borderMode=inside)
        for plane in np.moveaxis(small_map, 2, 0)
    ]
    return np.stack(planes, axis=2)


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
