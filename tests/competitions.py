"""Small generated competitions, each with a layout of its own, and a scorer that shares no code with gatemask.

Each function writes the raw files of a competition and returns how to call `gatemask new`, and how to score a
submission. Images are drawn so that a network can learn them within seconds: objects are brighter than the background.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

Mask = np.ndarray
Planes = dict[str, Mask]  # mask, bool (height, width), by class
Size = tuple[int, int]


@dataclass
class Truth:
    """Masks of some images.

    Args:
        planes: Masks by image id and class.
        objects: Masks of single objects by image id; empty where objects do not count.
        ignored: Pixels that do not count by image id; empty where all do.
    """

    planes: dict[str, Planes] = field(default_factory=dict)
    objects: dict[str, list[Mask]] = field(default_factory=dict)
    ignored: dict[str, Mask] = field(default_factory=dict)

    def of(self, image_ids: Iterable[str]) -> Truth:
        """Return the truth of some of the images."""
        ids = set(image_ids)
        return Truth(
            *({i: one for i, one in part.items() if i in ids} for part in (self.planes, self.objects, self.ignored))
        )


@dataclass
class Generated:
    """A generated competition.

    Args:
        options: Arguments of `gatemask new` behind the name.
        expected: Keys of competition.yaml, with dots, and their values.
        score: Scores a submission file of some images, given their truth.
        train: Truth of the training images.
        test: Truth of the test images; empty where there are none, and a hold-out fold takes their place.
        test_labels: What `test.labels` of competition.yaml would be: files with this truth lie beside the others.
    """

    options: list[str]
    expected: dict[str, object]
    score: Callable[[Path, Truth], float]
    train: Truth
    test: Truth
    test_labels: dict[str, object] = field(default_factory=dict)


# --- pictures --------------------------------------------------------------------------------------------------


def blob(rng: np.random.Generator, size: Size, radius: tuple[float, float]) -> Mask:
    """Return the mask of one ellipse, bool (height, width); every fifth touches an edge of the image."""
    height, width = size
    center = [int(rng.integers(0, width)), int(rng.integers(0, height))]
    if rng.random() < 0.2:
        center[int(rng.integers(2))] = 0
    axes = [max(1, int(rng.uniform(*radius))) for _ in range(2)]
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return mask > 0


def picture(rng: np.random.Generator, size: Size, masks: Sequence[Mask], levels: Sequence[Sequence[int]]) -> Mask:
    """Return an image, uint8 (height, width, 3): noise, and each mask in a color of its own."""
    image = rng.integers(10, 50, (*size, 3)).astype(np.float32)
    for mask, level in zip(masks, levels, strict=True):
        image[mask] = 0.3 * image[mask] + np.array(level, np.float32)
    return np.clip(cv2.GaussianBlur(image, (3, 3), 0), 0, 255).astype(np.uint8)


COLORS = [(200, 60, 60), (60, 200, 60), (60, 60, 220), (200, 200, 60)]


def draw(
    rng: np.random.Generator, size: Size, classes: Sequence[str], presence: float, radius: tuple[float, float] = (8, 20)
) -> tuple[Mask, dict[str, Mask]]:
    """Return an image and the masks of its classes, without overlap.

    Args:
        rng: Source of randomness.
        size: Height and width, in pixels.
        classes: Names of the classes.
        presence: Probability that an image has a class.
        radius: Smallest and largest radius of an object, in pixels.
    """
    free = np.ones(size, bool)
    masks: dict[str, Mask] = {}
    for name in classes:
        mask = np.zeros(size, bool)
        if rng.random() < presence:
            for _ in range(int(rng.integers(1, 3))):
                mask |= blob(rng, size, radius) & free
        masks[name] = mask
        free &= ~cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return picture(rng, size, list(masks.values()), COLORS[: len(classes)]), masks


# --- run-length encodings, written from their definition -------------------------------------------------------


def encode(mask: Mask, base: int = 1, order: str = "column", relative: bool = False) -> str:
    """Return the run-length encoding of a mask."""
    flat = mask.T.ravel() if order == "column" else mask.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(np.int8), [0]])))
    numbers: list[int] = []
    end = 0
    for start, stop in edges.reshape(-1, 2).tolist():
        numbers += [start - end if relative else start + base, stop - start]
        end = stop
    return " ".join(map(str, numbers))


def decode(text: str, size: Size, base: int = 1, order: str = "column", relative: bool = False) -> Mask:
    """Return the mask of a run-length encoding; no numbers, or -1, mean that it is empty."""
    flat = np.zeros(size[0] * size[1], bool)
    numbers = [int(word) for word in text.split()]
    if numbers in ([], [-1]):
        return flat.reshape(size)
    end = 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        first = end + start if relative else start - base
        assert first >= 0
        assert first + length <= flat.size
        flat[first : first + length] = True
        end = first + length
    return flat.reshape(size[::-1]).T if order == "column" else flat.reshape(size)


# --- scores ----------------------------------------------------------------------------------------------------


def dice(predicted: Mask, truth: Mask, ignored: Mask | None = None) -> float:
    """Return the Dice of two masks, 1 if both are empty; pixels that are ignored count nowhere."""
    if ignored is not None:
        predicted, truth = predicted & ~ignored, truth & ~ignored
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def mean_dice(predicted: dict[str, Planes], truth: Truth) -> float:
    """Return the mean over images and classes."""
    assert set(predicted) == set(truth.planes), "rows are missing"
    return float(
        np.mean(
            [
                dice(predicted[i][name], mask, truth.ignored.get(i))
                for i, planes in truth.planes.items()
                for name, mask in planes.items()
            ]
        )
    )


def object_precision(predicted: Mapping[str, list[Mask]], truth: Mapping[str, list[Mask]]) -> float:
    """Return the mean over images of the mean over IoU thresholds of TP / (TP + FP + FN), as in DSB 2018."""
    scores = []
    for image_id, objects in truth.items():
        found = predicted[image_id]
        if not objects or not found:
            scores.append(float(not objects and not found))
            continue
        iou = np.array([[(a & b).sum() / (a | b).sum() for b in found] for a in objects])
        worths = []
        for threshold in np.arange(0.5, 1.0, 0.05):
            hits = int((iou > threshold).sum())
            worths.append(hits / (len(objects) + len(found) - hits))
        scores.append(float(np.mean(worths)))
    return float(np.mean(scores))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        csv.field_size_limit(1 << 30)
        return list(csv.DictReader(file))


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def score_table(
    key: Callable[[Mapping[str, str]], tuple[str, str]], column: str = "EncodedPixels", **dialect: object
) -> Callable[[Path, Truth], float]:
    """Return a scorer of tables with one row per image, or per image and class.

    Args:
        key: Returns image id and class of a row.
        column: Column of masks.
        dialect: Arguments of `decode`.
    """

    def score(path: Path, truth: Truth) -> float:
        found: dict[str, Planes] = {}
        for row in read_csv(path):
            image_id, name = key(row)
            planes = found.setdefault(image_id, {})
            assert name not in planes, f"{image_id} {name} has two rows"
            height, width = truth.planes[image_id][name].shape
            planes[name] = decode(row[column], (height, width), **dialect)  # type: ignore[arg-type]
        return mean_dice(found, truth)

    return score


def arguments(raw: Path, **options: str) -> list[str]:
    """Return options of `gatemask new`, with paths below the raw folder, and --yes."""
    return [word for name, path in options.items() for word in (f"--{name}", str(raw / path))] + ["--yes"]


def save(path: Path, image: Mask) -> None:
    """Write an image, red, green and blue in this order if it has colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image[:, :, ::-1] if image.ndim == 3 else image
    assert cv2.imwrite(str(path), stored, [cv2.IMWRITE_JPEG_QUALITY, 98] if path.suffix == ".jpg" else [])


def seeded(name: str) -> np.random.Generator:
    """Return the source of randomness of a competition."""
    return np.random.default_rng(list(name.encode()))


ONE = "object"  # the class where there is only one


# --- competitions ----------------------------------------------------------------------------------------------


def gray_16_bits(raw: Path, images: int = 30, tests: int = 8) -> Generated:
    """101 x 101 px of 16 bits, 1-based absolute encodings down the columns, blank cells for empty masks."""
    rng = seeded("gray")
    parts = {"train": Truth(), "test": Truth()}
    for split, count in (("train", images), ("test", tests)):
        for number in range(count):
            image, masks = draw(rng, (101, 101), [ONE], 0.65)
            name = f"{split[:2]}{rng.integers(16**8):08x}{number}"
            levels = image.mean(axis=2).astype(np.uint16) * 257
            save(raw / split / "images" / f"{name}.png", levels)
            parts[split].planes[name] = masks
    for split, file in (("train", "train.csv"), ("test", "solution.csv")):
        rows = [[name, encode(planes[ONE])] for name, planes in parts[split].planes.items()]
        write_csv(raw / file, ["id", "rle_mask"], rows)
    write_csv(raw / "sample_submission.csv", ["id", "rle_mask"], [[name, "1 1"] for name in parts["test"].planes])
    return Generated(
        arguments(raw, images="train/images", labels="train.csv", test="test/images", sample="sample_submission.csv"),
        {
            "image.size": (101, 101),
            "image.channels": 1,
            "train.images": "train/images/*.png",
            "test.images": "test/images/*.png",
            "labels.format": "rle",
            "labels.id": "id",
            "labels.mask": "rle_mask",
            "labels.rle.offsets": "absolute",
            "labels.rle.base": 1,
            "labels.rle.order": "column",
            "labels.rle.empty": "",
            "submission.mask": "rle_mask",
            "submission.sample": "sample_submission.csv",
            "metric": "mean_dice",
        },
        score_table(lambda row: (row["id"], ONE), "rle_mask"),
        **parts,
        test_labels={"format": "rle", "file": "solution.csv", "id": "id", "mask": "rle_mask"},
    )


def _joined(
    raw: Path, classes: Sequence[str], column: str, name: str, images: int, tests: int, size: Size
) -> Generated:
    """Four classes, each with a row of its own whose id ends with the class."""
    rng = seeded(name)
    parts = {"train": Truth(), "test": Truth()}
    for split, count in (("train", images), ("test", tests)):
        for _ in range(count):
            image, masks = draw(rng, size, classes, 0.5)
            image_id = f"{rng.integers(16**9):09x}"
            save(raw / f"{split}_images" / f"{image_id}.jpg", image)
            parts[split].planes[image_id] = masks
    for split, file in (("train", "train.csv"), ("test", "solution.csv"), ("test", "sample_submission.csv")):
        sample = file.startswith("sample")
        rows = [
            [f"{image_id}.jpg_{label}", "" if sample else encode(mask)]
            for image_id, planes in parts[split].planes.items()
            for label, mask in planes.items()
        ]
        write_csv(raw / file, [column, "EncodedPixels"], rows)

    def key(row: Mapping[str, str]) -> tuple[str, str]:
        image, _, label = row[column].partition(".jpg_")
        return image, label

    return Generated(
        arguments(raw, images="train_images", labels="train.csv", test="test_images", sample="sample_submission.csv"),
        {
            "image.size": size,
            "image.channels": 3,
            "classes": list(classes),
            "labels.id": column,
            "labels.joined": "{id}_{class}",
            "labels.rle.base": 1,
            "submission.joined": "{id}_{class}",
            "submission.id": column,
            "exclusive": True,
            "metric": "mean_dice",
        },
        score_table(key),
        **parts,
        test_labels={"format": "rle", "file": "solution.csv", "id": column, "joined": "{id}_{class}"},
    )


def image_and_class_id(raw: Path, images: int = 32, tests: int = 8) -> Generated:
    """Four numbered classes as ImageId_ClassId, oblong images."""
    return _joined(raw, ["1", "2", "3", "4"], "ImageId_ClassId", "numbered", images, tests, (64, 128))


def image_and_label(raw: Path, images: int = 32, tests: int = 8) -> Generated:
    """Four named classes as Image_Label."""
    return _joined(raw, ["Fish", "Flower", "Gravel", "Sugar"], "Image_Label", "named", images, tests, (96, 96))


def class_column(raw: Path, images: int = 32, tests: int = 8) -> Generated:
    """A column names the class; only masks that are not empty have a row."""
    rng = seeded("column")
    classes = ["1", "2", "3"]
    parts = {"train": Truth(), "test": Truth()}
    for split, count in (("train", images), ("test", tests)):
        for number in range(count):
            image, masks = draw(rng, (96, 96), classes, 0.45)
            image_id = f"{split}-{number:04d}"
            save(raw / split / f"{image_id}.jpg", image)
            parts[split].planes[image_id] = masks
    for split, file in (("train", "train.csv"), ("test", "solution.csv")):
        rows = [
            [f"{image_id}.jpg", label, encode(mask)]
            for image_id, planes in parts[split].planes.items()
            for label, mask in planes.items()
            if mask.any()
        ]
        write_csv(raw / file, ["ImageId", "ClassId", "EncodedPixels"], rows)
    every = [[f"{image_id}.jpg", label, ""] for image_id in parts["test"].planes for label in classes]
    write_csv(raw / "sample_submission.csv", ["ImageId", "ClassId", "EncodedPixels"], every)
    return Generated(
        arguments(raw, images="train", labels="train.csv", test="test", sample="sample_submission.csv"),
        {
            "classes": classes,
            "labels.id": "ImageId",
            "labels.class_column": "ClassId",
            "labels.missing": "empty",
            "submission.class_column": "ClassId",
            "metric": "mean_dice",
        },
        score_table(lambda row: (row["ImageId"].removesuffix(".jpg"), row["ClassId"])),
        **parts,
        test_labels={"format": "rle", "file": "solution.csv", "class_column": "ClassId", "missing": "empty"},
    )


def mixed_sizes(raw: Path, images: int = 32) -> Generated:
    """JPEGs of mixed size and shape with PNG masks that have a suffix; no test images."""
    rng = seeded("mixed")
    truth = Truth()
    for number in range(images):
        size = int(rng.integers(60, 140)), int(rng.integers(60, 140))
        image, masks = draw(rng, size, [ONE], 0.7)
        save(raw / "photos" / f"photo{number:03d}.jpg", image)
        save(raw / "masks" / f"photo{number:03d}_mask.png", masks[ONE].astype(np.uint8) * 255)
        truth.planes[f"photo{number:03d}"] = masks
    return Generated(
        arguments(raw, images="photos", labels="masks"),
        {
            "image.size": "mixed",
            "image.fit": "pad",
            "image.channels": 3,
            "train.images": "photos/*.jpg",
            "labels.format": "png",
            "labels.masks": "masks/{id}_mask.png",
            "folds.holdout": True,
            "metric": "mean_dice",
        },
        score_table(lambda row: (row["ImageId"], ONE)),
        truth,
        Truth(),
    )


def large_images(raw: Path, images: int = 8) -> Generated:
    """2,048 px with objects of about 14 px; no test images."""
    rng = seeded("large")
    truth = Truth()
    for number in range(images):
        background = cv2.resize(rng.integers(20, 70, (64, 64, 3)).astype(np.uint8), (2048, 2048))
        mask = np.zeros((2048, 2048), np.uint8)
        for _ in range(60 if number % 4 else 0):
            center = [int(value) for value in rng.integers(0, 2048, 2)]
            cv2.circle(mask, center, int(rng.integers(6, 9)), 1, -1)
        background[mask > 0] = (230, 210, 120)
        save(raw / "images" / f"scan_{number:02d}.jpg", background)
        save(raw / "masks" / f"scan_{number:02d}.png", mask * 255)
        truth.planes[f"scan_{number:02d}"] = {ONE: mask > 0}
    return Generated(
        arguments(raw, images="images", labels="masks"),
        {
            "image.size": (2048, 2048),
            "labels.masks": "masks/{id}.png",
            "tiles.size": 512,
            "tiles.overlap": 64,
            "tiles.scale": 1.0,
            "folds.holdout": True,
        },
        score_table(lambda row: (row["ImageId"], ONE)),
        truth,
        Truth(),
    )


def touching_objects(raw: Path, images: int = 30, tests: int = 8) -> Generated:
    """Touching objects, one row per object; an image without objects has one row with a blank mask."""
    rng = seeded("touching")
    parts = {"train": Truth(), "test": Truth()}
    for split, count in (("train", images), ("test", tests)):
        for number in range(count):
            objects: list[Mask] = []
            taken = np.zeros((96, 96), bool)
            for _ in range(int(rng.integers(2, 6)) if number % 6 else 0):
                center = [int(value) for value in rng.integers(15, 80, 2)]
                for shift in (0, 18):  # two circles that touch
                    one = np.zeros((96, 96), np.uint8)
                    cv2.circle(one, (center[0] + shift, center[1]), 9, 1, -1)
                    mask = (one > 0) & ~taken
                    if mask.sum() > 100 and cv2.connectedComponents(mask.astype(np.uint8))[0] == 2:
                        objects.append(mask)
                        taken |= mask
            image = picture(rng, (96, 96), objects, [(200, 80, 160)] * len(objects))
            image_id = f"{split}{number:03d}"
            save(raw / split / f"{image_id}.png", image)
            parts[split].planes[image_id] = {ONE: taken}
            parts[split].objects[image_id] = objects
    for split, file in (("train", "train_rle.csv"), ("test", "solution.csv")):
        rows = [
            [image_id, encode(mask)]
            for image_id, objects in parts[split].objects.items()
            for mask in objects or [np.zeros((96, 96), bool)]
        ]
        write_csv(raw / file, ["ImageId", "EncodedPixels"], rows)
    write_csv(raw / "sample_submission.csv", ["ImageId", "EncodedPixels"], [[i, ""] for i in parts["test"].planes])

    def score(path: Path, truth: Truth) -> float:
        found: dict[str, list[Mask]] = {image_id: [] for image_id in truth.objects}
        for row in read_csv(path):
            mask = decode(row["EncodedPixels"], (96, 96))
            assert not any((mask & other).any() for other in found[row["ImageId"]]), "objects overlap"
            found[row["ImageId"]] += [mask] if mask.any() else []
        return object_precision(found, truth.objects)

    return Generated(
        arguments(raw, images="train", labels="train_rle.csv", test="test", sample="sample_submission.csv"),
        {
            "metric": "object_precision",
            "objects.touching": "watershed",
            "objects.border": True,
            "submission.rows": "object",
            "classes": [ONE],
        },
        score,
        **parts,
        test_labels={"format": "rle", "file": "solution.csv"},
    )


def overlapping_classes(raw: Path, images: int = 30) -> Generated:
    """Two classes that overlap, each with a folder of masks; no test images."""
    rng = seeded("overlapping")
    truth = Truth()
    for number in range(images):
        organ = blob(rng, (96, 96), (20, 30)) if number % 5 else np.zeros((96, 96), bool)
        lesion = blob(rng, (96, 96), (8, 14)) if number % 3 else np.zeros((96, 96), bool)
        if organ.any() and lesion.any():  # part of it lies inside
            ys, xs = np.nonzero(organ)
            lesion = np.roll(lesion, (int(ys.mean()) - 48, int(xs.mean()) - 48), (0, 1)) | (organ & lesion)
        image = picture(rng, (96, 96), [organ, lesion], [(120, 60, 60), (60, 200, 60)])
        image_id = f"x{number:03d}"
        save(raw / "images" / f"{image_id}.png", image)
        truth.planes[image_id] = {"lesion": lesion, "organ": organ}
        for name, mask in truth.planes[image_id].items():
            save(raw / "masks" / name / f"{image_id}.png", mask.astype(np.uint8) * 255)

    def key(row: Mapping[str, str]) -> tuple[str, str]:
        image_id, _, name = row["ImageId"].rpartition("_")
        return image_id, name

    return Generated(
        arguments(raw, images="images", labels="masks"),
        {
            "classes": ["lesion", "organ"],
            "exclusive": False,
            "labels.masks": "masks/{class}/{id}.png",
            "submission.joined": "{id}_{class}",
            "folds.holdout": True,
        },
        score_table(key),
        truth,
        Truth(),
    )


def no_empty_image(raw: Path, images: int = 30) -> Generated:
    """Every image has a mask, so there is nothing for a gate to decide; no test images."""
    rng = seeded("full")
    truth = Truth()
    for number in range(images):
        image, masks = draw(rng, (96, 96), [ONE], 1.0, (10, 22))
        if not masks[ONE].any():
            masks[ONE][40:60, 40:60] = True
        save(raw / "images" / f"n{number:03d}.png", image)
        save(raw / "masks" / f"n{number:03d}.png", masks[ONE].astype(np.uint8) * 255)
        truth.planes[f"n{number:03d}"] = masks
    return Generated(
        arguments(raw, images="images", labels="masks"),
        {"labels.masks": "masks/{id}.png", "metric": "mean_dice", "folds.holdout": True},
        score_table(lambda row: (row["ImageId"], ONE)),
        truth,
        Truth(),
    )


def two_files_per_image(raw: Path, images: int = 30) -> Generated:
    """Each image is a red and a green file of one channel; no test images."""
    rng = seeded("channels")
    truth = Truth()
    for _ in range(images):
        image, masks = draw(rng, (96, 96), [ONE], 0.7)
        image_id = f"{rng.integers(16**8):08x}"
        save(raw / "images" / f"{image_id}_green.png", image[:, :, 1])
        save(raw / "images" / f"{image_id}_red.png", image[:, :, 0])
        save(raw / "masks" / f"{image_id}.png", masks[ONE].astype(np.uint8) * 255)
        truth.planes[image_id] = masks
    return Generated(
        arguments(raw, images="images", labels="masks"),
        {
            "train.images": {"green": "images/{id}_green.png", "red": "images/{id}_red.png"},
            "image.channels": 2,
            "labels.masks": "masks/{id}.png",
            "records.format": "png",
        },
        score_table(lambda row: (row["ImageId"], ONE)),
        truth,
        Truth(),
    )


def slices(raw: Path, cases: int = 10, tests: int = 3, depth: int = 6) -> Generated:
    """Numbered slices of volumes, whose ids need their folder."""
    rng = seeded("slices")
    parts = {"train": Truth(), "test": Truth()}
    for split, count in (("train", cases), ("test", tests)):
        for case in range(count):
            texture = cv2.resize(rng.integers(10, 120, (12, 12)).astype(np.uint8), (80, 80))
            center = [int(value) for value in rng.integers(20, 60, 2)]
            radius = int(rng.integers(10, 16))
            for number in range(1, depth + 1):
                mask = np.zeros((80, 80), np.uint8)
                inside = radius - 5 * abs(number - (depth + 1) // 2)
                if inside > 3:
                    cv2.circle(mask, center, inside, 1, -1)
                noise = rng.integers(0, 12, (80, 80))
                image = np.where(mask > 0, 220, texture) + noise
                folder, file = f"case{case + (100 if split == 'test' else 0):03d}", f"slice_{number:04d}"
                save(raw / split / folder / f"{file}.png", np.clip(image, 0, 255).astype(np.uint8))
                parts[split].planes[f"{folder}_{file}"] = {ONE: mask > 0}
    for split, file in (("train", "train.csv"), ("test", "solution.csv")):
        rows = [[image_id, encode(planes[ONE])] for image_id, planes in parts[split].planes.items()]
        write_csv(raw / file, ["id", "segmentation"], rows)
    write_csv(raw / "sample_submission.csv", ["id", "segmentation"], [[i, ""] for i in parts["test"].planes])
    return Generated(
        arguments(raw, images="train", labels="train.csv", test="test", sample="sample_submission.csv"),
        {
            "train.images": "train/{case}/slice_{number}.png",
            "train.id": "{case}_slice_{number}",
            "train.stack.by": "number",
            "train.stack.around": 1,
            "test.images": "test/{case}/slice_{number}.png",
            "test.id": "{case}_slice_{number}",
            "test.stack.by": "number",
            "image.channels": 3,
            "groups.regex": "^(.+)_slice_[0-9]+",
        },
        score_table(lambda row: (row["id"], ONE), "segmentation"),
        **parts,
        test_labels={"format": "rle", "file": "solution.csv", "id": "id", "mask": "segmentation"},
    )


def wide_table(raw: Path, images: int = 30, tests: int = 8) -> Generated:
    """One column of masks per class, relative offsets from 0, -1 for empty masks."""
    rng = seeded("wide")
    classes = ["kidney", "liver", "spleen"]
    header = ["image", *(f"{name}_rle" for name in classes)]
    parts = {"train": Truth(), "test": Truth()}
    for split, count in (("train", images), ("test", tests)):
        for number in range(count):
            image, masks = draw(rng, (96, 96), classes, 0.6)
            image_id = f"w{split}{number:03d}"
            save(raw / split / f"{image_id}.png", image)
            parts[split].planes[image_id] = masks
    for split, file in (("train", "train.csv"), ("test", "solution.csv"), ("test", "sample.csv")):
        rows = [
            [i, *("-1" if file == "sample.csv" else encode(m, relative=True) or "-1" for m in planes.values())]
            for i, planes in parts[split].planes.items()
        ]
        write_csv(raw / file, header, rows)
    columns = dict(zip(classes, header[1:], strict=True))

    def score(path: Path, truth: Truth) -> float:
        found = {
            row["image"]: {name: decode(row[column], (96, 96), relative=True) for name, column in columns.items()}
            for row in read_csv(path)
        }
        return mean_dice(found, truth)

    rle = {"offsets": "relative", "base": 0, "order": "column", "empty": "-1"}
    return Generated(
        arguments(raw, images="train", labels="train.csv", test="test", sample="sample.csv"),
        {
            "classes": classes,
            "labels.columns": columns,
            "labels.id": "image",
            **{f"labels.rle.{key}": value for key, value in rle.items()},
            "submission.columns": columns,
            "submission.id": "image",
            "submission.rle.empty": "-1",
        },
        score,
        **parts,
        test_labels={"format": "rle", "file": "solution.csv", "id": "image", "columns": columns, "rle": rle},
    )


def index_masks(raw: Path, images: int = 30) -> Generated:
    """Masks whose values are classes, with a rim of ignored pixels; no test images."""
    rng = seeded("index")
    truth = Truth()
    for number in range(images):
        image, masks = draw(rng, (96, 96), ["class1", "class2"], 0.7)
        union = np.any(list(masks.values()), axis=0).astype(np.uint8)
        rim = (cv2.dilate(union, np.ones((5, 5), np.uint8)) > 0) & (union == 0)
        index = masks["class1"] + 2 * masks["class2"].astype(np.uint8)
        save(raw / "images" / f"v{number:03d}.jpg", image)
        save(raw / "labels" / f"v{number:03d}.png", np.where(rim, 255, index).astype(np.uint8))
        truth.planes[f"v{number:03d}"] = masks
        truth.ignored[f"v{number:03d}"] = rim

    def key(row: Mapping[str, str]) -> tuple[str, str]:
        image_id, _, name = row["ImageId"].rpartition("_")
        return image_id, name

    return Generated(
        arguments(raw, images="images", labels="labels"),
        {
            "classes": ["class1", "class2"],
            "labels.values": {"class1": 1, "class2": 2},
            "labels.ignore": [255],
            "exclusive": True,
            "submission.joined": "{id}_{class}",
        },
        score_table(key),
        truth,
        Truth(),
    )


ALL: dict[str, Callable[[Path], Generated]] = {
    one.__name__: one
    for one in (
        gray_16_bits,
        image_and_class_id,
        image_and_label,
        class_column,
        mixed_sizes,
        large_images,
        touching_objects,
        overlapping_classes,
        no_empty_image,
        two_files_per_image,
        slices,
        wide_table,
        index_masks,
    )
}
