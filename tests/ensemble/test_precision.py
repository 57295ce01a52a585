"""Half precision against float32, on images that each member never trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatemask import quiet
from gatemask.config import Competition, Model, View, load_competition
from gatemask.data.split import read_folds
from gatemask.ensemble import precision
from gatemask.errors import GatemaskError
from gatemask.project import Project
from gatemask.results.ensemble import CompetitionFacts, ShippedEnsemble, ShippedMember
from gatemask.results.rules import RuleValues
from tests import tiny

pytestmark = pytest.mark.integration

SIZE = 32


@pytest.fixture(scope="module", autouse=True)
def tiny_encoders() -> Iterator[None]:
    quiet.tensorflow()
    with pytest.MonkeyPatch.context() as patched:
        tiny.install(patched.setattr)
        yield


@pytest.fixture(scope="module")
def shipped(tiny_encoders: None, phantom_records: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Return the quick phantoms' records, and a gate and a mask network of random weights for each of their folds."""
    from gatemask.builders import models

    project = Project(phantom_records, "phantom", quick=True)
    folder = tmp_path_factory.mktemp("weights")
    members: dict[str, list[ShippedMember]] = {"gate": [], "mask": []}
    for kind, architecture in (("gate", "gate"), ("mask", "unet")):
        config = Model(name=architecture, encoder="mobilenet", weights="none")
        for fold in (0, 1):
            name = f"{kind}-fold{fold}"
            model = models.build_network(config, SIZE, 1, 1, seed=fold).model
            model.save_weights(folder / f"{name}.weights.h5")
            members[kind].append(
                ShippedMember(
                    name=name,
                    experiment=kind,
                    fold=fold,
                    task=kind,
                    size=SIZE,
                    records=64,
                    tta=[View(hflip=True)],
                    model=config,
                )
            )
    comp = load_competition(project.experiments, quick=True)
    ensemble = ShippedEnsemble(
        competition=CompetitionFacts.of(comp),
        rule=RuleValues(gate=0.4, upper=0.5, lower=0.5, min_area=1),
        gate=members["gate"],
        mask=members["mask"],
    )
    return project, comp, ensemble, folder


def test_the_cost_of_half_precision_is_reported(shipped: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[list[str]] = []
    ids_of = precision._validation_images
    monkeypatch.setattr(
        precision, "_validation_images", lambda project, fold: loaded.append(ids_of(project, fold)) or loaded[-1]
    )
    comparison = precision.check_precision(*shipped, "auto")
    assert comparison is not None
    assert comparison.precision == "float16", "of the submission's T4"
    assert comparison.images == 2 * precision.IMAGES
    assert 0 <= comparison.map_difference < 20
    assert 0 <= comparison.pixels_changed < 0.2
    assert abs(comparison.dice - comparison.dice_float32) < 0.1
    folds = read_folds(shipped[0]).set_index("image_id")["fold"]
    assert [{int(folds[name]) for name in ids} for ids in loaded] == [{0}, {1}], "own validation images"


def test_too_high_a_cost_is_rejected(shipped: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "TOLERATED", -2.0)  # even a gain of less than that
    with pytest.raises(GatemaskError, match="Masks in float16 are worse"):
        precision.check_precision(*shipped, "float16")


@pytest.mark.parametrize(("wanted", "machine"), [("float32", "NvidiaTeslaT4"), ("auto", "none"), ("bfloat16", "none")])
def test_where_the_kernel_runs_in_float32_there_is_nothing_to_check(
    shipped: tuple[Any, ...], wanted: str, machine: str
) -> None:
    project, comp, chosen, folder = shipped
    kaggle = comp.kaggle.model_copy(update={"inference": machine})
    other: Competition = comp.model_copy(update={"kaggle": kaggle})
    assert precision.check_precision(project, other, chosen, folder, wanted) is None
