"""Read the members' maps of each image, averaged and at the scoring size, next to its truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from gatemask.console import progress
from gatemask.data.truth import Masks
from gatemask.masks.frame import Frame, resize_map, restore_map
from gatemask.masks.rule import average_maps
from gatemask.oof.store import MapReader
from gatemask.parallel import cores, keep_freed_memory, ordered_map, single_threaded_opencv

AHEAD = 16  # images in flight, which bounds memory


class FullImage(NamedTuple):
    """An image's averaged map and truth, at the scoring size.

    Args:
        image_id: Id of the image.
        full_map: uint8 (height, width, outputs): classes, and possibly borders between objects.
        truth: bool (height, width, classes).
        ignored: Pixels that are not scored, bool (height, width); None where there are none.
    """

    image_id: str
    full_map: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray | None = None


Result = TypeVar("Result")


def map_images(
    ids: Sequence[str],
    readers: Sequence[MapReader],
    truth: Masks,
    label: str,
    weights: Sequence[float] | None,
    function: Callable[[FullImage], Result],
    frame: Frame | None = None,
) -> Iterator[Result]:
    """Yield the result of a function for each image, in order, computed by one thread per core.

    Args:
        ids: Image ids.
        readers: Maps of each member.
        truth: Masks by image id, at the scoring size.
        label: Title of the progress bar.
        weights: Weight of each member; None for equal weights.
        function: Called with each image's averaged map and truth at the scoring size.
        frame: Frame of the maps. Default: they show the image as a whole.

    >>> maps = {"a": np.full((2, 2, 1), 200, np.uint8)}
    >>> truth = type("Truth", (dict,), {"ignored": lambda *_: None})(a=np.ones((4, 4, 1), bool))
    >>> list(map_images(["a"], [maps], truth, "maps", None, lambda image: image.full_map.shape))
    [(4, 4, 1)]
    """

    def work(image_id: str) -> Result:
        return function(read_full(image_id, readers, truth, weights, frame))

    keep_freed_memory()
    with ThreadPoolExecutor(cores()) as pool, single_threaded_opencv():
        try:
            yield from ordered_map(pool, work, progress(ids, label, len(ids)), AHEAD)
        finally:
            pool.shutdown(cancel_futures=True)


def read_full(
    image_id: str,
    readers: Sequence[MapReader],
    truth: Masks,
    weights: Sequence[float] | None = None,
    frame: Frame | None = None,
) -> FullImage:
    """Return an image's averaged map and truth at the scoring size; arguments as for `map_images`."""
    masks = truth[image_id]
    averaged = average_maps([reader[image_id] for reader in readers], weights)
    size = masks.shape[0], masks.shape[1]
    if frame is None or frame.fit == "stretch":
        full_map = resize_map(averaged, size)
    else:
        full_map = restore_map(averaged, frame, truth.image_size(image_id), size)
    return FullImage(image_id, full_map, masks, truth.ignored(image_id))
