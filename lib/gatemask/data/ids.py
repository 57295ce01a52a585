"""The id of an image, from its file and from the cell of a table: one rule for manifest, kernel and submission.

Both functions normalize in the same way: Unicode form NFC, backslashes as slashes, no blanks at the ends, no folders
(unless the rule names them), and no extension of an image, however many there are (a.dcm.png is a). Letters keep their
case. An extension that is not an image's is part of the id, since DICOM UIDs contain points.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gatemask.config import Competition
from gatemask.config.path_patterns import PathPattern, part_names, path_pattern
from gatemask.errors import GatemaskError

KINDS = (
    "png jpg jpeg jpe jfif tif tiff bmp dib dcm dicom ima webp gif jp2 j2k jpx pgm ppm pnm pbm avif heic exr hdr npy "
    "npz nii gz mha mhd nrrd svs ndpi"
)
EXTENSIONS = frozenset(f".{kind}" for kind in KINDS.split())
# Blanks that str.strip() leaves: zero-width spaces and joiners, byte-order mark.
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
BLANKS = " \t\r\n\v\f\u00a0" + INVISIBLE


class SharedIdError(GatemaskError):
    """Two paths become one id."""


def normalize(text: str) -> str:
    """Return a path or id in one form: NFC, forward slashes, no blanks at the ends."""
    return strip_blanks(unicodedata.normalize("NFC", text).replace("\\", "/")).lstrip("/")


def strip_blanks(text: str) -> str:
    """Remove blanks of every kind, visible or not, from both ends."""
    before = None
    while before != text:
        before, text = text, text.strip().strip(BLANKS)
    return text


def without_extension(text: str, own: str = "") -> str:
    """Remove all extensions of images.

    Args:
        text: Name of a file, or an id.
        own: An extension that counts as an image's as well, such as ".xyz". Default: none.

    >>> without_extension("1.2.840.dcm.png"), without_extension("1.2.840")
    ('1.2.840', '1.2.840')
    """
    text = strip_blanks(text)
    while True:
        stem, point, extension = text.rpartition(".")
        extension = f".{extension.lower()}"
        if not point or not stem.rpartition("/")[2] or (extension not in EXTENSIONS and extension != own):
            return text
        text = strip_blanks(stem)


@dataclass(frozen=True)
class IdRule:
    """How a competition makes ids.

    Args:
        images: Glob of the images below the raw folder, with or without named parts.
        id: Template such as "{case}_{slice}", or a regular expression that is searched for in the path below the raw
            folder. Default: the file's name.
    """

    images: str = "*"
    id: str | None = None

    @property
    def template(self) -> str | None:
        """The template, unless ids follow from a regular expression or from the file's name."""
        if self.id is None:
            return "{id}" if "id" in part_names(self.images) else None
        return self.id if is_template(self.id) else None

    def of_file(self, name: str) -> str:
        """Return the id of a file.

        Args:
            name: Path below the raw folder.

        Raises:
            GatemaskError: The path does not fit the rule, fits in several ways, or gives no id.
        """
        text = normalize(name)
        if self.template is not None:
            found = self._from_template(text, [self._pattern], [0])
        elif self.id is not None:
            found = self._from_regex(text)
        else:
            found = self._stem(text)
        if not found or "/" in found:
            raise GatemaskError(
                "No id can be made from the name of a file.",
                where=name,
                received="no match" if found is None else repr(found),
                expected=f"a path that fits {self._described()}, and an id without slashes",
                do="Correct images and id in competition.yaml.",
            )
        return found

    def of_cell(self, cell: str) -> str:
        """Return the id in the cell of a table: an id, a file's name, or a path from any folder.

        Raises:
            GatemaskError: The cell is a path that fits the rule in several ways.
        """
        text = normalize(cell).rstrip("/")
        # A path, or at least the name of a file; everything else is an id.
        if "/" in text or self._bare(text) != text:
            found: str | None = None
            if self.template is not None:
                found = self._from_template(text, self._tails, [0, *(m.end() for m in re.finditer("/", text))])
            elif self.id is not None:
                found = self._from_regex(text)
            if found:
                return found
        return self._stem(text)

    def parts(self, name: str) -> dict[str, str]:
        """Return the named parts of a file's path, its id and its stem, for patterns that refer to them."""
        text = normalize(name)
        readings = self._pattern.readings(self._bare(text))
        return {"stem": self._stem(text), **(readings[0] if readings else {}), "id": self.of_file(name)}

    def _from_template(self, text: str, patterns: Iterable[PathPattern], starts: Iterable[int]) -> str | None:
        text, stem, starts = self._bare(text), self._stem(text), list(starts)
        for pattern in patterns:
            for start in starts:
                readings = pattern.readings(text, start)
                made = list(dict.fromkeys(_fill(str(self.template), {"stem": stem, **parts}) for parts in readings))
                if len(made) > 1:
                    raise GatemaskError(
                        "A path can be read in two ways, which give two ids.",
                        where=text,
                        received=" or ".join(made),
                        expected=f"one way to fit {self.images}",
                        do="Separate the named parts by folders or plain text, or set id to a regular expression.",
                    )
                if made:
                    return made[0]
        return None

    def _from_regex(self, text: str) -> str | None:
        match = re.search(str(self.id), text)
        return None if match is None else "_".join(self._bare(group or "") for group in match.groups())

    def _stem(self, text: str) -> str:
        return self._bare(text.rpartition("/")[2])

    def _bare(self, text: str) -> str:
        return without_extension(text, self._own_extension)

    @cached_property
    def _own_extension(self) -> str:
        """The extension at the end of the pattern: what all images have cannot be part of an id."""
        match = re.search(r"[*}\]?](\.[A-Za-z][A-Za-z0-9]{0,9})$", self.images)
        return match.group(1).lower() if match else ""

    @cached_property
    def _pattern(self) -> PathPattern:
        return path_pattern(self._bare(self.images))

    @cached_property
    def _tails(self) -> list[PathPattern]:
        """Ends of the pattern that name all parts of the template, the longest first."""
        folders = self._bare(self.images).split("/")
        needed = set(part_names(str(self.template))) - {"stem"}
        tails = ["/".join(folders[start:]) for start in range(len(folders))]
        return [path_pattern(tail) for tail in tails if needed <= set(part_names(tail))]

    def _described(self) -> str:
        return f"{self.images} (id: {self.id})" if self.id else self.images


DEFAULT = IdRule()


def is_template(text: str) -> bool:
    """Whether an `id` is a template, rather than a regular expression."""
    return "(" not in text


def _fill(template: str, parts: dict[str, str]) -> str:
    for name, text in parts.items():
        template = template.replace(f"{{{name}}}", text)
    return template


def train_rule(comp: Competition) -> IdRule:
    """Return how training images, label tables, groups and folds are named."""
    return IdRule(comp.train.pattern, comp.train.id)


def test_rule(comp: Competition) -> IdRule:
    """Return how the images of the submission are named: the test images, or the hold-out where there are none."""
    test = comp.test or comp.train
    return IdRule(test.pattern, test.id)


test_rule.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test


def ids_of_cells(cells: Sequence[str], rule: IdRule, where: Callable[[int], str]) -> list[str]:
    """Return the ids of a column.

    Args:
        cells: Cells of the column.
        rule: How ids are made.
        where: Function of a row's index that returns its place, for messages.

    Raises:
        SharedIdError: Two paths in different folders become one id.
    """
    ids = [rule.of_cell(cell) for cell in cells]
    if rule.template is not None or rule.id is not None:
        return ids
    folders: dict[str, str] = {}
    for row, (image_id, cell) in enumerate(zip(ids, cells, strict=True)):
        folder = normalize(cell).rpartition("/")[0]
        if folder and folders.setdefault(image_id, folder) != folder:
            raise SharedIdError(
                "Two paths of a table become one id.",
                where=where(row),
                received=f"{folders[image_id]}/{image_id} and {folder}/{image_id}",
                expected="names that are unique without their folder, or a rule that includes the folder",
                do=ADVICE,
            )
    return ids


ADVICE = (
    "Name the folder in competition.yaml, such as images: train/{case}/{slice}.png with id: '{case}_{slice}', or set "
    "id to a regular expression."
)


def reject_shared_ids(names: Iterable[tuple[str, str]], where: object) -> None:
    """Raise if two files have one id.

    Args:
        names: Id and path of each file.
        where: Folder of the files, for the message.
    """
    if shared := shared_ids(names):
        image_id, paths = next(iter(shared.items()))
        raise GatemaskError(
            "Several files have one id.",
            where=where,
            received=f"{len(shared)} such ids, the first {image_id}: {', '.join(paths[:3])}",
            expected="one file per id",
            do=f"Remove copies, or narrow the pattern of the images. If they are different images: {ADVICE}",
        )


def shared_ids(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the paths of each id that several files have.

    Args:
        names: Id and path of each file.
    """
    paths: dict[str, list[str]] = {}
    for image_id, path in names:
        paths.setdefault(image_id, []).append(path)
    return {image_id: several for image_id, several in paths.items() if len(several) > 1}
