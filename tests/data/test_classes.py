"""Several classes from labels of every kind to manifest, masks.csv and folds; wrong YAML gets a clear message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gatemask.config import Competition, Rle
from gatemask.data.folds import make_folds
from gatemask.data.manifest import prepare
from gatemask.data.split import read_manifest
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.project import Project
from gatemask.report.audit import audit_file

SIZE = (24, 36)
CLASSES = ["fish", "sugar", "3"]
COUNT = 12


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def truth(number: int, size: tuple[int, int] = SIZE) -> dict[str, np.ndarray]:
    """Return the masks of an image: every class somewhere, several in some images, none in every fourth.

    Masks of the first class touch the lower edge, which reveals base and order.
    """
    if number % 4 == 3:
        return {}
    masks = {"fish": box(size[0] - 9, 2 + number, size[0], 12 + number, size)}
    if number % 2:
        masks["sugar"] = box(1, 1 + number, 7, 9 + number, size)
    if number % 3 == 0:
        masks["3"] = box(8, 1, 13, 5 + number, size)
    return masks


def competition(labels: dict[str, Any], **changes: Any) -> Competition:
    settings: dict[str, Any] = {
        "name": "c",
        "title": "t",
        "raw": "raw",
        "image": {"size": SIZE},
        "train": {"images": "images/*.png"},
        "classes": [3 if name == "3" else name for name in CLASSES],
        "labels": labels,
        "groups": {"duplicates": "ignore"},
        "submission": {"class_column": "class"},
        "folds": {"k": 2, "holdout": True},
    }
    return Competition.model_validate({**settings, **changes})


def picture(number: int, masks: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return an image in which masks are brighter, and which differs from all others."""
    pixels = np.full(size, 40 + number, np.uint8)
    for mask in masks.values():
        pixels[mask] += 120
    return pixels


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project with images."""
    (tmp_path / "raw/images").mkdir(parents=True)
    for number in range(COUNT):
        image = Image.fromarray(picture(number, truth(number), SIZE))
        image.save(tmp_path / f"raw/images/i{number:02d}.png")
    return Project(tmp_path, "c")


def write_table(project: Project, header: str, rows: list[list[str]]) -> None:
    lines = [header, *(",".join(row) for row in rows)]
    (project.root / "raw/train.csv").write_text("\n".join(lines) + "\n")


def encodings(dialect: Rle = Rle()) -> list[tuple[str, str, str]]:
    """Return id, class and encoding of each mask."""
    rows = [(f"i{n:02d}", name, rle.encode(mask, dialect)) for n in range(COUNT) for name, mask in truth(n).items()]
    return rows


def column_table(project: Project) -> dict[str, Any]:
    """One row per mask; empty images have a row without a class; pandas wrote class 3 as 3.0."""
    blank = [[f"i{n:02d}.png", "", ""] for n in range(COUNT) if not truth(n)]
    masked = [[f"{i}.png", name.replace("3", "3.0"), text] for i, name, text in encodings()]
    write_table(project, "ImageId,ClassId,EncodedPixels", masked + blank)
    return {"format": "rle", "file": "train.csv", "class_column": "ClassId"}


def joined_table(project: Project, template: str = "{id}_{class}") -> dict[str, Any]:
    texts = {(i, name): text for i, name, text in encodings(Rle(empty="-1"))}
    rows = [
        [template.replace("{id}", f"i{n:02d}.png").replace("{class}", name), texts.get((f"i{n:02d}", name), "-1")]
        for n in range(COUNT)
        for name in CLASSES
    ]
    write_table(project, "Image_Label,EncodedPixels", rows)
    return {"format": "rle", "file": "train.csv", "id": "Image_Label", "joined": template, "rle": {"empty": "-1"}}


def class_first_table(project: Project) -> dict[str, Any]:
    return joined_table(project, "{class}-{id}")


def wide_table(project: Project) -> dict[str, Any]:
    texts = {(i, name): text for i, name, text in encodings()}
    rows = [[f"i{n:02d}", *(texts.get((f"i{n:02d}", name), "") for name in CLASSES)] for n in range(COUNT)]
    write_table(project, "ImageId,rle_fish,rle_sugar,rle_3", rows)
    return {"format": "rle", "file": "train.csv", "columns": {3 if n == "3" else n: f"rle_{n}" for n in CLASSES}}


def folder_per_class(project: Project) -> dict[str, Any]:
    for number in range(COUNT):
        for name in CLASSES:
            path = project.root / f"raw/masks/{name}/i{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(truth(number).get(name, np.zeros(SIZE, bool))).save(path)
    return {"format": "png", "masks": "masks/{class}/{id}.png"}


def name_per_class(project: Project) -> dict[str, Any]:
    """Masks beside the images, none where a class is absent."""
    for number in range(COUNT):
        for name, mask in truth(number).items():
            Image.fromarray(mask).save(project.root / f"raw/images/i{number:02d}_{name}.png")
    return {"format": "png", "masks": "images/{id}_{class}.png", "missing": "empty"}


def values_of(number: int) -> np.ndarray:
    """Return an image of values: 5 for fish, 9 for sugar, 1 for class 3."""
    values = np.zeros(SIZE, np.uint8)
    for name, mask in truth(number).items():
        values[mask] = {"fish": 5, "sugar": 9, "3": 1}[name]
    return values


def index_masks(project: Project) -> dict[str, Any]:
    (project.root / "raw/masks").mkdir()
    for number in range(COUNT):
        Image.fromarray(values_of(number)).save(project.root / f"raw/masks/i{number:02d}.png")
    return {"format": "png", "masks": "masks/{id}.png", "values": {"fish": 5, "sugar": 9, 3: 1}}


def palette_masks(project: Project) -> dict[str, Any]:
    """The same with a palette whose colors say nothing about the values."""
    settings = index_masks(project)
    for path in (project.root / "raw/masks").iterdir():
        image = Image.fromarray(np.asarray(Image.open(path)), "P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        image.save(path)
    return settings


KINDS = [
    column_table,
    joined_table,
    class_first_table,
    wide_table,
    folder_per_class,
    name_per_class,
    index_masks,
    palette_masks,
]


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_every_class_arrive_pixel_by_pixel(
    project: Project, kind: Callable[[Project], dict[str, Any]]
) -> None:
    comp = competition(kind(project))
    result = prepare(project, comp)
    assert (result.images, result.positives, result.problems) == (COUNT, 9, 0)
    masks, manifest = Masks.of(project, comp), read_manifest(project).set_index("image_id")
    for number in range(COUNT):
        image_id, expected = f"i{number:02d}", truth(number)
        planes = masks[image_id]
        for index, name in enumerate(CLASSES):
            assert (planes[:, :, index] == expected.get(name, False)).all(), (image_id, name)
        row = manifest.loc[image_id]
        assert row["mask_area"] == planes.any(axis=2).sum()
        assert row["classes"] == " ".join(str(n) for n, name in enumerate(CLASSES) if name in expected)
        assert (row["label"], row["height"], row["width"]) == (int(bool(expected)), *SIZE)


def test_one_class_of_a_table_with_several(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    comp = competition(column_table(project), classes=["sugar"], submission={})
    assert prepare(project, comp).positives == 3
    assert "classes" not in read_manifest(project)
    assert "belong to classes that 'classes' does not name and are left out: fish (9 rows), 3 (3 rows)" in " ".join(
        capsys.readouterr().err.split()
    )
    assert (Masks.of(project, comp)["i01"][:, :, 0] == truth(1)["sugar"]).all()


# --- wrong YAML ---------------------------------------------------------------------------------------------


def without_classes(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("class_column", "values")}


@pytest.mark.parametrize("kind", [column_table, index_masks])
def test_labels_must_name_several_classes(project: Project, kind: Callable[[Project], dict[str, Any]]) -> None:
    with pytest.raises(GatemaskError, match=r"(?s)do not name the classes.*3 classes \(fish, sugar, 3\)") as caught:
        prepare(project, competition(without_classes(kind(project))))
    assert ("joined" if kind is column_table else "values") in str(caught.value)


@pytest.mark.parametrize("kind", [column_table, joined_table, folder_per_class])
def test_a_class_that_never_occurs(project: Project, kind: Callable[[Project], dict[str, Any]]) -> None:
    labels = kind(project)
    with pytest.raises(
        GatemaskError, match=r"(?s)class 'suger' never occurs.*(fish|3) \([0-9]+ (rows|files)\).*mean 'sugar'"
    ):
        prepare(project, competition(labels, classes=["fish", "suger", "3"]))


def test_a_class_without_any_mask(project: Project) -> None:
    wide = wide_table(project)
    text = (project.root / "raw/train.csv").read_text().splitlines()
    (project.root / "raw/train.csv").write_text("\n".join([text[0] + ",none", *(f"{line}," for line in text[1:])]))
    wide["columns"]["gravel"] = "none"
    comp = competition(wide, classes=[*CLASSES, "gravel"])
    with pytest.raises(GatemaskError, match=r"(?s)No image has a mask of the class 'gravel'.*fish \(9 images\)"):
        prepare(project, comp)
    indexed = index_masks(project)
    indexed["values"]["gravel"] = 7
    with pytest.raises(GatemaskError, match="No image has a mask of the class 'gravel'"):
        prepare(project, competition(indexed, classes=[*CLASSES, "gravel"]))


def test_a_missing_column(project: Project) -> None:
    wide = wide_table(project)
    wide["columns"]["fish"] = "rle_fisch"
    with pytest.raises(GatemaskError, match=r"(?s)lacks the column 'rle_fisch'.*Did you mean 'rle_fish'"):
        prepare(project, competition(wide))
    with pytest.raises(GatemaskError, match=r"(?s)lacks the column 'Class'.*ClassId"):
        prepare(project, competition({**column_table(project), "class_column": "Class"}))


def test_ids_that_do_not_fit_the_template(project: Project) -> None:
    joined_table(project)
    labels = {**column_table(project), "joined": "{id}_{class}"}
    del labels["class_column"]
    with pytest.raises(GatemaskError, match=r"(?s)does not fit labels.joined.*i00.png"):
        prepare(project, competition(labels))


def test_a_mask_without_a_class_affects_only_its_image(project: Project) -> None:
    labels = column_table(project)
    with (project.root / "raw/train.csv").open("a") as file:
        file.write("i00.png,,1 3\n")
    assert prepare(project, competition(labels)).problems == 1
    problems = pd.read_csv(project.data / "problems.csv")
    assert problems["problem"][0].startswith("A mask has no class.") and "i00" in problems["problem"][0]


@pytest.mark.parametrize(
    ("dialect", "words"),
    [
        ({"base": 0}, "first pixel seems to be 1, not 0|malformed"),
        ({"order": "row"}, "seem to be in column order, not in row order"),
        ({"offsets": "relative"}, "malformed: the dialect must be wrong"),
    ],
)
def test_a_wrong_dialect_is_noticed(project: Project, dialect: dict[str, Any], words: str) -> None:
    labels = column_table(project)
    with pytest.raises(GatemaskError, match=words) as caught:
        prepare(project, competition({**labels, "rle": dialect}))
    assert "gatemask data labels" in str(caught.value)
    assert not (project.data / "manifest.csv").exists()


@pytest.mark.parametrize("size", [(32, 32), (30, 32)])
def test_a_wrong_order_is_noticed_by_the_images_where_runs_do_not_tell(tmp_path: Path, size: tuple[int, int]) -> None:
    rows = []
    (tmp_path / "raw/images").mkdir(parents=True)
    for number in range(COUNT):
        masks = truth(number, size)
        Image.fromarray(picture(number, masks, size)).save(tmp_path / f"raw/images/i{number:02d}.png")
        rows += [[f"i{number:02d}", name, rle.encode(mask, Rle())] for name, mask in masks.items()]
    project = Project(tmp_path, "c")
    write_table(project, "ImageId,ClassId,EncodedPixels", rows)
    labels = {"format": "rle", "file": "train.csv", "class_column": "ClassId", "missing": "empty"}
    right = competition(labels, image={"size": size})
    assert prepare(project, right).positives == 9
    with pytest.raises(GatemaskError, match=r"(?s)rows and columns seem to be swapped.*order: column|in column order"):
        prepare(project, competition({**labels, "rle": {"order": "row"}}, image={"size": size}))


@pytest.mark.parametrize("base", [0, 1])
def test_masks_that_are_one_pixel_off_are_reported(
    tmp_path: Path, base: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """No mask touches an edge, so the runs fit either base."""
    (tmp_path / "raw/images").mkdir(parents=True)
    rows = []
    for number in range(COUNT):
        mask = box(5, 4 + number, 14, 12 + number)
        Image.fromarray(picture(number, {"fish": mask}, SIZE)).save(tmp_path / f"raw/images/i{number:02d}.png")
        rows.append([f"i{number:02d}", rle.encode(mask, Rle(base=base))])
    project = Project(tmp_path, "c")
    write_table(project, "ImageId,EncodedPixels", rows)
    for declared in (0, 1):
        labels = {"format": "rle", "file": "train.csv", "rle": {"base": declared}}
        prepare(project, competition(labels, classes=["fish"], submission={}))
        report = " ".join(capsys.readouterr().err.split())
        assert (f"first pixel is {base}. Verify labels.rle.base, which is {declared}" in report) == (base != declared)


@pytest.mark.parametrize("kind", [column_table, folder_per_class])
def test_swapped_axes_are_recognized(project: Project, kind: Callable[[Project], dict[str, Any]]) -> None:
    comp = competition(kind(project), image={"size": SIZE[::-1]})
    with pytest.raises(GatemaskError, match=r"(?s)Height and width.*swapped.*Set image.size: \[24, 36\]"):
        prepare(project, comp)


def test_images_of_another_size_than_declared(project: Project) -> None:
    comp = competition(column_table(project), image={"size": (64, 64)})
    with pytest.raises(GatemaskError, match=r"(?s)another size than image.size.*Set image.size: \[24, 36\], or mixed"):
        prepare(project, comp)


def test_masks_that_are_all_unusable_are_the_fault_and_not_their_class(project: Project) -> None:
    labels = folder_per_class(project)
    for path in (project.root / "raw/masks").rglob("*.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    with pytest.raises(GatemaskError, match=r"(?s)No training image is left.*A mask has the wrong size"):
        prepare(project, competition(labels))


def test_values_that_nobody_named(project: Project) -> None:
    labels = index_masks(project)
    del labels["values"]["sugar"]
    comp = competition({**labels, "values": {"fish": 5, 3: 1}}, classes=["fish", "3"])
    with pytest.raises(GatemaskError, match=r"(?s)labels.values does not name.*9 \(3 files, 144 pixels\).*fish: 5"):
        prepare(project, comp)
    known = competition({**labels, "values": {"fish": 5, 3: 1, "unused": 9}}, classes=["fish", "3"])
    assert prepare(project, known).positives == 9
    ignored = competition({**labels, "values": {"fish": 5, 3: 1}, "ignore": [9]}, classes=["fish", "3"])
    prepare(project, ignored)
    void = Masks.of(project, ignored).ignored("i01")
    assert void is not None and (void == (values_of(1) == 9)).all()


def test_colors_and_lossy_files_hold_no_values(project: Project) -> None:
    labels = index_masks(project)
    colored = np.stack([values_of(0), values_of(0) * 2, values_of(0)], axis=2)
    Image.fromarray(colored).save(project.root / "raw/masks/i00.png")
    assert prepare(project, competition(labels)).problems == 1
    assert "no values that could be classes" in (project.data / "problems.csv").read_text()


# --- sizes, objects, ignored pixels, overlaps ---------------------------------------------------------------


def sizes_of(number: int) -> tuple[int, int]:
    return (24 + number, 40) if number % 2 else (40, 26 + number)


@pytest.mark.parametrize("kind", ["rle", "png"])
def test_images_of_mixed_sizes(tmp_path: Path, kind: str) -> None:
    (tmp_path / "raw/images").mkdir(parents=True)
    (tmp_path / "raw/masks").mkdir()
    rows = []
    for number in range(COUNT):
        size = sizes_of(number)
        masks = truth(number, size)
        Image.fromarray(picture(number, masks, size)).save(tmp_path / f"raw/images/i{number:02d}.png")
        for name, mask in masks.items():
            Image.fromarray(mask).save(tmp_path / f"raw/masks/i{number:02d}_{name}.png")
            rows.append([f"i{number:02d}", name, rle.encode(mask, Rle())])
    project = Project(tmp_path, "c")
    write_table(project, "ImageId,ClassId,EncodedPixels", [*rows, ["i99", "fish", "1 3"]])
    labels: dict[str, Any] = {"format": "png", "masks": "masks/{id}_{class}.png", "missing": "empty"}
    if kind == "rle":
        labels = {"format": "rle", "file": "train.csv", "class_column": "ClassId", "missing": "empty"}
    comp = competition(labels, image={"size": "mixed"})
    assert prepare(project, comp).positives == 9
    masks_of = Masks.of(project, comp)
    for number in range(COUNT):
        assert masks_of.size(f"i{number:02d}") == sizes_of(number)
        planes = masks_of[f"i{number:02d}"]
        for index, name in enumerate(CLASSES):
            assert (planes[:, :, index] == truth(number, sizes_of(number)).get(name, False)).all()
    if kind == "rle":
        with pytest.raises(GatemaskError, match="row order"):
            prepare(project, competition({**labels, "rle": {"order": "row"}}, image={"size": "mixed"}))
    else:
        Image.fromarray(truth(1, sizes_of(1))["fish"].T).save(tmp_path / "raw/masks/i01_fish.png")
        assert prepare(project, comp).problems == 1
        assert "height and width are swapped" in (project.data / "problems.csv").read_text()


def test_labels_of_test_images_are_read_alike(project: Project) -> None:
    """A class may be absent from the test images, but not from the training images."""
    settings = index_masks(project)
    (project.root / "raw/test").mkdir()
    for number in range(3):
        for folder in ("images", "masks"):
            source = project.root / f"raw/{folder}/i{number:02d}.png"
            name = "" if folder == "images" else "mask_"
            source.rename(project.root / f"raw/test/{name}{source.name}")
    test = {"images": "test/i*.png", "labels": {**settings, "masks": "test/mask_{id}.png"}}
    comp = competition(settings, test=test, folds={"k": 2})
    assert prepare(project, comp).test_images == 3
    planes = Masks.of(project, comp, "test_masks.csv")["i01"]
    assert all((planes[:, :, n] == truth(1).get(name, False)).all() for n, name in enumerate(CLASSES))
    assert read_manifest(project, "test")["classes"].tolist() == ["", "", ""], "test truth stays out of the manifest"


CELLS = {"classes": ["cell"], "submission": {}, "objects": {}}


def test_rows_are_objects(project: Project) -> None:
    one, two = box(2, 2, 8, 8), box(2, 8, 8, 14)  # they touch
    rows = [[f"i{n:02d}", rle.encode(mask, Rle())] for n in range(COUNT) for mask in ((one, two) if n else (one,))]
    write_table(project, "ImageId,EncodedPixels", rows)
    labels = {"format": "rle", "file": "train.csv"}
    prepare(project, competition(labels, **CELLS))
    assert len(pd.read_csv(project.data / "masks.csv")) == 2 * COUNT - 1
    numbers = Masks.of(project, competition(labels, **CELLS)).objects("i01", 0)
    assert (numbers == one + 2 * two).all()
    united = competition(labels, classes=["cell"], submission={})
    prepare(project, united)
    assert len(pd.read_csv(project.data / "masks.csv")) == COUNT, "without 'objects', masks are united as ever"
    assert (Masks.of(project, united)["i01"][:, :, 0] == (one | two)).all()


@pytest.mark.parametrize("numbered", [False, True])
def test_objects_of_one_file_per_image(project: Project, numbered: bool, capsys: pytest.CaptureFixture[str]) -> None:
    left, right, apart = box(2, 2, 8, 8), box(2, 8, 8, 14), box(15, 2, 20, 20)
    (project.root / "raw/masks").mkdir()
    for number in range(COUNT):
        values = (700 * left + 2 * right + 3 * apart).astype(np.uint16)
        pixels = values if numbered else (values > 0).astype(np.uint8) * 255
        Image.fromarray(pixels).save(project.root / f"raw/masks/i{number:02d}.png")
    comp = competition({"format": "png", "masks": "masks/{id}.png", "numbered": numbered}, **CELLS)
    prepare(project, comp)
    numbers = Masks.of(project, comp).objects("i05", 0)
    assert len(np.unique(numbers)) == (4 if numbered else 3), "touching objects are one component"
    assert len(np.unique(numbers[left])) == 1 and ((numbers > 0) == (left | right | apart)).all()
    assert ("connected components are the objects" in capsys.readouterr().err) != numbered


def test_ignored_pixels_of_one_class(project: Project) -> None:
    (project.root / "raw/masks").mkdir()
    void = box(0, 0, 24, 3)
    for number in range(COUNT):
        values = truth(number).get("fish", np.zeros(SIZE, bool)) * np.uint8(1)
        values[void] = 255
        Image.fromarray(values).save(project.root / f"raw/masks/i{number:02d}.png")
    labels = {"format": "png", "masks": "masks/{id}.png", "ignore": 255}
    comp = competition(labels, classes=["fish"], submission={})
    assert prepare(project, comp).positives == 9
    masks, manifest = Masks.of(project, comp), read_manifest(project).set_index("image_id")
    for number in range(COUNT):
        ignored = masks.ignored(f"i{number:02d}")
        assert ignored is not None and (ignored == void).all()
        assert (masks[f"i{number:02d}"][:, :, 0] == (truth(number).get("fish", False) & ~void)).all()
    assert manifest["mask_area"]["i03"] == 0 and manifest["label"]["i03"] == 0, "ignored pixels are no mask"


def test_exclusive_classes_do_not_overlap(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.root / "raw/masks").mkdir()
    large, small = box(2, 2, 20, 30), box(19, 29, 22, 33)
    for number in range(COUNT):
        for name, mask in {"fish": large, "sugar": small}.items():
            Image.fromarray(mask).save(project.root / f"raw/masks/i{number:02d}_{name}.png")
    labels = {"format": "png", "masks": "masks/{id}_{class}.png"}
    comp = competition(labels, classes=["fish", "sugar"], exclusive=True)
    prepare(project, comp)
    assert "overlap by 12 pixels in 12 images" in " ".join(capsys.readouterr().err.split())
    planes = Masks.of(project, comp)["i04"]
    assert (planes[:, :, 1] == small).all() and (planes[:, :, 0] == (large & ~small)).all()
    for number in range(COUNT):
        Image.fromarray(large).save(project.root / f"raw/masks/i{number:02d}_sugar.png")
    with pytest.raises(GatemaskError, match=r"(?s)exclusive classes overlap.*exclusive: false"):
        prepare(project, comp)


# --- folds --------------------------------------------------------------------------------------------------


def many(count: int = 120) -> pd.DataFrame:
    """Return a manifest in which one combination of classes is rare, and one class, too."""
    words = ["", "0", "1", "0 1"] * (count // 4)
    words[:3] = ["2", "0 2", "1 2"]
    return pd.DataFrame(
        {
            "image_id": [f"i{n:03d}" for n in range(count)],
            "group": [f"g{n // 2:03d}" for n in range(count)],
            "label": [int(bool(word)) for word in words],
            "mask_area": [37 * n % 101 + 1 if word else 0 for n, word in enumerate(words)],
            "classes": words,
        }
    )


def test_folds_are_even_in_every_class_and_combination() -> None:
    from gatemask.config import Folds
    from gatemask.data.folds import assign_folds

    manifest = many()
    folds = assign_folds(manifest, Folds(k=3))
    joined = folds.merge(manifest, on="image_id")
    for word in ("", "0", "1", "0 1"):
        counts = joined[joined["classes"] == word].groupby("fold").size()
        assert counts.max() - counts.min() <= 2, word
    rare = joined[joined["classes"].str.contains("2")].groupby("fold").size()
    assert len(rare) == 2, "two groups have the rare class, and go to two folds"
    strata = set(folds["stratum"].str.split("|").str[1])
    assert strata == {"none", "0", "1", "0+1", "rare"}
    plain = assign_folds(manifest.drop(columns="classes"), Folds(k=3))
    assert set(plain["stratum"].str.count(r"\|")) == {0}, "one class is stratified by area alone"


def test_folds_report_the_positives_of_each_class(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEMASK_ROOT", str(project.root))
    (project.root / "experiments").mkdir()
    comp = competition(index_masks(project), folds={"k": 3, "holdout": True})
    prepare(project, comp)
    result = make_folds(project, comp)
    masks = Masks.of(project, comp)
    frame = pd.read_csv(project.folds)
    for fold, summary in result.per_fold.items():
        ids = frame["image_id"][frame["fold"] == int(fold)]
        expected = np.mean([masks[i].any(axis=(0, 1)) for i in ids], axis=0)
        assert summary.classes == {name: round(float(v), 4) for name, v in zip(CLASSES, expected, strict=True)}
    audited = audit_file(project.folds, None, None, None, None)
    assert {f: fold.classes for f, fold in audited.per_fold.items()} == {
        f: dict(sorted((summary.classes or {}).items())) for f, summary in result.per_fold.items()
    }
    lacking = [fold for fold, summary in result.per_fold.items() if not (summary.classes or {})["sugar"]]
    assert ("has the class sugar" in capsys.readouterr().err) == bool(lacking)
