"""Estimates of the kernel's runtime: checked by hand for given costs, and once with real networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gatemask.config import Competition, Ensemble, Experiment
from gatemask.cost import devices, kernel_time
from gatemask.cost.devices import Device, ForwardPass
from gatemask.cost.kernel_time import KernelEstimate, MemberCosts
from gatemask.cost.tile_counts import count_tiles
from gatemask.files import read_json, write_text
from gatemask.project import Project
from tests.ensemble.test_select import COMP

CHOSEN = Ensemble.model_validate({"gate": {"experiments": ["g"]}, "mask": {"experiments": ["u", "v"]}})


def experiment(task: str = "mask", **changes: Any) -> Experiment:
    model = {"name": "gate" if task == "gate" else "unet", "encoder": "resnet18"}
    given = {"name": "e", "task": task, "input": {"size": 32}, "epochs": 1, "model": model, "loss": {"bce": 1}}
    return Experiment.model_validate({**given, **changes})


def test_gates_see_every_image_and_mask_networks_those_that_pass() -> None:
    gate, mask = MemberCosts({"g": 0.1, "h": 0.3}, 5), MemberCosts({"u": 1.0, "v": 2.0}, 2)
    kernel = KernelEstimate(gate, mask, 1000, 1.0)
    assert kernel.seconds(["g"], [], 0.5) == pytest.approx(500)
    assert kernel.seconds(["g", "h"], ["u"], 0.25) == pytest.approx(1000 * (0.4 * 5 + 0.25 * 2))


def test_the_passing_share_is_only_computed_if_it_matters() -> None:
    kernel = KernelEstimate(MemberCosts({"g": 0.1}, 1, cap=1), MemberCosts({"u": 1.0}, 4, cap=4), 1000, 1.0)

    def unneeded() -> float:
        raise AssertionError("the share does not matter here")

    assert KernelEstimate(kernel.gate, kernel.mask, 10, 1.0).excess(["g"], ["u"], unneeded) is None
    assert kernel.excess(["g"], ["u"], lambda: 0.5) is None
    assert kernel.excess(["g"], ["u"], lambda: 0.9) == "over 1 hours"
    tight = KernelEstimate(kernel.gate, MemberCosts({"u": 1.0}, 5, cap=4), 10, 1.0)
    assert tight.excess(["g"], ["u"], unneeded) == "over the cap of 4 mask networks"


@pytest.mark.integration
def test_networks_are_built_once_per_structure_and_views_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, built = Project(tmp_path, "c"), []
    original = kernel_time._count_forward_pass

    def counting(exp: Experiment, comp: Competition) -> ForwardPass:
        built.append((exp.input.size, comp.image.channels, comp.outputs))
        return original(exp, comp)

    monkeypatch.setattr(kernel_time, "_count_forward_pass", counting)
    experiments = {
        "u": experiment(),
        "v": experiment(tta=["hflip", {"random": 3}], augment=["hflip"]),
        "g": experiment("gate"),
    }
    seconds = kernel_time.seconds_by_experiment(project, COMP, CHOSEN, experiments)
    assert built == [(32, 1, 1), (32, 1, 1)], "u and v have the same structure"
    assert seconds["v"] == pytest.approx(5 * seconds["u"])
    assert 0 < seconds["g"] < seconds["u"]
    facts = read_json(project.runs / "ensemble/costs.json")
    assert kernel_time.seconds_by_experiment(project, COMP, CHOSEN, experiments) == seconds
    assert len(built) == len(facts) == 2, "read from the file"
    half = CHOSEN.model_copy(update={"inference": CHOSEN.inference.model_copy(update={"precision": "auto"})})
    assert kernel_time.seconds_by_experiment(project, COMP, half, experiments)["u"] < seconds["u"], "float16 on a T4"


def test_this_machines_cpu_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([Device("this machine's CPU", 1, 8, 0.1, 10)])
    monkeypatch.setattr(devices, "this_machine", lambda: next(measured))
    monkeypatch.setattr(kernel_time, "_count_forward_pass", lambda *_: ForwardPass(4 * 10**9, 10**6))
    without = COMP.model_copy(update={"kaggle": COMP.kaggle.model_copy(update={"inference": "none"})})
    for _ in range(2):
        seconds = kernel_time.seconds_by_experiment(Project(tmp_path, "c"), without, CHOSEN, {"u": experiment()})
        assert seconds == {"u": pytest.approx(0.1)}, "4 Gflop at 0.4 of 0.1 Tflop/s"


def test_the_hidden_test_set_is_as_large_as_configured_or_as_the_hold_out(tmp_path: Path) -> None:
    project = Project(tmp_path, "c")
    write_text(project.folds, "image_id,fold,group,stratum\n" + "".join(f"i{n},{n % 3 - 1},p{n},0\n" for n in range(7)))
    held = Competition.model_validate({**COMP.model_dump(exclude={"test"}), "folds": {"holdout": True}})
    assert kernel_time.count_test_images(project, held) == 3
    named = held.model_copy(update={"kaggle": held.kaggle.model_copy(update={"test_images": 3205})})
    assert kernel_time.count_test_images(project, named) == 3205
    assert kernel_time.shipped_folds(project, CHOSEN.mask) == 2
    assert kernel_time.shipped_folds(project, CHOSEN.mask.model_copy(update={"folds": 1})) == 1


def test_tiles_multiply_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pd.DataFrame({"image_id": ["a", "b", "c"], "height": [128, 64, 400], "width": [256, 64, 64]})
    tiles = {"size": 64, "overlap": 0, "scale": 0.5}
    tiled = Competition.model_validate({**COMP.model_dump(exclude_unset=True), "tiles": tiles})
    assert count_tiles(images, tiled).tolist() == [2, 1, 4]
    assert count_tiles(images, COMP).tolist() == [1, 1, 1]
    read: list[str] = []
    monkeypatch.setattr(kernel_time, "read_manifest", lambda _, split: read.append(split) or images)
    monkeypatch.setattr(kernel_time, "_count_forward_pass", lambda *_: ForwardPass(10**9, 10**6))
    whole, cut = (
        kernel_time.seconds_by_experiment(Project(tmp_path, "c"), comp, CHOSEN, {"u": experiment()})
        for comp in (COMP, tiled)
    )
    assert cut["u"] == pytest.approx(7 / 3 * whole["u"])
    assert read == ["train" if COMP.test is None else "test"]


def test_maps_of_exclusive_classes_and_gates_per_class_have_costs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[bool] = []
    monkeypatch.setattr(
        kernel_time, "_count_forward_pass", lambda _, comp: counted.append(comp.exclusive) or ForwardPass(1, 1)
    )
    several = COMP.model_copy(update={"classes": ["a", "b"]})
    gates = [experiment("gate", model={"name": "gate", "encoder": "resnet18", "per_class": c}) for c in (False, True)]
    for comp in (several, several.model_copy(update={"exclusive": True})):
        experiments = {"u": experiment(), "g": gates[0], "each": gates[1]}
        kernel_time.seconds_by_experiment(Project(tmp_path, "c"), comp, CHOSEN, experiments)
    assert counted == [False] * 3 + [True]
