"""Open each raw image once: check it, hash it, and read its DICOM tags."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gatemask.config import Competition, Picture
from gatemask.console import progress
from gatemask.data.duplicates import NO_SIGNATURE, Signature, compute_signature
from gatemask.data.image_files import ImageFile, ImageFiles
from gatemask.data.readers import read_tags
from gatemask.data.sources import inspect_source, own_pixels
from gatemask.data.stored import ImageFacts
from gatemask.errors import GatemaskError, StorageError, nearest

Problems = list[tuple[str, str]]  # file, complaint


@dataclass
class ScannedImage:
    """An image of the manifest, as far as it is known.

    Args:
        image_id: Id of the image.
        split: "train" or "test".
        path: File relative to the raw folder; "" where only the label is available.
        sha256: Hash of the file; of several files, one for all.
        signature: Features by which copies are recognized.
        tags: DICOM tags by name.
        label: 1 if it has a mask, else 0.
        mask_area: Area of the mask, in pixels.
        group: Name of its group.
        extra: Further columns of the manifest.
        facts: Facts about the file; None where only the label is available.
        size: Height and width, in pixels; None where only the label is available.
        classes: Indices of the classes that it has.
    """

    image_id: str
    split: str
    path: str = ""
    sha256: str = ""
    signature: Signature = NO_SIGNATURE
    tags: dict[str, str] = field(default_factory=dict)
    label: int = 0
    mask_area: int = 0
    group: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    facts: ImageFacts | None = None
    size: tuple[int, int] | None = None
    classes: list[int] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Split and id: training and test may share an id."""
        return f"{self.split}/{self.image_id}"


def check_tags(comp: Competition) -> None:
    """Raise if a wanted tag does not exist in DICOM, before thousands of files are searched for it."""
    if not (wanted := _wanted_tags(comp)):
        return
    from pydicom import datadict

    for tag in wanted:
        if datadict.tag_for_keyword(tag) is None:
            close = nearest(tag, (str(entry[4]) for entry in datadict.DicomDictionary.values()))
            raise GatemaskError(
                f"Unknown DICOM tag '{tag}'.",
                where="groups.dicom or extra.dicom in competition.yaml",
                do=f"Did you mean '{close}'?" if close else None,
            )


def _wanted_tags(comp: Competition) -> list[str]:
    return [*([comp.groups.dicom] if comp.groups.dicom else []), *comp.extra.dicom]


def scan_images(files: ImageFiles, comp: Competition) -> tuple[list[ScannedImage], Problems]:
    """Open each image once; a bad file becomes a problem and never ends the run.

    Args:
        files: The images, each with an id of its own.
        comp: competition.yaml.
    """

    def scan(item: tuple[ImageFile, str]) -> ScannedImage | GatemaskError:
        try:
            return _scan_image(*item, comp)
        except StorageError:  # of the machine: the file may be sound
            raise
        except GatemaskError as error:
            return error

    images: list[ScannedImage] = []
    problems: Problems = []
    with ThreadPoolExecutor() as pool:
        scanned = progress(pool.map(scan, files.all), "scanning", len(files.all))
        for (file, _), image in zip(files.all, scanned, strict=True):
            if isinstance(image, GatemaskError):
                problems.append((file.name, _complaint(image, file)))
            else:
                images.append(image)
    return images, problems


def _complaint(error: GatemaskError, file: ImageFile) -> str:
    """Return an error in one line, which names the file unless it is the image's own."""
    where = error.details["where"]
    beside = where != file.path and where in file.source.files
    return f"{error.short()} ({where})" if beside else error.short()


def _scan_image(file: ImageFile, split: str, comp: Competition) -> ScannedImage:
    source, picture = file.source, comp.image
    pixels, facts = inspect_source(source, picture)
    if picture.size not in ("mixed", pixels.shape[:2]):
        raise wrong_size(pixels.shape[:2], picture, facts)
    tags = _wanted_tags(comp)
    return ScannedImage(
        file.image_id,
        split,
        file.name,
        _hash_of(source.own_files),
        compute_signature(own_pixels(pixels, source)),
        dict(zip(tags, read_tags(file.path, tags), strict=True)) if tags else {},
        facts=facts,
        size=(pixels.shape[0], pixels.shape[1]),
    )


def _hash_of(paths: Sequence[Path]) -> str:
    """Return the hash of a file, or one that stands for several."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def wrong_size(size: tuple[int, ...], picture: Picture, facts: ImageFacts) -> GatemaskError:
    """Return the error for an image of another size; one that lies on its side gets a hint.

    Args:
        size: Height and width of the image, in pixels.
        picture: Section `image` of competition.yaml.
        facts: Facts about the file.
    """
    received = str(tuple(size))
    if facts.orientation >= 5 and size[::-1] == picture.size:
        other = "stored" if picture.upright else "upright"
        received += f", which image.orientation: {other} would turn to {picture.size}"
    do = "If images differ in size, set image.size: mixed in competition.yaml."
    return GatemaskError("An image has the wrong size.", received=received, expected=picture.size, do=do)
