"""Invalid inputs of all kinds, through the command line: a clear message, exit code 1, no partial files.

Each case damages a small valid competition in one way, runs one command, and lists words of the expected message:
the fault, the place, and what was received or what to do.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from gatemask.cli import main
from gatemask.masks import rle
from tests.conftest import write_tiles
from tests.data.test_manifest import competition

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two competitions on the same tiles, with PNG masks and with a table, up to the records."""
    root = tmp_path_factory.mktemp("sound")
    raw = write_tiles(root / "raw", 24, 64)
    lines = ["image_id,rle"]
    for path in sorted((raw / "masks").glob("*.png")):
        lines.append(f"{path.stem},{rle.encode(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), rle.INTERNAL)}")
    (raw / "rle.csv").write_text("\n".join(lines) + "\n")
    table = {"format": "rle", "file": "rle.csv", "id": "image_id", "mask": "rle", "rle": {"base": 0}}
    for name, labels in {"tiles": {"format": "png", "masks": "masks/{id}.png"}, "tabled": table}.items():
        folder = root / "experiments" / name
        folder.mkdir(parents=True)
        settings = {"size": 64, "format": "png", "per_shard": 10}
        comp = competition(image={"size": [64, 64], "channels": 3}, labels=labels, records=settings)
        (folder / "competition.yaml").write_text(yaml.safe_dump(comp.model_dump(mode="json", exclude={"name"})))
        for command in ("data prepare", "folds make", "records make"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("GATEMASK_ROOT", str(root))
                with pytest.raises(SystemExit) as done:
                    main([*command.split(), name, "--json"])
            assert done.value.code == 0
    return root


@dataclass
class Case:
    """A command, words of the expected message, and a function that damages the project."""

    command: str
    words: list[str]
    spoil: Spoil = field(default=lambda root: None)


def rewrite(file: str, old: str, new: str) -> Spoil:
    """Replace the first match of a pattern in a text file."""

    def spoil(root: Path) -> None:
        text = (root / file).read_text()
        changed = re.sub(old, new, text, count=1, flags=re.M)
        assert changed != text
        (root / file).write_text(changed)

    return spoil


def put(file: str, content: str | bytes) -> Spoil:
    def spoil(root: Path) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def gone(file: str) -> Spoil:
    return lambda root: (root / file).unlink() if (root / file).is_file() else shutil.rmtree(root / file)


def both(*spoils: Spoil) -> Spoil:
    return lambda root: [spoil(root) for spoil in spoils]


def rle_row(text: str) -> Spoil:
    """Set the encoding of all rows with a mask to `text`."""

    def spoil(root: Path) -> None:
        rows = [line.split(",") for line in (root / "raw/rle.csv").read_text().splitlines()]
        lines = [f"{name},{text if runs and number else runs}" for number, (name, runs) in enumerate(rows)]
        (root / "raw/rle.csv").write_text("\n".join(lines) + "\n")

    return spoil


def damaged_images(root: Path) -> None:
    for path in (root / "raw/images").glob("*.png"):
        path.write_bytes(path.read_bytes()[:50])


def other_sizes(root: Path) -> None:
    for path in (root / "raw/images").glob("*.png"):
        cv2.imwrite(str(path), np.zeros((32, 64, 3), np.uint8))


TILES, TABLED = "data prepare tiles", "data prepare tabled"
CASES = {
    # run-length encodings
    "rle, odd count": Case(TABLED, ["are malformed", "odd count", "5 numbers", "rle.csv, row 3"], rle_row("1 2 9 2 5")),
    "rle, not a number": Case(TABLED, ["not a whole number", "x"], rle_row("1 x")),
    "rle, decimal": Case(TABLED, ["not a whole number", "1.5"], rle_row("1.5 2")),
    "rle, without pixels": Case(TABLED, ["without pixels", "length 0 in run 1"], rle_row("1 0")),
    "rle, negative length": Case(TABLED, ["without pixels", "length -2"], rle_row("1 -2")),
    "rle, overlap": Case(TABLED, ["overlap", "runs at 1 and 3"], rle_row("1 5 3 2")),
    "rle, past the end": Case(TABLED, ["past the end", "64 x 64 = 4096"], rle_row("4090 10")),
    "rle, huge": Case(TABLED, ["past the end"], rle_row("99999999999999999999 1")),
    "rle, before the image": Case(
        TABLED + " --set labels.rle.base=1",
        ["before the image", "starts from 1", "gatemask data labels"],
        rle_row("0 2"),
    ),
    "rle, an image empty and masked": Case(
        TABLED, ["both empty and masked", "image tile001"], put("raw/rle.csv", "image_id,rle\ntile001,1 2\ntile001,\n")
    ),
    # label tables
    "table, absent": Case(TABLED, ["table does not exist", "rle.csv"], gone("raw/rle.csv")),
    "table, empty": Case(TABLED, ["is empty", "rle.csv"], put("raw/rle.csv", "")),
    "table, cut short": Case(
        TABLED, ["another number of cells", "row 3", "cut short"], put("raw/rle.csv", "image_id,rle\na,1 2\nb")
    ),
    "table, no such column": Case(
        TABLED, ["lacks the column 'rle'", "rel", "Did you mean"], rewrite("raw/rle.csv", "rle", "rel")
    ),
    "table, semicolons": Case(
        TABLED,
        ["lacks the column", "image_id;rle", "separated by semicolons", "sep=';'"],
        put("raw/rle.csv", "image_id;rle\na;1 2\n"),
    ),
    "table, COCO": Case(
        TABLED,
        ["is JSON", "COCO annotations", "docs/how_to/labels.md"],
        put("raw/rle.csv", '{"images": [], "annotations": []}'),
    ),
    "table, tabs": Case(TABLED, ["separated by tabs"], put("raw/rle.csv", "image_id\trle\na\t1 2\n")),
    "table, not text": Case(TABLED, ["cannot be read", "UTF-8"], put("raw/rle.csv", b"image_id,rle\n\xff\xfe,1\n")),
    "table, header asked as numbers": Case(TABLED + " --set labels.id=0", ["both names, or both numbers"]),
    "table, other ids": Case(
        TABLED,
        ["ids of two lists do not match", "0 of 24 images", "other"],
        put("raw/rle.csv", "image_id,rle\nother,1 2\n"),
    ),
    "labels, no encodings": Case("data labels {root}/raw/labels.csv", ["No column holds run-length encodings"]),
    "labels, COCO": Case(
        "data labels {root}/coco.json", ["is JSON", "PNG mask"], put("coco.json", '{"info": {}, "licenses": []}')
    ),
    "labels, polygons": Case(
        "data labels {root}/p.json", ["polygons", "PNG mask"], put("p.json", '[{"points": [[1, 2], [3, 4]]}]')
    ),
    "labels, semicolons": Case(
        "data labels {root}/s.csv", ["one column only", "semicolons"], put("s.csv", "image_id;rle\na;1 2\n")
    ),
    "labels, format COCO": Case(TILES + " --set labels.format=coco", ["'labels'", "coco", "PNG masks"]),
    "labels, absent": Case("data labels {root}/raw/nothing.csv", ["table does not exist", "nothing.csv"]),
    "labels, a wrong size": Case("data labels {root}/raw/rle.csv --size 64", ["height and width", "1024x1024"]),
    "labels, no such images": Case("data labels {root}/raw/rle.csv --images *.jpg", ["No image was found", "*.jpg"]),
    "labels, no such competition": Case(
        "data labels {root}/raw/rle.csv --size 64x64 --write tilse", ["competition 'tilse'", "Did you mean 'tiles'"]
    ),
    "labels, another size than the YAML's": Case(
        "data labels {root}/raw/rle.csv --size 64x128 --write tiles", ["another size", "[64, 64]", "[64, 128]"]
    ),
    # images and masks
    "images, none": Case(TILES, ["No image was found", "images/*.png", "--labels-only"], gone("raw/images")),
    "images, all damaged": Case(TILES, ["No training image is left", "24 problems", "problems.csv"], damaged_images),
    "images, all of another size": Case(
        TILES, ["another size than image.size", "received: [64, 64]", "image.size: [32, 64]"], other_sizes
    ),
    "images, strict": Case(
        TILES + " --strict", ["cannot be used", "problems.csv"], put("raw/images/tile003.png", b"x")
    ),
    "images, an absolute pattern": Case(TILES + " --set train.images=/etc/*", ["absolute", "/etc/*"]),
    "raw folder, none": Case(TILES + " --data {root}/nowhere", ["raw files do not exist", "nowhere", "--data"]),
    "masks, no id in the pattern": Case(TILES + " --set labels.masks=masks/x.png", ["labels.masks", "masks/x.png"]),
    "masks, an impossible window": Case(TILES + " --set image.window=lung", ["image.window", "'full', 'file'", "lung"]),
    # groups and columns
    "groups, no such tag": Case(
        TILES + " --set groups.dicom=PatientId", ["Unknown DICOM tag", "Did you mean 'PatientID'"]
    ),
    "groups, a tag of PNGs": Case(
        TILES + " --set groups.file=null --set groups.dicom=PatientID", ["No training image is left", "is not DICOM"]
    ),
    "groups, a bad pattern": Case(TILES + " --set groups.regex=(", ["not a regular expression", "groups.regex"]),
    "groups, a pattern without parenthesis": Case(TILES + " --set groups.regex=tile", ["no parenthesis"]),
    "groups, no table": Case(TILES, ["table does not exist", "labels.csv"], gone("raw/labels.csv")),
    "groups, an image in two": Case(
        TILES,
        ["in two groups", "image tile000", "picture0 and other"],
        rewrite("raw/labels.csv", r"\Z", "tile000,other,0,0\n"),
    ),
    "groups, an unknown key": Case(TILES + " --set groups.patient=x", ["Unknown key 'groups.patient'", "dicom"]),
    "extra, no such column": Case(
        TILES + " --set extra.file=labels.csv --set extra.id=id --set extra.columns=[sex]",
        ["lacks the column 'sex'", "positive"],
    ),
    "extra, stratified by nothing": Case("folds make tiles --set folds.stratify=[sex]", ["folds.stratify names 'sex'"]),
    # folds
    "folds, more than groups": Case(
        "folds make tiles --set folds.k=20", ["fewer groups than folds", "12 groups", "21"], gone("folds/tiles.csv")
    ),
    "folds, a group torn apart": Case(
        "folds make tiles",
        ["more than one fold", "folds audit"],
        rewrite("folds/tiles.csv", r"^(tile000),-?\d", r"\1,7"),
    ),
    "folds, an image twice": Case(
        "folds make tiles", ["twice", "tile000"], rewrite("folds/tiles.csv", r"^(tile000,.*)$", r"\1\n\1")
    ),
    "folds, of other images": Case(
        "folds make tiles", ["lists other images", "1 missing"], rewrite("folds/tiles.csv", r"^tile000.*\n", "")
    ),
    "folds, no table to import": Case(
        "folds import tiles {root}/none.csv --force", ["table does not exist", "none.csv"]
    ),
    "folds, import over others": Case("folds import tiles {root}/folds/tiles.csv", ["folds already", "--force"]),
    "folds, import of a leak": Case(
        "folds import tiles {root}/f.csv --force",
        ["more than one fold"],
        put("f.csv", "id,fold\n" + "".join(f"tile{n:03d},{n % 3 - 1}\n" for n in range(24))),
    ),
    "audit, no groups": Case(
        "folds audit {root}/f.csv",
        ["groups of the images are unknown", "--groups"],
        put("f.csv", "id,fold\na,0\nb,1\n"),
    ),
    "audit, groups of others": Case(
        "folds audit {root}/folds/tiles.csv --groups {root}/g.csv",
        ["ids of two lists do not match", "tile000"],
        put("g.csv", "x,1\ny,2\n"),
    ),
    "audit, one column of groups": Case(
        "folds audit {root}/folds/tiles.csv --groups {root}/g.csv", ["one column"], put("g.csv", "tile000\n")
    ),
    "audit, a blank fold": Case(
        "folds audit {root}/f.csv", ["no fold", "row 3, image b"], put("f.csv", "id,fold\na,0\nb,\n")
    ),
    # records
    "records, no manifest": Case(
        "records make tiles", ["no manifest yet", "gatemask data prepare tiles"], gone("data/tiles")
    ),
    "records, a raw file went bad": Case(
        "records make tiles",
        ["cannot be read", "tile003.png"],
        both(gone("data/tiles/records-64"), put("raw/images/tile003.png", b"x")),
    ),
    "records, the raw folder went away": Case(
        "records make tiles", ["cannot be read", "No such file"], both(gone("data/tiles/records-64"), gone("raw"))
    ),
    "records, none to check": Case(
        "records check tiles", ["no finished records", "records make tiles"], gone("data/tiles/records-64")
    ),
    "records, damaged": Case(
        "records check tiles",
        ["records are damaged", "00001.tfrec", "made again"],
        put("data/tiles/records-64/00001.tfrec", b"junk"),
    ),
    "records, an index cut short": Case(
        "records check tiles",
        ["Not valid JSON", "index.json", "Delete"],
        put("data/tiles/records-64/index.json", '{"made'),
    ),
    "records, a size that encoders refuse": Case(
        "records make tiles --set records.size=100", ["records.size", "multiple of 32"]
    ),
    # download
    "download, no competition named": Case("data download tiles", ["kaggle.competition", "competition.yaml"]),
}


@pytest.mark.parametrize("name", CASES)
def test_invalid_input_is_reported(
    name: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root, case = tmp_path / "root", CASES[name]
    shutil.copytree(sound, root)
    monkeypatch.setenv("GATEMASK_ROOT", str(root))
    monkeypatch.setenv("COLUMNS", "300")
    case.spoil(root)
    before = {path: path.read_bytes() for path in root.rglob("*.csv") if path.name != "problems.csv"}
    with pytest.raises(SystemExit) as done:
        main(case.command.format(root=root).split())
    shown = capfd.readouterr()
    assert done.value.code == 1, shown.err
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert "error: " in shown.err
    for word in case.words:
        assert word in shown.err, shown.err
    assert {path: path.read_bytes() for path in before if path.exists()} == before, "no file is written partially"
    assert not list(root.rglob(".tmp-*"))
