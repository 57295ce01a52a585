"""Records of any size: fitted, oblong, of many channels and planes, in tiles; those of before keep their bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import Competition
from gatemask.data import encode, records, tfrecord
from gatemask.data.example import Example
from gatemask.data.manifest import prepare
from gatemask.data.readers import read_image
from gatemask.data.shards import Shard
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.masks.frame import Frame, fit_image, fit_mask, resize
from gatemask.masks.tiling import tile_origins
from gatemask.project import Project
from gatemask.stage import write_stamp
from tests.conftest import write_tiles
from tests.data.test_manifest import competition

SIZES = [(40, 90), (33, 33), (128, 50), (64, 96), (20, 300), (97, 64)]


def configured(size: Any = "mixed", **changes: Any) -> Competition:
    settings = {
        "image": {"size": size, "channels": 3, **changes.pop("image", {})},
        "groups": {"duplicates": "ignore"},
        "records": {"size": 64, "format": "png", "per_shard": 4},
        "train": {"images": "images/{id}.png"},
    }
    return competition(**{**settings, **changes})


def blobs(size: tuple[int, int], seed: int) -> np.ndarray:
    """Return a mask, bool, that touches neither all nor none of the pixels."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    center = (int(rng.integers(size[1])), int(rng.integers(size[0])))
    cv2.circle(mask, center, max(3, min(size) // 3), 1, -1)
    return mask.astype(bool)


def write_images(raw: Path, sizes: list[tuple[int, int]], channels: int = 3, empty: tuple[int, ...] = (1,)) -> None:
    """Write image and mask i<number> of each size; some masks are empty."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        coarse = rng.integers(0, 256, (size[0] // 6 + 2, size[1] // 6 + 2, channels)).astype(np.uint8)
        cv2.imwrite(str(raw / f"images/i{number}.png"), resize(coarse, size))
        mask = np.zeros(size, bool) if number in empty else blobs(size, number)
        cv2.imwrite(str(raw / f"masks/i{number}.png"), mask * np.uint8(255))


def made(root: Path, comp: Competition) -> tuple[Project, dict[str, list[Example]]]:
    """Make and check records; return the examples of each image."""
    project = Project(root, "tiles")
    prepare(project, comp)
    records.make_records(project, comp)
    assert records.make_records(project, comp).current
    records.check_records(project, comp)
    ids = sorted(path.stem for path in (root / "raw/images").iterdir())
    examples: dict[str, list[Example]] = {name: [] for name in ids}
    for example in records.read_records(project.records(comp.records.size), ids):
        examples[example.image_id].append(example.load())
    return project, examples


def decoded(data: bytes, planes: int = 1) -> np.ndarray:
    """Return a stored picture, (height, width, planes), red first."""
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored.ndim == 3:
        return cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
    return np.moveaxis(stored.reshape(planes, -1, stored.shape[1]), 0, 2)


# --- as before ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "format", "size"), [(3, "png", 64), (1, "jpeg", 96), (3, "jpeg", 160)])
def test_records_of_one_class_and_size_are_the_bytes_they_always_were(
    tmp_path: Path, channels: int, format: str, size: int
) -> None:
    """Against the recipe of the first records, written out: a change would make everyone upload and train again."""
    write_tiles(tmp_path / "raw", 9)
    settings = {"size": size, "format": format, "per_shard": 5}
    comp = competition(image={"size": [128, 128], "channels": channels}, records=settings)
    project, _ = made(tmp_path, comp)
    ids = [f"tile{number:03d}" for number in range(9)]
    features = []
    method = cv2.INTER_AREA if size <= 128 else cv2.INTER_LINEAR
    for name in ids:
        flag = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
        image = cv2.imread(str(tmp_path / f"raw/images/{name}.png"), flag)
        mask = cv2.imread(str(tmp_path / f"raw/masks/{name}.png"), cv2.IMREAD_GRAYSCALE)
        image = cv2.resize(image, (size, size), interpolation=method)
        small = cv2.resize(np.ascontiguousarray(mask.T), (size, size), interpolation=method).T  # decoded by columns
        kind, options = (".png", []) if format == "png" else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])
        features.append(
            {
                "image_id": name.encode(),
                "image": cv2.imencode(kind, image, options)[1].tobytes(),
                "mask": cv2.imencode(".png", (small >= 128).astype(np.uint8) * 255)[1].tobytes(),
                "label": int(mask.any()),
            }
        )
    for number, part in enumerate((features[:5], features[5:])):
        tfrecord.write(tmp_path / "x.tfrec", part)
        assert (project.records(size) / f"{number:05d}.tfrec").read_bytes() == (tmp_path / "x.tfrec").read_bytes()
    index = json.loads((project.records(size) / "index.json").read_text())
    assert index["made_from"]["settings"] == {**settings, "quality": 95}
    assert index["made_from"]["image"] == {
        "size": [128, 128],
        "channels": channels,
        "window": "full",
        "orientation": "stored",
    }
    assert sorted(index["made_from"]) == ["image", "manifest.csv", "masks.csv", "settings"]
    assert sorted(set(index) - {"made_from", "outputs", "seconds", "hash"}) == [
        "bytes",
        "count",
        "positives",
        "shards",
        "size",
    ]


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [64, [32, 96]], ids=str)
def test_images_of_any_size_are_fitted(tmp_path: Path, fit: Any, size: Any) -> None:
    write_images(tmp_path / "raw", SIZES)
    comp = configured(image={"fit": fit}, records={"size": size, "format": "png", "per_shard": 4})
    project, examples = made(tmp_path, comp)
    frame = Frame(comp.records.shape, fit)
    assert project.records(comp.records.size).name == ("records-64" if size == 64 else "records-32x96")
    for number, own in enumerate(SIZES):
        (example,) = examples[f"i{number}"]
        image = read_image(tmp_path / f"raw/images/i{number}.png", 3)
        assert image.shape[:2] == own
        assert (decoded(example.image) == fit_image(image, frame)).all()
        mask = np.zeros(own, bool) if number == 1 else blobs(own, number)
        assert (decoded(example.mask)[:, :, 0] == 255 * fit_mask(mask, frame)).all()
        assert (example.label, example.origin) == (int(number != 1), None)


def test_an_image_that_changed_its_size_is_rejected(tmp_path: Path) -> None:
    write_images(tmp_path / "raw", SIZES)
    comp = configured()
    prepare(Project(tmp_path, "tiles"), comp)
    cv2.imwrite(str(tmp_path / "raw/images/i2.png"), np.zeros((50, 128, 3), np.uint8))
    with pytest.raises(GatemaskError, match=r"has changed since[\s\S]*i2.png[\s\S]*\(50, 128\)[\s\S]*\(128, 50\)"):
        records.make_records(Project(tmp_path, "tiles"), comp)


# --- channels and planes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 5])
def test_channels_are_stored_one_below_the_other(tmp_path: Path, parts: int) -> None:
    raw = tmp_path / "raw"
    write_images(raw, SIZES[:3])
    for part in range(1, parts):
        write_images(raw / f"part{part}", SIZES[:3], channels=1)
    images = {"rgb": {"files": "images/{id}.png", "channels": 3}}
    images |= {f"p{part}": f"part{part}/images/{{id}}.png" for part in range(1, parts)}
    comp = configured(image={"channels": 2 + parts, "fit": "pad"}, train={"images": images})
    _, examples = made(tmp_path, comp)
    frame = Frame((64, 64), "pad")
    for name, (example,) in examples.items():
        stored = decoded(example.image, 2 + parts)
        files = [(raw / f"images/{name}.png", 3)]
        files += [(raw / f"part{part}/images/{name}.png", 1) for part in range(1, parts)]
        whole = np.concatenate([read_image(path, channels) for path, channels in files], axis=2)
        assert (stored == fit_image(whole, frame)).all()


def test_records_depend_on_all_files_of_an_image(tmp_path: Path) -> None:
    write_images(tmp_path / "raw", SIZES[:3])
    write_images(tmp_path / "raw/more", SIZES[:3], channels=1)
    images = {"rgb": {"files": "images/{id}.png", "channels": 3}, "x": "more/images/{id}.png"}
    comp = configured(image={"channels": 4}, train={"images": images})
    project, _ = made(tmp_path, comp)
    other = {**images, "x": "more/masks/{id}.png"}
    with pytest.raises(GatemaskError, match="made from another manifest"):
        records.require_records(project, configured(image={"channels": 4}, train={"images": other}))
    cv2.imwrite(str(tmp_path / "raw/more/images/i0.png"), np.full(SIZES[0], 7, np.uint8))
    assert not prepare(project, comp).current, "a further file of an image has changed"
    (tmp_path / "raw/more/images/i2.png").unlink()
    with pytest.raises(GatemaskError, match=r"exactly one file[\s\S]*more/images/i2.png"):
        records.make_records(
            project, configured(image={"channels": 4}, train={"images": images}, records={"size": 96, "format": "png"})
        )


def test_stacks_of_slices_whose_ids_need_their_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From files and a table of encodings to records: each slice with its neighbors, and its own mask."""
    rng, rows, slices = np.random.default_rng(0), ["id,rle"], {}
    for case in ("c1", "c2"):
        for number in range(8, 13):
            slices[case, number] = rng.integers(0, 256, (40, 56)).astype(np.uint8)
            path = tmp_path / f"raw/images/{case}/slice_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), slices[case, number])
            rows.append(f"{case}_{number},{rle.encode(blobs((40, 56), number)) if number % 2 else ''}")
    (tmp_path / "raw/labels.csv").write_text("\n".join(rows) + "\n")
    comp = configured(
        [40, 56],
        image={"channels": 5},
        train={
            "images": "images/{case}/slice_{slice}.png",
            "id": "{case}_{slice}",
            "stack": {"by": "slice", "around": 2},
        },
        labels={"format": "rle", "file": "labels.csv", "id": "id", "mask": "rle", "rle": {"base": 0}},
        groups={"duplicates": "ignore", "regex": "^(c[0-9])_"},
        records={"size": [32, 64], "format": "png"},
    )
    project = Project(tmp_path, "tiles")
    prepare(project, comp)
    assert "have neighbors in other groups" not in capsys.readouterr().err
    records.make_records(project, comp)
    records.check_records(project, comp)
    for (case, number), _ in slices.items():
        (example,) = records.read_records(project.records((32, 64)), [f"{case}_{number}"])
        near = [slices[case, min(max(number + offset, 8), 12)] for offset in range(-2, 3)]
        frame = Frame((32, 64))
        assert (decoded(example.image, 5) == fit_image(np.stack(near, axis=2), frame)).all()
        mask = blobs((40, 56), number) if number % 2 else np.zeros((40, 56), bool)
        assert (decoded(example.mask)[:, :, 0] == 255 * fit_mask(mask, frame)).all()
    split = comp.model_copy(update={"groups": comp.groups.model_copy(update={"regex": "_([0-9]+)$"})})
    prepare(project, split)
    assert "10 images have neighbors in other groups" in capsys.readouterr().err


def write_classes(raw: Path, sizes: list[tuple[int, int]], ignored: bool = True) -> dict[str, np.ndarray]:
    """Write label images of the values 1 and 2, and 9 for ignored pixels; return the three masks of each image."""
    write_images(raw, sizes)
    masks = {}
    for number, size in enumerate(sizes):
        values = np.zeros(size, np.uint8)
        for value in (1, 2, 9):
            if number % 4 != value - 1 and (value < 9 or number % 2):
                values[blobs(size, 10 * number + value)] = value
        cv2.imwrite(str(raw / f"masks/i{number}.png"), values)
        masks[f"i{number}"] = np.stack([values == value for value in (1, 2, 9)], axis=2)
    return masks


CLASSES = {
    "classes": ["a", "b"],
    "labels": {"format": "png", "masks": "masks/{id}.png", "values": {"a": 1, "b": 2}, "ignore": [9]},
    "submission": {"class_column": "class"},
}


def test_planes_are_stored_one_below_the_other_and_labels_name_the_classes(tmp_path: Path) -> None:
    masks = write_classes(tmp_path / "raw", SIZES)
    comp = configured(**CLASSES)
    project, examples = made(tmp_path, comp)
    labels = set()
    for name, (example,) in examples.items():
        planes = masks[name]
        assert (decoded(example.mask, 3) == 255 * fit_mask(planes, Frame((64, 64)))).all()
        assert example.label == planes[:, :, 0].any() + 2 * planes[:, :, 1].any(), "ignored pixels do not count"
        labels.add(example.label)
    assert labels >= {1, 2, 3}
    index = json.loads((project.records(64) / "index.json").read_text())
    assert index["made_from"]["planes"] == ["a", "b", "ignored"]


# --- tiles -------------------------------------------------------------------------------------------------

TILES = {"size": 64, "overlap": 16, "scale": 0.5}
LARGE = [(300, 420), (128, 128), (90, 500), (256, 131)]


@pytest.mark.parametrize("classes", [1, 2])
def test_records_hold_tiles_of_the_scaled_image(tmp_path: Path, classes: int) -> None:
    if classes == 1:
        write_images(tmp_path / "raw", LARGE)
        comp = configured(tiles=TILES, records={"format": "png", "per_shard": 10})
    else:
        write_classes(tmp_path / "raw", LARGE)
        comp = configured(tiles=TILES, records={"format": "png", "per_shard": 10}, **CLASSES)
    project, examples = made(tmp_path, comp)
    truth = Masks.of(project, comp)
    positive = 0
    for number, own in enumerate(LARGE):
        size = (round(own[0] / 2), round(own[1] / 2))
        image = resize(read_image(tmp_path / f"raw/images/i{number}.png", 3), size)
        planes = fit_mask(truth.planes(f"i{number}"), Frame(size))
        padded = [np.zeros((max(64, size[0]), max(64, size[1]), array.shape[2]), np.uint8) for array in (image, planes)]
        for whole, array in zip(padded, (image, planes), strict=True):
            whole[: size[0], : size[1]] = array
        tiles = examples[f"i{number}"]
        assert [tile.origin for tile in tiles] == tile_origins(size, 64, 16)
        for tile in tiles:
            assert tile.origin is not None
            y, x = tile.origin
            assert (decoded(tile.image) == padded[0][y : y + 64, x : x + 64]).all()
            part = padded[1][y : y + 64, x : x + 64]
            assert (decoded(tile.mask, comp.planes) == 255 * part).all()
            assert tile.label == sum(1 << c for c in range(classes) if part[:, :, c].any())
            positive += tile.label > 0
    count = sum(map(len, examples.values()))
    assert 0 < positive < count
    result = records.make_records(project, comp)
    assert (result.count, result.images, result.positives) == (count, 4, 3 if classes == 1 else 4)
    check = records.check_records(project, comp)
    assert (check.checked, check.images, check.positive_tiles, check.vanished_masks) == (count, 4, positive, 0)
    for path in project.records(64).glob("*.tfrec"):
        held = [example.image_id for example in Shard(path).examples(None)]
        assert len(held) <= 10 or len(set(held)) == 1, "shards hold as many records as wanted, or one image"
        assert all(len(examples[name]) == held.count(name) for name in held), "all tiles of an image"


def test_many_processes_write_the_same_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "raw", LARGE)
    comp = configured(tiles=TILES, records={"format": "png"})
    project, _ = made(tmp_path, comp)
    before = {path.name: path.read_bytes() for path in project.records(64).glob("*.tfrec")}
    (project.records(64) / "index.json").unlink()
    monkeypatch.setattr(encode, "FEW", 2)
    records.make_records(project, comp)
    assert {path.name: path.read_bytes() for path in project.records(64).glob("*.tfrec")} == before


def test_a_missing_a_strange_and_a_repeated_tile_are_reported(tmp_path: Path) -> None:
    write_images(tmp_path / "raw", LARGE)
    comp = configured(tiles=TILES, records={"format": "png"})
    project, examples = made(tmp_path, comp)
    folder = project.records(64)
    tiles = [tile for several in examples.values() for tile in several]

    def complaint(kept: list[Example]) -> str:
        tfrecord.write(folder / "00000.tfrec", map(encode._features, kept))
        index = json.loads((folder / "index.json").read_text())
        index["outputs"] = {"00000.tfrec": records.sha256(folder / "00000.tfrec")}
        write_stamp(folder / "index.json", index)
        with pytest.raises(GatemaskError) as caught:
            records.check_records(project, comp)
        return str(caught.value)

    assert "1 tiles have no record" in complaint(tiles[1:])
    assert "image i0: repeated" in complaint([*tiles, tiles[0]])
    assert "a tile at (3, 4), where there is none" in complaint([*tiles, tiles[0]._replace(origin=(3, 4))])
    assert "a tile at None, where there is none" in complaint([*tiles, tiles[0]._replace(origin=None)])
    assert "label 2 of a tile, but the image has 1" in complaint([tiles[0]._replace(label=2), *tiles[1:]])


def test_masks_that_vanish_when_tiles_are_scaled_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path / "raw", LARGE)
    mask = np.zeros(LARGE[0], np.uint8)
    mask[101, 203] = 255
    cv2.imwrite(str(tmp_path / "raw/masks/i0.png"), mask)
    comp = configured(tiles={**TILES, "scale": 0.25}, records={"format": "png"})
    project, examples = made(tmp_path, comp)
    assert records.check_records(project, comp).vanished_masks == 1
    assert not any(tile.label for tile in examples["i0"])


def test_tiles_have_the_size_of_the_records(tmp_path: Path) -> None:
    write_images(tmp_path / "raw", LARGE)
    comp = configured(tiles=TILES, records={"format": "png"})
    prepare(Project(tmp_path, "tiles"), comp)
    other = comp.model_copy(update={"records": comp.records.model_copy(update={"size": 96})})
    with pytest.raises(GatemaskError, match=r"size of its tiles[\s\S]*96[\s\S]*64"):
        records.make_records(Project(tmp_path, "tiles"), other)


def test_small_images_become_one_padded_tile(tmp_path: Path) -> None:
    write_images(tmp_path / "raw", [(30, 41), (64, 64)], empty=())
    comp = configured(tiles={**TILES, "scale": 1.0}, records={"format": "png"})
    _, examples = made(tmp_path, comp)
    (tile,) = examples["i0"]
    assert tile.origin == (0, 0)
    assert not decoded(tile.image)[30:].any()
    assert not decoded(tile.image)[:, 41:].any()
    assert decoded(tile.image)[:30, :41].any()
    assert (decoded(tile.mask)[:30, :41, 0] == 255 * blobs((30, 41), 0)).all()
