"""What `gatemask new` writes, asks and refuses."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import JsonValue

from gatemask.config import Ensemble, Experiment, PngLabels, RleLabels, load_competition, load_ensemble, load_experiment
from gatemask.errors import GatemaskError
from gatemask.new.competition import make_competition
from gatemask.new.decisions import Decisions, Question
from gatemask.new.inputs import NewOptions
from gatemask.yaml12 import parse_yaml
from tests import competitions
from tests.conftest import write_tiles

New = Callable[[str, list[str]], Path]
YAMLS = ["quick", "quick_gate", "good", "good_gate", "strong", "strong_gate"]


def tiles(tmp_path: Path) -> list[str]:
    raw = write_tiles(tmp_path / "raw")
    return competitions.arguments(raw, images="images", labels="masks", groups="labels.csv")


def values(path: Path) -> dict[str, JsonValue]:
    found = parse_yaml(path.read_text(encoding="utf-8"), path).value
    assert isinstance(found, dict)
    return found


def test_all_yamls_load(tmp_path: Path, new: New) -> None:
    folder = new("tiles2", tiles(tmp_path))
    for quick in (False, True):
        comp = load_competition(folder, quick=quick)
        ensemble = load_ensemble(folder, quick=quick)
        for name in YAMLS:
            experiment = load_experiment(folder / f"{name}.yaml", quick=quick)
            assert experiment.task == ("gate" if name.endswith("gate") else "mask")
    assert (comp.groups.file, comp.groups.id, comp.groups.column) == ("labels.csv", "id", "group_image")
    assert comp.folds.holdout
    assert (ensemble.gate.experiments, ensemble.mask.experiments) == (["quick_gate"], ["quick"])
    assert not {path.name for path in folder.parent.iterdir()} - {folder.name, "schemas"}, "nothing else is left behind"


def test_the_raw_folder_is_the_common_parent(tmp_path: Path, new: New) -> None:
    folder = new("tiles2", tiles(tmp_path))
    comp = load_competition(folder)
    assert (tmp_path / "project" / comp.raw).resolve() == (tmp_path / "raw").resolve()
    assert comp.train.images == "images/*.png"


def test_every_guess_has_a_comment(tmp_path: Path, new: New) -> None:
    text = (new("tiles2", tiles(tmp_path)) / "competition.yaml").read_text(encoding="utf-8")
    for topic in ("ids", "size", "channels", "labels", "values", "empties", "metric", "groups", "folds", "records"):
        assert f"# {topic}: " in text


def test_nothing_is_overwritten(tmp_path: Path, new: New) -> None:
    options = tiles(tmp_path)
    folder = new("tiles2", options)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(GatemaskError, match="exists already"):
        new("tiles2", options)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["Upper", "a_b", "x-quick", "audit", "", "a/b", "../up"])
def test_names_that_are_not_allowed(name: str, tmp_path: Path, new: New) -> None:
    options = tiles(tmp_path)
    with pytest.raises(GatemaskError, match=r"cannot (name a competition|be called)"):
        new(name, options)
    assert not list((tmp_path / "project/experiments").iterdir())


def test_without_terminal_and_yes_all_questions_are_listed(tmp_path: Path, new: New) -> None:
    with pytest.raises(GatemaskError, match="no terminal") as caught:
        new("tiles2", [word for word in tiles(tmp_path) if word != "--yes"])
    assert "Which metric" in str(caught.value)
    assert "mean_dice" in str(caught.value)
    assert not list((tmp_path / "project/experiments").iterdir())


def test_answers_replace_guesses(tmp_path: Path) -> None:
    raw = write_tiles(tmp_path / "raw")
    (tmp_path / "project/experiments").mkdir(parents=True)
    asked: list[str] = []

    def ask(question: Question) -> str:
        asked.append(question.topic)
        return "global_dice" if question.topic == "metric" else question.guess

    options = NewOptions(str(raw / "images"), str(raw / "masks"))
    make_competition(tmp_path / "project", "tiles2", options, Decisions(False, ask))
    assert asked == ["metric"]
    assert load_competition(tmp_path / "project/experiments/tiles2").metric == "global_dice"


def test_a_named_metric_is_not_asked_for(tmp_path: Path, new: New) -> None:
    options = [word for word in tiles(tmp_path) if word != "--yes"] + ["--metric", "pixel_f2"]
    assert load_competition(new("tiles2", options)).metric == "pixel_f2"


def test_an_empty_test_folder_is_a_hidden_test_set(tmp_path: Path, new: New) -> None:
    options = tiles(tmp_path)
    (tmp_path / "raw/hidden").mkdir()
    (tmp_path / "raw/sample.csv").write_text("image,rle\n")
    folder = new(
        "tiles2", [*options, "--test", str(tmp_path / "raw/hidden"), "--sample", str(tmp_path / "raw/sample.csv")]
    )
    comp = load_competition(folder)
    assert comp.test is not None and comp.train.pattern.startswith("images/")
    assert comp.test.pattern == comp.train.pattern.replace("images/", "hidden/")
    assert (comp.submission.id, comp.submission.mask, comp.folds.holdout) == ("image", "rle", False)


def test_the_name_on_kaggle(tmp_path: Path, new: New) -> None:
    options = tiles(tmp_path)
    without = new("tiles2", options)
    assert "# kaggle: {competition: NAME}" in (without / "competition.yaml").read_text()
    named = new("tiles3", [*options, "--competition", "data-science-bowl-2018"])
    assert load_competition(named).kaggle.competition == "data-science-bowl-2018"
    with pytest.raises(GatemaskError, match="name on Kaggle"):
        new("tiles4", [*options, "--competition", "https://www.kaggle.com/competitions/x"])


def test_no_gate_where_no_image_is_empty(tmp_path: Path, new: New) -> None:
    folder = new("full", competitions.no_empty_image(tmp_path / "raw").options)
    assert load_ensemble(folder).gate.experiments == []
    assert not list(folder.glob("*gate*"))


def test_experiments_are_planned_for_the_data(tmp_path: Path, new: New) -> None:
    """Inputs of oblong images are oblong; larger plans have larger inputs; quick mode shrinks all of them."""
    folder = new("joined", competitions.image_and_class_id(tmp_path / "raw").options)
    plans = {name: _experiment(folder, name) for name in ("quick", "good", "strong")}
    areas = [plan.input.shape[0] * plan.input.shape[1] for plan in plans.values()]
    assert areas == sorted(areas)
    for plan in plans.values():
        height, width = plan.input.shape
        assert 1.4 < width / height < 2.8
    assert _experiment(folder, "strong_gate").model.per_class
    assert plans["quick"].model.weights == "none"
    assert plans["good"].model.weights == "imagenet"


def _experiment(folder: Path, name: str) -> Experiment:
    merged = {**values(folder / "base.yaml"), **values(folder / f"{name}.yaml"), "name": name}
    return Experiment.model_validate({key: value for key, value in merged.items() if key not in ("extends", "quick")})


@pytest.mark.parametrize("missing", ["images", "labels", "test"])
def test_paths_that_do_not_exist(missing: str, tmp_path: Path, new: New) -> None:
    raw = write_tiles(tmp_path / "raw", count=4)
    paths = {"images": "images", "labels": "masks", "test": "images", missing: "nowhere"}
    with pytest.raises(GatemaskError, match=f"--{missing} names a folder that does not exist"):
        new("tiles2", competitions.arguments(raw, **paths))


def test_masks_of_other_images(tmp_path: Path, new: New) -> None:
    raw = write_tiles(tmp_path / "raw", count=4)
    for path in (raw / "masks").iterdir():
        path.rename(path.with_name(path.name.replace("tile", "other")))
    with pytest.raises(GatemaskError, match="names of the masks do not refer to the images"):
        new("tiles2", competitions.arguments(raw, images="images", labels="masks"))


def test_a_table_of_other_images(tmp_path: Path, new: New) -> None:
    raw = tmp_path / "raw"
    options = competitions.gray_16_bits(raw, images=12, tests=2).options
    text = (raw / "train.csv").read_text().splitlines()
    (raw / "train.csv").write_text("\n".join([text[0], *(f"zz{line}" for line in text[1:])]) + "\n")
    with pytest.raises(GatemaskError, match="names none of the images"):
        new("gray", options)


def test_masks_of_another_size(tmp_path: Path, new: New) -> None:
    raw = write_tiles(tmp_path / "raw", count=4)
    for path in (raw / "masks").iterdir():
        cv2.imwrite(str(path), np.zeros((64, 128), np.uint8))
    with pytest.raises(GatemaskError, match="another size than its image"):
        new("tiles2", competitions.arguments(raw, images="images", labels="masks"))


def test_ensemble_without_gates() -> None:
    assert Ensemble.model_validate({"mask": {"experiments": ["quick"]}}).gate.experiments == []


def test_the_command_prints_its_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gatemask.cli import main

    (tmp_path / "experiments").mkdir()
    monkeypatch.setenv("GATEMASK_ROOT", str(tmp_path))
    for expected in (0, 1):  # the second call finds the name taken
        with pytest.raises(SystemExit) as ended:
            main(["new", "tiles2", *tiles(tmp_path / str(expected)), "--json"])
        assert ended.value.code == expected
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["folder"] == "experiments/tiles2"
    assert {"images", "labels", "metric"} <= {finding["topic"] for finding in result["findings"]}
    assert "exists already" in printed.err


@pytest.mark.parametrize(("answer", "expected"), [("objects", True), ("classes", False)])
def test_few_values_may_be_classes_or_objects(answer: str, expected: bool, tmp_path: Path) -> None:
    """Where the files fit both readings, the user decides."""
    raw = write_tiles(tmp_path / "raw", count=12)
    for number, path in enumerate(sorted((raw / "masks").iterdir())):
        mask = np.zeros((128, 128), np.uint8)
        for value in range(1, 2 + number % 3):
            mask[20 * value : 20 * value + 10, 20:40] = value
        cv2.imwrite(str(path), mask)
    (tmp_path / "project/experiments").mkdir(parents=True)
    asked = Decisions(False, lambda question: answer if question.topic == "values" else question.guess)
    make_competition(tmp_path / "project", "t", NewOptions(str(raw / "images"), str(raw / "masks")), asked)
    labels = values(tmp_path / "project/experiments/t/competition.yaml")["labels"]
    assert isinstance(labels, dict)
    assert labels.get("numbered", False) is expected
    assert ("values" in labels) is not expected


def test_labels_beside_the_images_are_found(tmp_path: Path, new: New) -> None:
    raw = write_tiles(tmp_path / "raw", count=12)
    comp = load_competition(new("tiles2", ["--images", str(raw / "images"), "--yes"]))
    assert isinstance(comp.labels, PngLabels)
    assert comp.labels.masks == "masks/{id}.png"


def test_labels_that_could_be_several_are_not_guessed(tmp_path: Path, new: New) -> None:
    raw = write_tiles(tmp_path / "raw", count=4)
    (raw / "labels").mkdir()
    with pytest.raises(GatemaskError, match="several files could be meant"):
        new("tiles2", ["--images", str(raw / "images"), "--yes"])


def test_a_glob_of_images_stays_as_narrow(tmp_path: Path, new: New) -> None:
    raw = write_tiles(tmp_path / "raw", count=24)
    comp = load_competition(new("tiles2", competitions.arguments(raw, images="images/tile00*.png", labels="masks")))
    assert comp.train.images == "images/tile00*.png"


def test_an_unknown_metric(tmp_path: Path, new: New) -> None:
    with pytest.raises(GatemaskError, match="makes no valid competition") as caught:
        new("tiles2", [*tiles(tmp_path), "--metric", "accuracy"])
    assert "accuracy" in str(caught.value)
    assert not list((tmp_path / "project/experiments").iterdir())


def test_a_table_of_mask_files(tmp_path: Path, new: New) -> None:
    raw = write_tiles(tmp_path / "raw", count=4)
    rows = [[path.stem, f"masks/{path.name}"] for path in sorted((raw / "masks").iterdir())]
    competitions.write_csv(raw / "train.csv", ["id", "mask_path"], rows)
    with pytest.raises(GatemaskError, match="names mask files"):
        new("tiles2", competitions.arguments(raw, images="images", labels="train.csv"))


def test_malformed_masks_do_not_hide_their_column(tmp_path: Path, new: New) -> None:
    raw = tmp_path / "raw"
    options = competitions.gray_16_bits(raw, images=12, tests=2).options
    lines = (raw / "train.csv").read_text().splitlines()
    masked = [number for number, line in enumerate(lines) if " " in line]
    for number in masked[:2]:
        lines[number] += f" {number}"  # an odd count of numbers
    (raw / "train.csv").write_text("\n".join(lines) + "\n")
    labels = load_competition(new("gray", options)).labels
    assert isinstance(labels, RleLabels)
    assert labels.mask == "rle_mask"


@pytest.mark.parametrize(("answer", "inverted"), [("mask", False), ("background", True)])
def test_masks_that_look_like_a_background(answer: str, inverted: bool, tmp_path: Path) -> None:
    raw = write_tiles(tmp_path / "raw", count=12)
    for path in (raw / "masks").iterdir():
        cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    (tmp_path / "project/experiments").mkdir(parents=True)
    asked = Decisions(False, lambda question: answer if question.topic == "inverted" else question.guess)
    make_competition(tmp_path / "project", "t", NewOptions(str(raw / "images"), str(raw / "masks")), asked)
    labels = load_competition(tmp_path / "project/experiments/t").labels
    assert isinstance(labels, PngLabels)
    assert labels.invert is inverted
    assert (tmp_path / "project/experiments/t/quick_gate.yaml").exists() is inverted, "then every third is empty"


def test_test_images_of_another_size_make_sizes_mixed(tmp_path: Path, new: New) -> None:
    generated = competitions.gray_16_bits(tmp_path / "raw", images=12, tests=2)
    for path in (tmp_path / "raw/test/images").iterdir():
        cv2.imwrite(str(path), np.full((120, 90), 20_000, np.uint16))
    image = values(new("gray", generated.options) / "competition.yaml")["image"]
    assert isinstance(image, dict)
    assert image["size"] == "mixed"


@pytest.mark.parametrize(
    ("names", "expected"), [(["road", "tree"], {"road": 1, "tree": 2}), (["2", "1"], {"1": 1, "2": 2})]
)
def test_the_sample_names_the_values_of_index_masks(
    names: list[str], expected: dict[str, int], tmp_path: Path, new: New
) -> None:
    raw = tmp_path / "raw"
    options = competitions.index_masks(raw, images=12).options
    rows = [[f"v{number:03d}_{name}", ""] for number in range(12) for name in names]
    competitions.write_csv(raw / "sample.csv", ["Id", "Rle"], rows)
    found = values(new("index", [*options, "--sample", str(raw / "sample.csv")]) / "competition.yaml")
    assert found["labels"]["values"] == expected  # type: ignore[index,call-overload]
    assert found["classes"] == list(expected)
    assert found["submission"]["joined"] == "{id}_{class}"  # type: ignore[index,call-overload]


def test_classes_that_only_the_sample_names(tmp_path: Path, new: New) -> None:
    raw = tmp_path / "raw"
    options = competitions.image_and_label(raw, images=12, tests=2).options
    text = (raw / "train.csv").read_text().splitlines()
    (raw / "train.csv").write_text("\n".join(line for line in text if "_Sugar" not in line) + "\n")
    found = values(new("clouds", options) / "competition.yaml")
    assert found["classes"] == ["Fish", "Flower", "Gravel", "Sugar"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{image}_{label}.png", "{id}_{class}.png"),
        ("masks/{label}/{image}.png", "masks/{class}/{id}.png"),
        ("{label}-{image}.tif", "{class}-{id}.tif"),
    ],
)
def test_a_sample_archive(name: str, expected: str, tmp_path: Path, new: New) -> None:
    raw = tmp_path / "raw"
    options = competitions.overlapping_classes(raw, images=12).options
    with zipfile.ZipFile(raw / "sample.zip", "w") as archive:
        for label in ("organ", "lesion"):
            archive.writestr(name.replace("{image}", "x000").replace("{label}", label), b"")
    submission = values(new("archive", [*options, "--sample", str(raw / "sample.zip")]) / "competition.yaml")
    assert submission["submission"]["archive"]["files"] == expected  # type: ignore[index,call-overload]
