"""Write phantom chest X-rays: a competition generated on the spot, learned in minutes.

    raw/train/<patient>/<image>.dcm   raw/test/<image>.dcm     8-bit JPEG DICOM with patient tags
    raw/train-rle.csv                 relative RLE, base 0, column-major; -1 for none; rows shuffled
    raw/sample_submission.csv         each test id once, all empty
    raw/test-rle.csv                  the test truth, which a real competition keeps to itself
    raw/phantom.json                  the stamp

Each patient has their own lungs; a lesion is a bright crescent along the outer edge of one lung. A few images are
MONOCHROME1 (inverted), and some lesions are annotated twice by overlapping parts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from gatemask.config import Phantom, Rle
from gatemask.console import progress
from gatemask.errors import GatemaskError
from gatemask.files import write_bytes, write_text
from gatemask.masks import rle
from gatemask.results.data import PhantomResult
from gatemask.stage import Stage

DIALECT = Rle(offsets="relative", base=0, order="column", empty="-1")
UID_ROOT = "1.2.826.0.1.3680043.10.1338"
MARKER = "phantom-begun"  # written first: only a folder with it is ever emptied


@dataclass(frozen=True)
class PlannedImage:
    """An image before it is drawn.

    Args:
        image_id: DICOM UID.
        patient: Number of the patient, from 1.
        split: "train" or "test".
        positive: Whether it has a lesion.
        inverted: Whether it is stored as MONOCHROME1.
        parts: Number of annotations of the lesion.
        skin_fold: Whether it has a skin fold, which resembles a lesion.
    """

    image_id: str
    patient: int
    split: str
    positive: bool
    inverted: bool
    parts: int
    skin_fold: bool


def make_phantoms(raw: Path, settings: Phantom) -> PhantomResult:
    """Write the competition's raw files; equal settings give equal files.

    Args:
        raw: The raw folder; created, or emptied if it holds other phantoms.
        settings: Section `phantom` of competition.yaml.

    Raises:
        GatemaskError: The folder holds other files; they are left alone.
    """
    stage = Stage("data phantom", raw / "phantom.json", settings.model_dump(), PhantomResult, whole=True)
    others = raw.exists() and any(not path.name.startswith(".") for path in raw.iterdir())
    if others and not ((raw / MARKER).exists() or stage.stamp.exists()):
        raise GatemaskError(
            "The folder for the phantoms holds other files.",
            where=raw,
            do="Move them away, or name another folder as 'raw' in competition.yaml.",
        )
    return stage.run(lambda: _write_competition(raw, settings))


def _write_competition(raw: Path, settings: Phantom) -> tuple[PhantomResult, list[Path]]:
    (raw / MARKER).touch()
    (raw / "phantom.json").unlink(missing_ok=True)
    for folder in ("train", "test"):
        shutil.rmtree(raw / folder, ignore_errors=True)
    plans = list(_plan_images(settings))
    with ThreadPoolExecutor() as pool:
        written = pool.map(lambda plan: _write_image(raw, plan, settings), plans)
        rows = [row for image_rows in progress(written, "phantoms", len(plans)) for row in image_rows]
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    labels = pd.DataFrame([rows[index] for index in order], columns=["split", "ImageId", "EncodedPixels"])
    test_ids = sorted(plan.image_id for plan in plans if plan.split == "test")
    tables = {
        "train-rle.csv": labels[labels["split"] == "train"].drop(columns="split"),
        "test-rle.csv": labels[labels["split"] == "test"].drop(columns="split"),
        "sample_submission.csv": pd.DataFrame({"ImageId": test_ids, "EncodedPixels": "-1"}),
    }
    outputs = [write_text(raw / name, frame.to_csv(index=False, lineterminator="\n")) for name, frame in tables.items()]
    positives = sum(plan.positive for plan in plans if plan.split == "train")
    return PhantomResult(images=settings.images, positives=positives, folder=str(raw)), outputs


def _plan_images(settings: Phantom) -> Iterator[PlannedImage]:
    """Plan patients with one to five images, train and test apart; the share of positives is exact."""
    rng = np.random.default_rng([settings.seed, 1])
    skin_rng = np.random.default_rng([settings.seed, 4])  # its own: the share leaves all else as it was
    patient = 0
    for split, count in (("train", settings.images), ("test", settings.test_images)):
        positive = np.zeros(count, bool)
        positive[: round(count * settings.positives)] = True
        rng.shuffle(positive)
        left = 0
        for index in range(count):
            if left == 0:
                patient, left = patient + 1, int(rng.choice([1, 1, 1, 2, 3, 5]))
            left -= 1
            image_id = f"{UID_ROOT}.{settings.seed}.{patient}.{len(split)}{index:05d}"
            parts = int(rng.choice([1, 1, 1, 2])) if positive[index] else 0
            skin_fold = bool(skin_rng.random() < settings.skin_folds) and not positive[index]
            yield PlannedImage(
                image_id, patient, split, bool(positive[index]), bool(rng.random() < 0.05), parts, skin_fold
            )


def _write_image(raw: Path, plan: PlannedImage, settings: Phantom) -> list[tuple[str, str, str]]:
    """Write one DICOM and return its label rows: split, image id, RLE."""
    number = int(plan.image_id.rsplit(".", 1)[1])
    rng = np.random.default_rng([settings.seed, 2, number])
    image, lesion = draw_phantom(plan.patient, plan.positive, settings.size, settings.seed, rng, plan.skin_fold)
    folder = raw / plan.split / (f"patient{plan.patient:04d}" if plan.split == "train" else "")
    write_bytes(folder / f"{plan.image_id}.dcm", as_dicom(image, plan.image_id, plan.patient, plan.inverted))
    return [(plan.split, plan.image_id, rle.encode(mask, DIALECT)) for mask in _annotations(lesion, plan.parts)]


def _annotations(lesion: np.ndarray, parts: int) -> list[np.ndarray]:
    """Return the lesion as one annotation, or as two that overlap in a band."""
    rows = np.flatnonzero(lesion.any(axis=1))
    if parts < 2 or len(rows) < 8:
        return [lesion]
    upper, lower = lesion.copy(), lesion.copy()
    upper[rows[int(len(rows) * 0.6)] :] = False
    lower[: rows[int(len(rows) * 0.4)]] = False
    return [upper, lower]


def draw_phantom(
    patient: int, positive: bool, size: int, seed: int, rng: np.random.Generator, skin_fold: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one phantom.

    Args:
        patient: Number that decides the anatomy, together with the seed.
        positive: Whether it has a lesion.
        size: Side, in pixels.
        seed: Seed of the competition.
        rng: Generator for everything that differs between images of a patient.

    Returns:
        Image, uint8 (size, size), and lesion, bool (size, size).
    """
    anatomy = np.random.default_rng([seed, 3, patient])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    body = _ellipse(x, y, 0.5, 0.62, 0.46, 0.62) < 1
    image = np.where(body, 0.58, 0.06) + 0.08 * (y - 0.5)
    lungs = []
    for side in (-1, 1):
        cx = 0.5 + side * (0.19 + 0.02 * anatomy.uniform(-1, 1))
        cy = 0.47 + 0.03 * anatomy.uniform(-1, 1)
        rx, ry = 0.135 + 0.015 * anatomy.uniform(-1, 1), 0.31 + 0.03 * anatomy.uniform(-1, 1)
        cx, cy = cx + 0.01 * rng.uniform(-1, 1), cy + 0.01 * rng.uniform(-1, 1)
        lungs.append((side, cx, cy, rx, ry))
        image -= 0.36 * np.clip(1.6 - 1.6 * _ellipse(x, y, cx, cy, rx, ry), 0, 1)
    image += 0.05 * np.clip(np.sin((y + 0.9 * (x - 0.5) ** 2) * 2 * np.pi / 0.085) - 0.55, 0, 1) * body  # ribs
    image += 0.22 * np.clip(1.3 - _ellipse(x, y, 0.54, 0.66, 0.13, 0.13), 0, 1)  # heart
    lesion = np.zeros((size, size), bool)
    if positive or skin_fold:
        lung = lungs[int(rng.integers(2))]
        bright = _crescent(x, y, lung, rng)
        if positive:
            lesion = bright
        else:
            bright = bright | _below_lung(x, y, lung)
        image += rng.uniform(0.24, 0.4) * cv2.GaussianBlur(bright.astype(np.float32), (0, 0), size / 160)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (size, size)).astype(np.float32), (0, 0), size / 200)
    image = (image + 0.035 * noise) * rng.uniform(0.85, 1.1) + rng.uniform(-0.03, 0.05)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), lesion


def _ellipse(x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    """Return the squared distance from the center in units of the radii: 1 on the edge."""
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2


def _crescent(
    x: np.ndarray, y: np.ndarray, lung: tuple[int, float, float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """Return what the lung uncovers of its outline when it sinks inward and down."""
    side, cx, cy, rx, ry = lung
    inward, down = rng.uniform(0.04, 0.075), rng.uniform(0.02, 0.09)
    outside = _ellipse(x, y, cx, cy, rx, ry) < 1
    return outside & (_ellipse(x, y, cx - side * inward, cy + down, rx * 0.98, ry * 0.98) > 1) & (y < cy + ry * 0.7)


def _below_lung(x: np.ndarray, y: np.ndarray, lung: tuple[int, float, float, float, float]) -> np.ndarray:
    """Return the part that gives a skin fold away: unlike the edge of a collapsed lung, it continues below the lung."""
    side, cx, cy, rx, ry = lung
    return (np.abs(x - (cx + side * 0.85 * rx)) < 0.03) & (y > cy + 0.4 * ry)


def as_dicom(image: np.ndarray, image_id: str, patient: int, inverted: bool) -> bytes:
    """Return a DICOM file: JPEG Baseline, 8 bits.

    Args:
        image: uint8 (height, width).
        image_id: DICOM UID.
        patient: Number of the patient; decides sex and age, too.
        inverted: Whether to store it as MONOCHROME1 instead of MONOCHROME2.
    """
    from io import BytesIO

    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ComputedRadiographyImageStorage, JPEGBaseline8Bit

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = image_id
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, image_id
    dataset.PatientID = dataset.PatientName = f"phantom{patient:04d}"
    dataset.PatientSex, dataset.PatientAge = "FM"[patient % 2], f"{20 + patient * 7 % 60:03d}Y"
    dataset.Modality, dataset.ViewPosition = "CR", "PA"
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    jpeg = cv2.imencode(".jpg", 255 - image if inverted else image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    dataset.PixelData = encapsulate([jpeg])
    dataset["PixelData"].VR = "OB"
    dataset.LossyImageCompression = "01"
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
