"""Open each raw image once: check it, hash it, and read its DICOM tags."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from gatemask.config import Competition, Picture
from gatemask.console import progress
from gatemask.data.duplicates import NO_SIGNATURE, Signature, compute_signature
from gatemask.data.image_files import ImageFile, ImageFiles
from gatemask.data.readers import inspect_image, read_tags
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
        sha256: Hash of the file.
        signature: Features by which copies are recognized.
        tags: DICOM tags by name.
        label: 1 if it has a mask, else 0.
        mask_area: Area of the mask, in pixels.
        group: Name of its group.
        extra: Further columns of the manifest.
        facts: Facts about the file; None where only the label is available.
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
                problems.append((file.name, image.short()))
            else:
                images.append(image)
    return images, problems


def _scan_image(file: ImageFile, split: str, comp: Competition) -> ScannedImage:
    path, picture = file.path, comp.image
    pixels, facts = inspect_image(path, picture.channels, picture.window, picture.upright)
    if pixels.shape[:2] != picture.size:
        raise wrong_size(pixels.shape[:2], picture, facts)
    tags = _wanted_tags(comp)
    return ScannedImage(
        file.image_id,
        split,
        file.name,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        compute_signature(pixels),
        dict(zip(tags, read_tags(path, tags), strict=True)) if tags else {},
        facts=facts,
    )


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
    return GatemaskError("An image has the wrong size.", received=received, expected=picture.size)
