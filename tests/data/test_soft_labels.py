"""Soft labels from mask files to records: shares with 8 bits, binary truth from half on, ignored pixels unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import Competition
from gatemask.data.example import Example
from gatemask.data.manifest import _settings, prepare
from gatemask.data.split import read_manifest
from gatemask.data.truth import SOFT, Annotation, Masks, decode_shares, encode_shares, write_masks
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.masks.frame import Frame, fit_image, resize
from gatemask.project import Project
from tests.data.test_record_shapes import configured, decoded, made, write_images

SIZES = [(64, 64), (64, 64), (90, 48), (40, 120)]
ANNOTATORS = 3


def values_of(size: tuple[int, int], number: int) -> np.ndarray:
    """Return soft values: a blurred disc; of the second image a faint one, below half everywhere."""
    disc = np.zeros(size, np.uint8)
    cv2.circle(disc, (size[1] // 2, size[0] // 2), min(size) // 4, 120 if number == 1 else 255, -1)
    return cv2.GaussianBlur(disc, (0, 0), 3)


def write_soft(raw: Path, full: int = 255, suffix: str = "png", dtype: type = np.uint8) -> dict[str, np.ndarray]:
    """Write images, and their masks with values from 0 to `full`; return the levels that they mean."""
    write_images(raw, SIZES)
    levels = {}
    for number, size in enumerate(SIZES):
        values = values_of(size, number) / 255 * full
        values = values.astype(dtype) if dtype is np.float32 else np.rint(values).astype(dtype)
        (raw / f"masks/i{number}.png").unlink()
        cv2.imwrite(str(raw / f"masks/i{number}.{suffix}"), values)
        levels[f"i{number}"] = np.floor(values.astype(np.float32) / full * 255 + 0.5).astype(np.uint8)
    return levels


def soft(labels: dict[str, Any], **changes: Any) -> Competition:
    return configured(labels={"format": "png", "masks": "masks/{id}.png", **labels}, **changes)


@pytest.mark.parametrize(
    ("full", "suffix", "dtype"),
    [(255, "png", np.uint8), (3, "png", np.uint8), (65535, "png", np.uint16), (1, "tif", np.float32)],
)
def test_records_hold_shares_and_truth_is_cut_at_half(tmp_path: Path, full: int, suffix: str, dtype: type) -> None:
    levels = write_soft(tmp_path / "raw", full, suffix, dtype)
    comp = soft({"soft": full, "masks": f"masks/{{id}}.{suffix}"})
    project, examples = made(tmp_path, comp)
    truth, manifest = Masks.of(project, comp), read_manifest(project).set_index("image_id")
    for name, (example,) in examples.items():
        mask = levels[name] >= 128
        assert (truth[name][:, :, 0] == mask).all()
        assert (example.label, manifest["label"][name]) == (mask.any(), mask.any())
        assert manifest["mask_area"][name] == mask.sum()
        stored = decoded(example.mask)
        assert (stored == fit_image(levels[name][:, :, None], Frame((64, 64)))).all()
        if name != "i1":  # of three values, the faint disc is 1
            assert ((stored > 0) & (stored < 255)).any()
    assert not manifest["label"]["i1"] and (decoded(examples["i1"][0].mask) > 0).any(), "a share below half is learned"


def votes(number: int, annotator: int, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    if number != 1 or annotator == 0:  # one of three saw something in the second image
        cv2.circle(mask, (size[1] // 2 + 4 * annotator, size[0] // 2), min(size) // 4, 255, -1)
    return mask


def write_votes(raw: Path, void: bool = False) -> dict[str, np.ndarray]:
    """Write the masks of three annotators; with `void`, each ignores two columns, and all of them the first one."""
    write_images(raw, SIZES)
    means = {}
    for number, size in enumerate(SIZES):
        several, known = [], []
        for annotator in range(ANNOTATORS):
            mask = votes(number, annotator, size)
            ignored = np.zeros(size, bool)
            if void:
                ignored[:, [0, 5 + annotator]] = True
                mask[:, 20] = 255
            (raw / f"masks/{annotator}").mkdir(exist_ok=True)
            cv2.imwrite(str(raw / f"masks/{annotator}/i{number}.png"), np.where(ignored, 7, mask))
            several.append(np.where(ignored, 0, mask > 0))
            known.append(~ignored)
        total, count = np.sum(several, axis=0), np.sum(known, axis=0)
        means[f"i{number}"] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


@pytest.mark.parametrize("void", [False, True])
def test_the_masks_of_annotators_are_averaged(tmp_path: Path, void: bool) -> None:
    means = write_votes(tmp_path / "raw", void)
    for path in (tmp_path / "raw/masks").glob("*.png"):
        path.unlink()
    comp = soft({"masks": "masks/[0-9]/{id}.png", "combine": "mean", **({"ignore": 7} if void else {})})
    project, examples = made(tmp_path, comp)
    truth = Masks.of(project, comp)
    for name in ("i0", "i1"):  # of the size of the records
        (example,) = examples[name]
        stored = decoded(example.mask, 1 + void)
        known = ~np.isnan(means[name])
        assert (stored[:, :, 0] == np.where(known, np.floor(np.nan_to_num(means[name]) * 255 + 0.5), 0)).all()
        assert (truth[name][:, :, 0] == (np.nan_to_num(means[name]) >= 0.5)).all()
        assert {0, 85} <= set(np.unique(stored[:, :, 0]).tolist())
        if void:
            assert (stored[:, :, 1] == np.where(known, 0, 255)).all() and not known.all()
    assert {85, 170} <= set(np.unique(decoded(examples["i0"][0].mask, 1 + void)).tolist())


def test_a_share_beside_ignored_pixels_is_that_of_the_known_ones(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_images(raw, [(128, 128)] * 4)
    values = np.full((128, 128), 200, np.uint8)
    values[1::2, 65::2] = 255  # a quarter of each pixel of the records is ignored
    values[:, :64] = 255
    for number in range(4):
        cv2.imwrite(str(raw / f"masks/i{number}.png"), values)
    _, examples = made(tmp_path, soft({"soft": 250, "ignore": 255}))
    planes = decoded(examples["i0"][0].mask, 2)
    assert (planes[:, :32] == [0, 255]).all() and (planes[:, 32:] == [204, 0]).all()


def test_tiles_hold_shares_and_are_positive_from_half_on(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_images(raw, [(64, 128)] * 3)
    values = np.zeros((64, 128), np.uint8)
    values[10:30, 10:30], values[10:30, 80:100] = 200, 90
    for number in range(3):
        cv2.imwrite(str(raw / f"masks/i{number}.png"), values)
    comp = soft({"soft": 255}, tiles={"size": 64, "overlap": 0}, records={"format": "png"})
    _, examples = made(tmp_path, comp)
    assert [example.label for example in examples["i0"]] == [1, 0]
    for example, part in zip(examples["i0"], (values[:, :64], values[:, 64:]), strict=True):
        assert (decoded(example.mask)[:, :, 0] == part).all()


def test_shares_of_classes_with_files_of_their_own(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    levels = write_soft(raw)
    for number, size in enumerate(SIZES):
        cv2.imwrite(str(raw / f"masks/i{number}_b.png"), values_of(size, number)[::-1, ::-1] // 2)
        (raw / f"masks/i{number}.png").rename(raw / f"masks/i{number}_a.png")
    comp = soft(
        {"soft": 255, "masks": "masks/{id}_{class}.png"},
        classes=["a", "b"],
        submission={"class_column": "class"},
        exclusive=True,
    )
    with pytest.raises(GatemaskError, match="No image has a mask of the class 'b'"):
        prepare(Project(tmp_path, "tiles"), comp)
    levels["i0"][:] = 0
    flipped = cv2.imread(str(raw / "masks/i0_a.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(raw / "masks/i0_b.png"), flipped)
    cv2.imwrite(str(raw / "masks/i0_a.png"), levels["i0"])
    _, examples = made(tmp_path, comp)
    stored: list[Example] = examples["i0"]
    assert stored[0].label == 2 and (decoded(stored[0].mask, 2)[:, :, 1] == flipped).all()


def test_truth_of_soft_labels_survives_csv_and_is_rejected_when_damaged(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (20, 30, 2)).astype(np.uint8)
    assert (decode_shares(encode_shares(levels), (20, 30), 2) == levels).all()
    path = write_masks(
        tmp_path / "masks.csv",
        {"a": [Annotation("x", rle.encode(levels[:, :, 0] > 127))]},
        {"a": encode_shares(levels)},
    )
    masks = Masks(path, (20, 30), ["x", "y"], has_soft=True)
    assert (masks.encoded("a").levels() == levels).all() and not masks.encoded("b").levels().any()
    assert (masks["a"][:, :, 0] == (levels[:, :, 0] > 127)).all() and not masks["a"][:, :, 1].any()
    for text in ("no base64!", encode_shares(levels[:10]), "aGVsbG8="):
        with pytest.raises(GatemaskError, match="shares of a soft mask cannot be read"):
            decode_shares(text, (20, 30), 2)


def broken(raw: Path, change: str) -> None:
    names = sorted((raw / "masks").glob("*.png"))
    if change == "binary":
        for path in names:
            cv2.imwrite(str(path), np.where(cv2.imread(str(path), 0) > 127, 255, 0).astype(np.uint8))
    elif change == "lower half":
        for path in names:
            cv2.imwrite(str(path), cv2.imread(str(path), 0) // 3)
    elif change == "colors":
        for path in names:
            color = cv2.cvtColor(cv2.imread(str(path), 0), cv2.COLOR_GRAY2BGR)
            color[:, :, 0] = 0
            cv2.imwrite(str(path), color)


@pytest.mark.parametrize(
    ("change", "labels", "message"),
    [
        ("binary", {"soft": 255}, "labels.soft is set, but all mask files are binary"),
        ("lower half", {"soft": 255}, "only values in the lower half"),
        ("", {"soft": 100}, "values above labels.soft"),
        ("", {"combine": "mean", "masks": "masks/{id}*.png"}, "but no image has more than one"),
        ("colors", {"soft": 255}, "holds no shares of a mask"),
    ],
)
def test_declarations_that_do_not_fit_the_files(
    tmp_path: Path, change: str, labels: dict[str, Any], message: str
) -> None:
    write_soft(tmp_path / "raw")
    broken(tmp_path / "raw", change)
    project = Project(tmp_path, "tiles")
    if change == "colors":  # of each image: it is left out
        with pytest.raises(GatemaskError, match="No training image is left") as raised:
            prepare(project, soft(labels))
        assert message in str(raised.value)
        return
    with pytest.raises(GatemaskError, match=message):
        prepare(project, soft(labels))
    assert not (project.data / "manifest.json").exists()


def test_values_without_a_declaration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    write_soft(raw)
    prepare(Project(tmp_path, "tiles"), soft({}))
    assert "labels.soft trains on the values as shares" in capsys.readouterr().err
    write_soft(raw, 3)
    with pytest.raises(GatemaskError, match=r"shares of annotators .* soft or ignore"):
        prepare(Project(tmp_path, "tiles"), soft({}))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"soft": 255, "threshold": 3}, "'threshold' must be left out"),
        ({"soft": 255, "values": {"lesion": 1}}, "'values' must be left out"),
        ({"soft": True}, "a number is required"),
        ({"soft": 255, "ignore": 255}, "of certain pixels"),
        ({"combine": "mean"}, "use a \\* for the annotator"),
        ({"combine": "mean", "masks": "masks/{id}/*.png", "numbered": True}, "number objects"),
    ],
)
def test_keys_that_contradict_each_other(labels: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft(labels)


def test_manifests_of_other_competitions_stay_current() -> None:
    """The settings that decide whether a manifest is current, as they were before these keys."""
    assert _settings(configured()) == "7ba59eb8616e7341"
    assert _settings(soft({"soft": 255})) != _settings(soft({}))


def test_soft_rows_do_not_count_as_a_class(tmp_path: Path) -> None:
    levels = write_soft(tmp_path / "raw")
    comp = soft({"soft": 255})
    project = Project(tmp_path, "tiles")
    prepare(project, comp)
    rows = (project.data / "masks.csv").read_text().splitlines()
    assert sum(f",{SOFT}," in row for row in rows) == len(levels)
    hard = comp.model_copy(update={"labels": soft({}).labels})
    assert Masks.of(project, hard).encoded("i0").soft is None
    assert resize(levels["i0"][:, :, None], (64, 64)).shape == (64, 64, 1)
