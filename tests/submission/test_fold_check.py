"""A training fold scores through its submission file what tuning found, and a wrong dialect shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gatemask.config import Competition, Ensemble
from gatemask.data.truth import Annotation, Masks, write_masks
from gatemask.errors import GatemaskError
from gatemask.masks import rle
from gatemask.project import Project
from gatemask.results.rules import RuleValues
from gatemask.results.submission import FoldCheckResult
from gatemask.results.tuning import FoldRule
from gatemask.submission import fold_check
from gatemask.submission.fold_check import check_fold, print_fold_check
from gatemask.tuning.members import MemberPredictions, TrainingImages
from tests.data.test_manifest import competition
from tests.tuned_results import tuned_result

SIZES = {f"i{number}": (12 + number, 20 - number) for number in range(8)}
CLASSES = ["x", "y"]
ENSEMBLE = Ensemble.model_validate({"gate": {"experiments": ["g"]}, "mask": {"experiments": ["m"]}})
RULES = [RuleValues(gate=0.3, upper=0.6, lower=0.5, min_area=3), RuleValues(gate=0.5, upper=0.7, lower=0.4, min_area=2)]
FOLD = 1


class Reader(dict[str, np.ndarray]):
    """Maps by image id."""


def levels(image_id: str) -> np.ndarray:
    """Return the map of an image, uint8 (height, width, 2)."""
    return np.random.default_rng(int(image_id[1:])).integers(0, 256, (*SIZES[image_id], 2)).astype(np.uint8)


def gate(image_id: str) -> float:
    return 0.1 + 0.1 * int(image_id[1:])


def decided(image_id: str, exclusive: bool) -> np.ndarray:
    """Return the masks of an image, bool (height, width, 2), by the rules above."""
    full_map = levels(image_id).astype(int)
    masks = np.zeros(full_map.shape, bool)
    for index, rule in enumerate(RULES):
        plane = full_map[:, :, index]
        if gate(image_id) >= rule.gate and (plane >= rule.upper * 255).sum() >= rule.min_area:
            masks[:, :, index] = plane >= rule.lower * 255
    if exclusive:
        both = masks.all(axis=2)
        masks[both & (full_map[:, :, 1] > full_map[:, :, 0]), 0] = False
        masks[both & (full_map[:, :, 1] <= full_map[:, :, 0]), 1] = False
    return masks


def true_mask(image_id: str) -> np.ndarray:
    """Return the truth of an image; every fourth has none of the second class."""
    mask = levels(image_id) > 110
    mask[:3] = False
    mask[:, :, 1] &= int(image_id[1:]) % 4 != 0
    return mask


def dice(first: np.ndarray, second: np.ndarray) -> float:
    total = int(first.sum() + second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def expected_score(exclusive: bool = False) -> float:
    ids = [name for name in SIZES if int(name[1:]) % 2 == FOLD]
    scores = [
        [dice(true_mask(name)[:, :, index], decided(name, exclusive)[:, :, index]) for index in range(2)]
        for name in ids
    ]
    return float(np.mean(scores))


def check(
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    submission: dict[str, Any],
    score: float | None = None,
    as_written: bool = False,
    **more: Any,
) -> FoldCheckResult:
    """Check the fold of a competition of two classes and images of mixed sizes."""
    comp = competition(image={"size": "mixed", "channels": 1}, classes=CLASSES, submission=submission, **more)
    texts = {
        name: [Annotation(CLASSES[index], rle.encode(true_mask(name)[:, :, index])) for index in range(2)]
        for name in SIZES
    }
    kept = {name: [part for part in parts if part.rle] for name, parts in texts.items()}
    truth = Masks(write_masks(root / "masks.csv", kept), SIZES, CLASSES)
    fold_of = {name: int(name[1:]) % 2 for name in SIZES}
    gates = {name: gate(name) for name in SIZES}
    readers: Any = [Reader({name: levels(name) for name in SIZES})]
    given = MemberPredictions(fold_of, [gates], gates, readers, [1], truth, classes=2)

    @contextmanager
    def opened(*_: object) -> Iterator[MemberPredictions]:
        yield given

    exclusive = bool(more.get("exclusive"))
    found = expected_score(exclusive) if score is None else score
    tuned = tuned_result(per_fold={str(FOLD): FoldRule(score=found, rule=RULES)})
    manifest = pd.DataFrame({"image_id": list(SIZES), "path": [f"images/{name}.png" for name in SIZES]})
    monkeypatch.setattr(fold_check, "require_tuned", lambda *_: tuned)
    monkeypatch.setattr(fold_check, "training_images", lambda _: TrainingImages(fold_of, {}))
    monkeypatch.setattr(fold_check, "open_members", opened)
    monkeypatch.setattr(fold_check, "read_manifest", lambda *_: manifest)
    monkeypatch.setattr(fold_check, "raw_folder", lambda *_: root)
    return check_fold(Project(root, "tiles"), comp, ENSEMBLE, FOLD, as_written)


FORMATS: dict[str, dict[str, Any]] = {
    "joined": {"joined": "{class}/{id}.jpg"},
    "column": {"class_column": "Class", "rle": {"offsets": "relative", "base": 0, "order": "row", "empty": "-1"}},
    "wide": {"columns": {"x": "first", "y": "second"}},
    "objects": {"class_column": "Class", "rows": "object"},
    "archive": {"archive": {"files": "{class}-{id}.png"}},
}


@pytest.mark.parametrize("submission", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("exclusive", [False, True])
def test_both_scores_agree_in_every_format(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, submission: dict[str, Any], exclusive: bool
) -> None:
    result = check(monkeypatch, tmp_path, submission, exclusive=exclusive)
    assert result.score == pytest.approx(result.tuned, abs=1e-12)
    assert 0.3 < result.score < 1 and result.images == 4
    assert Path(result.submission).exists()
    print_fold_check(result)


def test_rows_are_named_as_in_the_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text('"ImageId";"EncodedPixels"\n"t1.png_x";"1 1"\n"t1.png_y";""\n')
    result = check(monkeypatch, tmp_path, {"sample": "sample.csv", "joined": "{id}_{class}"})
    lines = Path(result.submission).read_text().splitlines()
    assert lines[0] == '"ImageId";"EncodedPixels"'
    assert [line.split(";")[0] for line in lines[1:3]] == ['"i1.png_x"', '"i1.png_y"']


@pytest.mark.parametrize(
    ("key", "value"), [("base", 0), ("order", "row"), ("offsets", "relative")], ids=["base", "order", "offsets"]
)
def test_a_wrong_dialect_shows_as_a_wrong_score(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str, value: Any
) -> None:
    labels = {"format": "rle", "file": "train.csv", "class_column": "Class"}
    submission = {"class_column": "Class", "rle": {key: value}}
    with pytest.raises(GatemaskError, match=rf"submission\.rle\.{key}, which differs from labels\.rle") as caught:
        check(monkeypatch, tmp_path, submission, labels=labels)
    assert f"{expected_score():.6f}" in str(caught.value) or "cannot be read" in str(caught.value)
    result = check(monkeypatch, tmp_path, submission, as_written=True, labels=labels)
    assert result.score == pytest.approx(expected_score())
    assert any("differs from labels.rle" in note for note in result.notes)


def test_another_score_than_that_of_tuning_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = expected_score() + 1e-4
    with pytest.raises(GatemaskError, match=rf"does not score what its masks score[\s\S]*{wrong:.6f}"):
        check(monkeypatch, tmp_path, FORMATS["joined"], score=wrong)


def test_a_fold_that_does_not_exist_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fold_check, "require_tuned", lambda *_: tuned_result(per_fold={}))
    comp: Competition = competition()
    with pytest.raises(GatemaskError, match="no such fold"):
        check_fold(Project(tmp_path, "tiles"), comp, ENSEMBLE, 7)
