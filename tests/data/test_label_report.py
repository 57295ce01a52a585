"""`gatemask data labels` on tables with known counts and known dialects."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gatemask.config import Rle, load_competition
from gatemask.data.label_report import inspect_labels, mask_areas, parse_size, write_labels_section
from gatemask.data.label_table import Known
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.project import Project
from gatemask.results.data import LabelColumns
from tests.conftest import ROOT, SHARED, needs_nuclei, needs_siim

pytestmark = pytest.mark.integration  # takes seconds

COUNTS = ["rows", "images", "positives", "annotations", "multi_annotated", "overlapping", "bad_rows"]


@needs_siim
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("stage_2_train.csv", [12954, 12047, 2669, 3576, 624, 183, 0]),
        pytest.param("stage_1_train.csv", [11582, 10675, 2379, 3286, 624, 183, 0], marks=pytest.mark.slow),
        ("train-rle-sample.csv", [10, 10, 5, 5, 0, 0, 0]),
    ],
)
def test_the_real_tables(name: str, counts: list[int]) -> None:
    report = inspect_labels(SHARED / "siim" / name)
    assert [getattr(report, name) for name in COUNTS] == counts
    assert report.guess.model_dump() == {
        "offsets": "relative",
        "base": 0,
        "order": "column",
        "empty": "-1",
        "size": (1024, 1024),
    }
    assert (report.contradictory, report.duplicates) == (0, 0)


@needs_siim
def test_areas_of_overlapping_annotations_equal_their_union() -> None:
    report = mask_areas(SHARED / "siim/stage_2_train.csv")
    masked = sorted(area for area in report.values() if area)
    assert (len(report), len(masked), masked[0], masked[-1]) == (12047, 2669, 55, 161421)


@needs_siim
def test_the_images_confirm_the_order_of_the_real_table() -> None:
    report = inspect_labels(SHARED / "siim/stage_2_train.csv", images="dicom/*.dcm")
    assert (report.guess.order, report.guess.size) == ("column", (1024, 1024))
    assert report.because["order"].startswith("outlines follow edges")


def tabled(file: Path, masks: dict[str, np.ndarray], dialect: Rle) -> Path:
    file.write_text("".join(["id,rle\n", *(f"{name},{rle.encode(mask, dialect)}\n" for name, mask in masks.items())]))
    return file


def blobs(count: int = 40, shape: tuple[int, int] = (96, 96), seed: int = 0) -> dict[str, np.ndarray]:
    """Return masks of discs, some cut by the edge of the image; every third image is empty."""
    rng = np.random.default_rng(seed)
    report = {}
    for number in range(count):
        mask = np.zeros(shape, np.uint8)
        for _ in range(3 * (number % 3 > 0)):
            center = (int(rng.integers(0, shape[1])), int(rng.integers(0, shape[0])))
            cv2.circle(mask, center, int(rng.integers(6, 20)), 1, -1)
        report[f"blob{number:03d}"] = mask > 0
    return report


@pytest.mark.parametrize("offsets", ["absolute", "relative"])
@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("empty", ["", "-1"])
def test_a_written_dialect_is_recovered(tmp_path: Path, offsets: str, base: int, empty: str) -> None:
    dialect = Rle.model_validate({"offsets": offsets, "base": base, "empty": empty})
    report = inspect_labels(tabled(tmp_path / "t.csv", blobs(), dialect))
    assert report.guess.model_dump() == {**dialect.model_dump(), "size": (96, 96)}
    assert (report.images, report.positives, report.bad_rows) == (40, 26, 0)


@needs_nuclei
@pytest.mark.parametrize("base", [0, 1])
def test_the_dialect_of_nuclei_tiles_is_guessed(tmp_path: Path, base: int) -> None:
    paths = sorted((SHARED / "nuclei/masks").glob("*.png"))
    masks = {path.stem: cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0 for path in paths}
    report = inspect_labels(tabled(tmp_path / "t.csv", masks, Rle(base=base)))  # type: ignore[arg-type]
    assert report.guess.model_dump() == {
        "offsets": "absolute",
        "base": base,
        "order": "column",
        "empty": "",
        "size": (128, 128),
    }


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("shape", [(96, 96), (64, 128)])
def test_images_distinguish_rows_from_columns(tmp_path: Path, order: str, shape: tuple[int, int]) -> None:
    masks = blobs(shape=shape)
    (tmp_path / "images").mkdir()
    for name, mask in masks.items():
        cv2.imwrite(str(tmp_path / f"images/{name}.png"), np.where(mask, 200, 60).astype(np.uint8))
    dialect = Rle.model_validate({"order": order})
    report = inspect_labels(tabled(tmp_path / "t.csv", masks, dialect), images="images/*.png")
    assert report.guess.model_dump() == {**dialect.model_dump(), "size": shape}


@pytest.mark.parametrize("written", ["{}.png", "images/{}.png", "{}.dcm", " {} "])
def test_images_belong_to_ids_that_are_file_names(tmp_path: Path, written: str) -> None:
    (tmp_path / "images").mkdir()
    rows = ["ImageId,EncodedPixels"]
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"images/i{number}.png"), np.zeros((32, 48), np.uint8))
        rows.append(f"{written.format(f'i{number}')},{40 * number + 35} 4 {40 * number + 67} 5")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    report = inspect_labels(tmp_path / "t.csv", images="images/*.png")
    assert "outlines follow edges" in report.because["order"]
    (tmp_path / "t.csv").write_text("\n".join(rows).replace("i", "other") + "\n")
    with pytest.raises(GatemaskError, match="two lists do not match"):
        inspect_labels(tmp_path / "t.csv", images="images/*.png")


def test_wide_images_without_a_size(tmp_path: Path) -> None:
    report = inspect_labels(tabled(tmp_path / "t.csv", blobs(200, (64, 192)), Rle()))
    assert report.guess.size == (64, 192)
    assert "masks end with column 192" in report.because["size"]
    inner = {name: mask for name, mask in blobs(200, (64, 192)).items() if not mask[:, -1].any()}
    report = inspect_labels(tabled(tmp_path / "t.csv", inner, Rle()))
    assert report.guess.size == (64, 192)
    assert "rounded up" in report.because["size"]


def salt(count: int, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return masks below a curve, bands and whole images: most of their runs are longer than a column."""
    rng = np.random.default_rng(0)
    masks = {}
    for number in range(count):
        mask = np.zeros(shape, bool)
        if number % 5 == 0:
            mask[:] = True
        elif number % 5 == 1:
            first, last = sorted(rng.integers(0, shape[1], 2).tolist())
            mask[:, first : last + 1] = True
        else:
            columns = np.arange(shape[1])
            curve = shape[0] * rng.uniform(-0.3, 1.1) + rng.uniform(-0.5, 0.5) * columns + 8 * np.sin(columns / 9)
            mask = np.arange(shape[0])[:, None] >= curve
        masks[f"salt{number:03d}"] = mask
    return masks


@pytest.mark.parametrize("shape", [(101, 101), (60, 101)])
@pytest.mark.parametrize("dialect", [Rle(), Rle(offsets="relative", base=0)])
def test_runs_over_whole_columns_do_not_hide_the_height(tmp_path: Path, shape: tuple[int, int], dialect: Rle) -> None:
    report = inspect_labels(tabled(tmp_path / "t.csv", salt(80, shape), dialect))
    assert (report.guess.size, report.guess.offsets, report.guess.base) == (shape, dialect.offsets, dialect.base)


def test_a_few_full_masks_tell_the_size_of_a_square(tmp_path: Path) -> None:
    full = {f"full{number}": np.ones((101, 101), bool) for number in range(3)}
    report = inspect_labels(tabled(tmp_path / "t.csv", full, Rle()))
    assert report.guess.size == (101, 101)
    assert "assumed" in report.because["size"]


def test_the_declared_size_is_used_unless_the_runs_contradict_it(tmp_path: Path) -> None:
    file = tabled(tmp_path / "t.csv", salt(80, (101, 101)), Rle())
    assert inspect_labels(file, known=Known(declared=(101, 101))).guess.size == (101, 101)
    for other in ((100, 100), (128, 128)):
        with pytest.raises(GatemaskError, match="another size"):
            inspect_labels(file, known=Known(declared=other))
    few = tabled(tmp_path / "few.csv", {"a": np.ones((5, 7), bool)}, Rle())
    assert inspect_labels(few, known=Known(declared=(40, 30))).guess.size == (40, 30), "a single mask proves nothing"


def test_whatever_the_table_leaves_open_is_marked_as_assumed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,rle\na,5 3\nb,\n")
    report = inspect_labels(tmp_path / "t.csv", size=(16, 16))
    assert report.guess.model_dump() == {
        "offsets": "absolute",
        "base": 1,
        "order": "column",
        "empty": "",
        "size": (16, 16),
    }
    for part in ("offsets", "base", "order"):
        assert report.because[part].startswith("assumed")
    assert inspect_labels(tmp_path / "t.csv").guess.size is None


def test_bad_rows_duplicates_and_contradictions_are_counted(tmp_path: Path) -> None:
    masks = blobs()
    tabled(tmp_path / "t.csv", masks, Rle(empty="-1"))
    with (tmp_path / "t.csv").open("a") as file:
        text = rle.encode(masks["blob001"], Rle())
        file.write(f"blob001,{text}\nblob001,-1\nblob002,1 2 3\nblob002,9 0\n")
    report = inspect_labels(tmp_path / "t.csv")
    assert (report.duplicates, report.contradictory, report.bad_rows) == (1, 1, 2)
    assert [bad.row for bad in report.bad] == [44, 45]


@settings(max_examples=60, deadline=None)
@given(st.lists(arrays(bool, (5, 7)), min_size=1, max_size=6), st.sampled_from(["absolute", "relative"]))
def test_areas_equal_those_of_the_masks_in_any_dialect(masks: list[np.ndarray], offsets: str) -> None:
    import tempfile

    dialect = Rle.model_validate({"offsets": offsets, "base": 0, "empty": "-1"})
    with tempfile.TemporaryDirectory() as folder:
        stripes = np.zeros((5, 7), bool)
        stripes[::2] = True  # many runs, so that the offsets cannot be mistaken
        striped = {f"striped{number}": stripes for number in range(6)}
        file = tabled(Path(folder) / "t.csv", striped | {f"m{n}": m for n, m in enumerate(masks)}, dialect)
        united = np.logical_or.reduce(masks)
        with file.open("a") as more:
            more.writelines(f"u,{rle.encode(mask, dialect)}\n" for mask in masks)
        report = mask_areas(file)
    assert [report[f"m{n}"] for n in range(len(masks))] == [int(mask.sum()) for mask in masks]
    assert report["u"] == int(united.sum())


def test_the_guess_is_written_into_the_yaml_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = tmp_path / "experiments/phantom"
    folder.mkdir(parents=True)
    before = (ROOT / "experiments/phantom/competition.yaml").read_text().replace("[256, 256]", "[96, 96]")
    (folder / "competition.yaml").write_text(before)
    report = inspect_labels(tabled(tmp_path / "mine.csv", blobs(), Rle(empty="-1")))
    write_labels_section(Project(tmp_path, "phantom"), report)
    comp = load_competition(folder)
    written = comp.labels.model_dump(exclude={"format", "missing", "class_column", "joined", "columns"})
    assert written == {"file": "mine.csv", "id": "id", "mask": "rle", "rle": Rle(empty="-1").model_dump(), "where": {}}
    after = (folder / "competition.yaml").read_text()
    gone = set(before.splitlines()) - set(after.splitlines())
    assert len(gone) == 1
    assert next(iter(gone)).startswith("labels:")
    assert [p.name for p in folder.iterdir()] == ["competition.yaml"]


def test_a_guess_of_another_size_is_not_written(tmp_path: Path) -> None:
    folder = tmp_path / "experiments/phantom"
    folder.mkdir(parents=True)
    before = (ROOT / "experiments/phantom/competition.yaml").read_text()
    (folder / "competition.yaml").write_text(before)
    with pytest.raises(GatemaskError, match="another size"):
        write_labels_section(
            Project(tmp_path, "phantom"), inspect_labels(tabled(tmp_path / "mine.csv", blobs(), Rle()))
        )
    assert (folder / "competition.yaml").read_text() == before


def test_sizes_are_height_by_width() -> None:
    assert parse_size("256x1600") == (256, 1600)
    for wrong in ("256", "0x4", "axb", "-1x5"):
        with pytest.raises(GatemaskError, match="height and width"):
            parse_size(wrong)


@pytest.mark.parametrize("content", ["a,1 2 9 3\nb,-1\nc,\n", "a,-1\nb,3 4\n", "a,1 2\n"])
def test_a_missing_header_is_recognized(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    report = inspect_labels(tmp_path / "t.csv")
    assert (report.header, report.rows) == (False, content.count("\n"))
    assert report.columns == LabelColumns(id=0, mask=1)


@pytest.mark.parametrize(
    "bad", ["99999999999999999999999 2", "3000000000 5", "10000000000000 5", "-5 2", "１ ２", "1 2 3", "5 0 9 1"]
)
def test_one_hostile_row_is_counted_and_changes_nothing_else(tmp_path: Path, bad: str) -> None:
    tabled(tmp_path / "t.csv", blobs(), Rle())
    before = inspect_labels(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open("a") as file:
        file.write(f"hostile,{bad}\n")
    report = inspect_labels(tmp_path / "t.csv")
    assert report.guess == before.guess
    assert (report.bad_rows, report.positives) == (1, before.positives)


@pytest.mark.parametrize("content", ["id,area\na,5\n", "id,rle\n", "id,rle\na,-1\nb,-1\n", "rle\n1 2\n"])
def test_a_table_without_encodings_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(GatemaskError, match=r"No column holds|no column of image ids"):
        inspect_labels(tmp_path / "t.csv")


def test_masks_on_the_lower_edge_are_not_mistaken_for_rows(tmp_path: Path) -> None:
    masks = {}
    for number in range(60):
        masks[f"low{number}"] = np.zeros((256, 320), bool)
        masks[f"low{number}"][200 + number % 40 :, 10 + number : 200] = True
    report = inspect_labels(tabled(tmp_path / "t.csv", masks, Rle()), size=(256, 320))
    assert (report.guess.order, report.guess.base) == ("column", 1)


def test_images_of_several_sizes_are_rejected(tmp_path: Path) -> None:
    masks = blobs()
    (tmp_path / "images").mkdir()
    for number, name in enumerate(masks):
        cv2.imwrite(str(tmp_path / f"images/{name}.png"), np.zeros((96, 96 + number // 4), np.uint8))
    with pytest.raises(GatemaskError, match="differ in size"):
        inspect_labels(tabled(tmp_path / "t.csv", masks, Rle()), images="images/*.png")


@pytest.mark.parametrize("content", ["id,rle\na,1 0\nb,1 0\n", "id,rle\na,0 0\nb,0 0\n"])
def test_a_table_of_empty_masks_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(GatemaskError, match="No row of the table holds a mask"):
        inspect_labels(tmp_path / "t.csv")


def test_writing_keeps_comments_and_the_setting_for_missing_labels(tmp_path: Path) -> None:
    folder = tmp_path / "experiments/c"
    folder.mkdir(parents=True)
    (tmp_path / "experiments/common.yaml").write_text("title: Common\n")
    before = """extends: ../common.yaml
raw: raw
image: {size: [96, 96]}
train: {images: "*.png"}
test:
  images: "test/*.png"
  labels: {format: rle, file: old.csv}
# What the labels are.
labels:
  format: rle   # a table

  file: old.csv
  missing: empty

# Groups: why we do this.
groups: {regex: "^(p[0-9]+)"}
"""
    (folder / "competition.yaml").write_text(before)
    write_labels_section(Project(tmp_path, "c"), inspect_labels(tabled(tmp_path / "mine.csv", blobs(), Rle())))
    after = (folder / "competition.yaml").read_text()
    for kept in ("# What the labels are.", "# Groups: why we do this.", "labels: {format: rle, file: old.csv}"):
        assert kept in after
    labels = load_competition(folder).labels
    assert (labels.file, labels.missing) == ("mine.csv", "empty")  # type: ignore[union-attr]
