"""Cells that join the id of an image and a class, such as a.jpg_Fish: taken apart by a template, {id}_{class}."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple


class JoinedParts(NamedTuple):
    """A cell, taken apart.

    Args:
        image: Text that names the image.
        class_name: Text that names the class.
    """

    image: str
    class_name: str


class JoinedTemplate:
    """A template of an image's id and a class, in any order.

    Args:
        template: Such as "{id}_{class}" or "{class}-{id}.png".
    """

    def __init__(self, template: str) -> None:
        self._before, first, self._joint, _, self._after = re.split(r"\{(id|class)\}", template)
        self._id_first = first == "id"

    def split(self, cell: str, classes: Collection[str] = ()) -> JoinedParts | None:
        """Return the parts of a cell; None where it does not fit the template.

        Args:
            cell: The cell.
            classes: Known names. Of several that fit, the longest is meant; other names reach to the nearest joint.

        >>> JoinedTemplate("{id}_{class}").split("a_1_large_bowel", ["bowel", "large_bowel"])
        JoinedParts(image='a_1', class_name='large_bowel')
        >>> JoinedTemplate("{class}-{id}").split("fish-b-2")
        JoinedParts(image='b-2', class_name='fish')
        """
        text = cell.strip()
        inner = text[len(self._before) : len(text) - len(self._after)]
        if f"{self._before}{inner}{self._after}" != text:
            return None
        for name in sorted(classes, key=len, reverse=True):
            joined = self._joint + name if self._id_first else name + self._joint
            image = inner.removesuffix(joined) if self._id_first else inner.removeprefix(joined)
            if image and image != inner:
                return JoinedParts(image, name)
        first, joint, second = inner.rpartition(self._joint) if self._id_first else inner.partition(self._joint)
        if not (first and joint and second):
            return None
        return JoinedParts(first, second) if self._id_first else JoinedParts(second, first)
