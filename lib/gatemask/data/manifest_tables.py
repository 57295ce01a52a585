"""Write the tables of `gatemask data prepare`, and the list of what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gatemask.config import MANIFEST_COLUMNS, Competition
from gatemask.console import table
from gatemask.data.annotations import Annotations
from gatemask.data.parsed_labels import ParsedLabels
from gatemask.data.scan import Problems, ScannedImage
from gatemask.data.truth import write_masks
from gatemask.errors import GatemaskError
from gatemask.files import write_text


def write_problems(problems: Problems, path: Path, strict: bool) -> None:
    frame = pd.DataFrame(problems, columns=["file", "problem"])
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))
    if not problems:
        return
    table(f"{len(problems)} left out (all of them: {path})", ["file", "problem"], problems[:10])
    if strict:
        raise unusable(len(problems), path)


def unusable(count: int, path: Path) -> GatemaskError:
    return GatemaskError("Some files cannot be used.", where=path, received=count, do="Fix them, or drop --strict.")


def write_tables(
    folder: Path,
    comp: Competition,
    images: list[ScannedImage],
    labels: ParsedLabels,
    truth: Annotations | None,
    copies: Sequence[tuple[ScannedImage, ScannedImage, str]],
) -> list[Path]:
    several = len(comp.classes) > 1
    rows = [
        [
            image.image_id,
            image.path,
            image.split,
            image.group,
            image.label,
            image.mask_area,
            *_size_of(image, comp),
            image.sha256,
            image.signature.phash,
            *([" ".join(map(str, image.classes))] if several else []),
            *(image.extra[name] for name in comp.extra.names),
        ]
        for image in images
    ]
    columns = [*MANIFEST_COLUMNS, *(["classes"] if several else []), *comp.extra.names]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.sort_values(["split", "image_id"], ascending=[False, True])
    train_ids = {image.image_id for image in images if image.split == "train"}
    pairs = sorted((a.image_id, a.split, b.image_id, b.split, kind) for a, b, kind in copies)
    copied = pd.DataFrame(pairs, columns=["image_id", "split", "other_id", "other_split", "kind"])
    train_masks = {image_id: rows for image_id, rows in labels.masks.items() if image_id in train_ids}
    outputs = [
        write_text(folder / "manifest.csv", frame.to_csv(index=False, lineterminator="\n")),
        write_text(folder / "duplicates.csv", copied.to_csv(index=False, lineterminator="\n")),
        write_masks(folder / "masks.csv", train_masks, labels.soft),
    ]
    (folder / "test_masks.csv").unlink(missing_ok=True)
    if truth is not None:
        outputs.append(write_masks(folder / "test_masks.csv", truth))
    return outputs


def _size_of(image: ScannedImage, comp: Competition) -> tuple[int, int]:
    """Return height and width of an image, in pixels; an image known from its label alone has the declared size."""
    if image.size is not None:
        return image.size
    if comp.image.size == "mixed":
        raise GatemaskError(
            "--labels-only does not know the sizes of the images.",
            where="competition.yaml, image.size",
            received="mixed",
            expected="one size, or the images",
        )
    return comp.image.size
