"""What a kernel is predicted to take: by hand where numbers are given, and by real networks once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatemask.config import Competition, Ensemble, Experiment
from gatemask.cost import kernel_time, plan
from gatemask.cost.kernel_time import Kernel, Part
from gatemask.files import read_json, write_text
from gatemask.project import Project
from tests.ensemble.test_select import COMP

CHOSEN = Ensemble.model_validate({"gate": {"experiments": ["g"]}, "mask": {"experiments": ["u", "v"]}})


def experiment(task: str = "mask", **changes: Any) -> Experiment:
    model = {"name": "gate" if task == "gate" else "unet", "encoder": "resnet18"}
    given = {"name": "e", "task": task, "input": {"size": 32}, "epochs": 1, "model": model, "loss": {"bce": 1}}
    return Experiment.model_validate({**given, **changes})


def test_gates_see_every_image_and_masks_what_passes() -> None:
    kernel = Kernel(Part({"g": 0.1, "h": 0.3}, 5), Part({"u": 1.0, "v": 2.0}, 2), 1000, 1.0)
    assert kernel.seconds(["g"], [], 0.5) == pytest.approx(500)
    assert kernel.seconds(["g", "h"], ["u"], 0.25) == pytest.approx(1000 * (0.4 * 5 + 0.25 * 2))


def test_what_passes_is_only_asked_for_where_it_matters() -> None:
    kernel = Kernel(Part({"g": 0.1}, 1, cap=1), Part({"u": 1.0}, 4, cap=4), 1000, 1.0)

    def unknown() -> float:
        raise AssertionError("nobody needs to know")

    assert Kernel(kernel.gate, kernel.mask, 10, 1.0).refuse(["g"], ["u"], unknown) is None
    assert kernel.refuse(["g"], ["u"], lambda: 0.5) is None
    assert kernel.refuse(["g"], ["u"], lambda: 0.9) == "over 1 hours"
    tight = Kernel(kernel.gate, Part({"u": 1.0}, 5, cap=4), 10, 1.0)
    assert tight.refuse(["g"], ["u"], unknown) == "over the cap of 4 mask networks"


def test_networks_are_built_once_a_structure_and_views_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, built = Project(tmp_path, "c"), []
    once = kernel_time._forward_pass
    monkeypatch.setattr(kernel_time, "_forward_pass", lambda *shape: built.append(shape[1:]) or once(*shape))
    experiments = {
        "u": experiment(),
        "v": experiment(tta=["hflip", {"random": 3}], augment=["hflip"]),
        "g": experiment("gate"),
    }
    found = kernel_time.seconds_an_image(project, COMP, CHOSEN, experiments)
    assert built == [(32, 1, 1), (32, 1, 1)], "u and v are one network"
    assert found["v"] == pytest.approx(5 * found["u"])
    assert 0 < found["g"] < found["u"]
    facts = read_json(project.runs / "ensemble/costs.json")
    assert kernel_time.seconds_an_image(project, COMP, CHOSEN, experiments) == found
    assert len(built) == len(facts) == 2, "the file knows them"
    half = CHOSEN.model_copy(update={"inference": CHOSEN.inference.model_copy(update={"precision": "auto"})})
    assert kernel_time.seconds_an_image(project, COMP, half, experiments)["u"] < found["u"], "float16 on a T4"


def test_this_machines_cpu_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([plan.Device("this machine's CPU", 1, 8, 0.1, 10, None)])
    monkeypatch.setattr(plan, "this_machine", lambda: next(measured))
    monkeypatch.setattr(kernel_time, "_forward_pass", lambda *_: {"flops": 4e9, "outputs": 1e6})
    without = COMP.model_copy(update={"kaggle": COMP.kaggle.model_copy(update={"inference": "none"})})
    for _ in range(2):
        found = kernel_time.seconds_an_image(Project(tmp_path, "c"), without, CHOSEN, {"u": experiment()})
        assert found == {"u": pytest.approx(0.1)}, "4 Gflop at 0.4 of 0.1 Tflop/s"


def test_images_of_the_hidden_test(tmp_path: Path) -> None:
    project = Project(tmp_path, "c")
    write_text(project.folds, "image_id,fold,group,stratum\n" + "".join(f"i{n},{n % 3 - 1},p{n},0\n" for n in range(7)))
    held = Competition.model_validate({**COMP.model_dump(exclude={"test"}), "folds": {"holdout": True}})
    assert kernel_time.count_images(project, held) == 3
    named = held.model_copy(update={"kaggle": held.kaggle.model_copy(update={"test_images": 3205})})
    assert kernel_time.count_images(project, named) == 3205
    assert kernel_time.shipped_folds(project, CHOSEN.mask) == 2
    assert kernel_time.shipped_folds(project, CHOSEN.mask.model_copy(update={"folds": 1})) == 1
