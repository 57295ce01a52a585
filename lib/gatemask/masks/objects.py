"""Split masks into objects: connected components, or a watershed of the map where objects touch."""

from __future__ import annotations

import cv2
import numpy as np

STEP = 8  # levels between two floods of the watershed: finer than a map can tell


def label_objects(
    mask: np.ndarray, class_map: np.ndarray, split: int = 0, min_size: int = 0, border_map: np.ndarray | None = None
) -> np.ndarray:
    """Return the objects of one class.

    Without a split they are the connected components (8 neighbors). With one, the pixels of a component that reach the
    level `split` are seeds; if these fall apart, so does the component: the map is flooded from its seeds, from high
    levels to low, and each pixel joins the seed whose flood reaches it first (Meyer 1994). A component with one seed or
    none stays whole.

    Args:
        mask: bool (height, width).
        class_map: uint8 (height, width).
        split: Level that seeds reach; 0 never splits. Default: 0.
        min_size: Pixels of the smallest object to keep. Default: 0, all.
        border_map: uint8 (height, width), how likely a pixel lies between two objects: it is subtracted from the map
            before seeds are sought. Default: none.

    Returns:
        int32 (height, width): 0 outside, otherwise the number of the object, from 1 without gaps.

    >>> strengths = np.array([[250, 130, 250]], np.uint8)
    >>> label_objects(strengths > 0, strengths, split=200).tolist()
    [[1, 2, 2]]
    """
    _, label, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if split:
        strength = class_map if border_map is None else cv2.subtract(class_map, border_map)
        label = _split_by_seeds(label, boxes, strength, split)
    return keep_large(label, min_size)


def keep_large(label: np.ndarray, min_size: int) -> np.ndarray:
    """Remove objects of fewer pixels, and number the others from 1 in the order of their old numbers.

    >>> keep_large(np.array([[1, 2, 2, 5]], np.int32), 2).tolist()
    [[0, 1, 1, 0]]
    """
    sizes = np.bincount(label.ravel())
    kept = sizes >= max(1, min_size)
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    kept_label: np.ndarray = numbers[label]
    return kept_label


def number_objects(masks: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the masks of single objects as one array; where they overlap, the later one counts.

    Args:
        masks: bool (height, width), one per object.
        size: Height and width, in pixels.

    Returns:
        int32 (height, width): 0 outside, otherwise 1 + index of the object.

    >>> number_objects([np.array([[True, False]]), np.array([[False, True]])], (1, 2)).tolist()
    [[1, 2]]
    """
    label = np.zeros(size, np.int32)
    for number, mask in enumerate(masks, start=1):
        label[mask] = number
    return label


def touching_borders(label: np.ndarray, width: int = 1) -> np.ndarray:
    """Return the pixels within `width` pixels of two objects at once: what separates touching objects.

    Args:
        label: int32 (height, width).
        width: Distance in pixels. Default: 1.

    Returns:
        bool (height, width).

    >>> touching_borders(np.array([[1, 1, 2, 2, 0, 3]], np.int32)).tolist()
    [[False, True, True, False, True, False]]
    """
    # The largest and the smallest number nearby; outside counts as none.
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    numbers = label.astype(np.float32)
    highest = cv2.dilate(numbers, kernel)
    lowest = -cv2.dilate(np.where(label > 0, -numbers, -np.inf).astype(np.float32), kernel)
    between: np.ndarray = (highest > lowest) & np.isfinite(lowest)
    return between


def _split_by_seeds(label: np.ndarray, boxes: np.ndarray, strength: np.ndarray, split: int) -> np.ndarray:
    """Split components with several seeds; `boxes` holds x, y, width and height of each component."""
    inside = label > 0
    count, seeds = cv2.connectedComponents(((strength >= split) & inside).astype(np.uint8), connectivity=8)
    owner = np.zeros(count, np.int64)  # component of each seed
    owner[seeds] = label
    several = np.flatnonzero(np.bincount(owner[1:], minlength=int(label.max()) + 1) > 1)
    result, highest = label.copy(), int(label.max())
    for component in several[several > 0].tolist():
        x, y, width, height = boxes[component, :4].tolist()
        box = np.s_[y : y + height, x : x + width]
        part = label[box] == component
        flooded = _flood(np.where(part, seeds[box], 0), part, strength[box])
        numbers = np.unique(flooded[part])
        renumbered = np.searchsorted(numbers, flooded) + highest + 1
        renumbered = np.where(flooded == numbers[0], component, renumbered)
        result[box][part] = renumbered[part]
        highest += len(numbers)
    return result


def _flood(seeds: np.ndarray, inside: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Grow seeds over a component, over high levels first; int32 (height, width)."""
    label = seeds.astype(np.float32)  # a type that OpenCV dilates, exact for whole numbers up to 2^24
    kernel = np.ones((3, 3), np.uint8)
    levels = [*range(int(strength.max()) // STEP * STEP, 0, -STEP), 0]
    for cut in levels:
        open_pixels = inside & (strength >= cut)
        while True:
            grown = cv2.dilate(label, kernel)
            reached = open_pixels & (label == 0) & (grown > 0)
            if not reached.any():
                break
            label[reached] = grown[reached]
        if not (inside & (label == 0)).any():
            break
    return label.astype(np.int32)
