"""Faults of images, files, members, disk or time: a valid submission all the same, or an error before the start.

The kernel's own script runs here, but in this process and with fake networks; test_kernel.py tests its child process.
As a saved version it rejects a damaged package; in the hidden rerun it continues with what is usable.
"""

from __future__ import annotations

import errno
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import Inference
from gatemask.data.phantom import as_dicom
from gatemask.data.submission_table import SubmissionTable
from gatemask.errors import GatemaskError
from gatemask.inference import networks, runner
from gatemask.inference.budget import Budget, TimeSpent
from gatemask.inference.networks import LoadedMember
from gatemask.results.ensemble import ShippedMember
from gatemask.results.submission import InferenceReport
from tests.conftest import ROOT
from tests.inference.fake_networks import (
    COUNT,
    SIDE,
    FakeNetwork,
    KaggleFolders,
    make_kaggle_folders,
    member,
    use_fake_networks,
)

IDS = [f"i{n:02d}" for n in range(COUNT)]
MASKED = ["i00", "i04", "i08"]  # bright images, which have masks


@pytest.fixture
def kaggle(tmp_path: Path) -> KaggleFolders:
    return make_kaggle_folders(tmp_path / "kaggle")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeNetwork]:
    return use_fake_networks(monkeypatch)


@pytest.fixture
def script(kaggle: KaggleFolders, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], ModuleType]:
    """Return a loader of the kernel's script, for a hidden rerun or a saved version; it installs no wheels."""

    def load(rerun: bool) -> ModuleType:
        monkeypatch.setenv("GATEMASK_KAGGLE", str(kaggle.root))
        if rerun:
            monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
        else:
            monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
        spec = importlib.util.spec_from_file_location("inference", ROOT / "kaggle_kernels/inference/inference.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module, "install", lambda wheels: None)
        monkeypatch.setattr(module, "predict_in_child", module.attempt)
        return module

    return load


Script = Callable[[bool], ModuleType]


def read_report(kaggle: KaggleFolders) -> InferenceReport:
    return InferenceReport.load(kaggle.working / "inference.json")


def rerun(script: Script, kaggle: KaggleFolders) -> InferenceReport:
    """Run as the hidden rerun; in any case the submission is complete, in order, and every mask decodes."""
    script(True).main()
    assert list(kaggle.encoded) == IDS
    kaggle.masks()
    return read_report(kaggle)


def assert_rejected(script: Script, kaggle: KaggleFolders, words: str) -> None:
    """Run as a saved version; it ends with an error before anything is predicted."""
    with pytest.raises((SystemExit, GatemaskError), match=words) as ended:
        script(False).main()
    assert getattr(ended.value, "code", 1) not in (0, None)
    assert not kaggle.submission.exists()


# --- images -------------------------------------------------------------------------------------------------


def gray(values: Any = 255, shape: tuple[int, ...] = (SIDE, SIDE)) -> np.ndarray:
    return np.full(shape, values, np.uint8)


def truncated_dicom(kaggle: KaggleFolders) -> None:
    kaggle.image(0).with_suffix(".dcm").write_bytes(as_dicom(gray(), "1.2.3", 1, inverted=False)[:900])
    kaggle.image(0).unlink()


def zero_bytes(kaggle: KaggleFolders) -> None:
    kaggle.image(0).write_bytes(b"")


def truncated_png(kaggle: KaggleFolders) -> None:
    kaggle.image(0).write_bytes(kaggle.image(0).read_bytes()[:60])


def missing_file(kaggle: KaggleFolders) -> None:
    kaggle.image(0).unlink()


def a_folder(kaggle: KaggleFolders) -> None:
    missing_file(kaggle)
    kaggle.image(0).mkdir()


def color_dicom(kaggle: KaggleFolders) -> None:
    import io

    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(as_dicom(gray(), "1.2.3", 1, inverted=False)))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    dataset.save_as(kaggle.image(0).with_suffix(".dcm"))
    missing_file(kaggle)


@pytest.mark.parametrize("spoil", [truncated_dicom, zero_bytes, truncated_png, missing_file, a_folder, color_dicom])
def test_an_unreadable_image_gets_an_empty_mask_and_is_reported(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, spoil: Callable[[KaggleFolders], None]
) -> None:
    spoil(kaggle)
    report = rerun(script, kaggle)
    assert list(report.unreadable) == ["i00"]
    assert kaggle.encoded["i00"] == "-1"
    assert kaggle.encoded["i04"] != "-1", "other images are not affected"
    assert report.degraded == [], "unreadable images are not the kernel's fault"
    script(False).main()
    assert list(read_report(kaggle).unreadable) == ["i00"], "in a saved version too: the file may be broken on Kaggle"


def sixteen_bits(kaggle: KaggleFolders) -> None:
    cv2.imwrite(str(kaggle.image(0)), np.full((SIDE, SIDE), 65535, np.uint16))


def color_png(kaggle: KaggleFolders) -> None:
    cv2.imwrite(str(kaggle.image(0)), gray(255, (SIDE, SIDE, 3)))


def another_size(kaggle: KaggleFolders) -> None:
    cv2.imwrite(str(kaggle.image(0)), gray(255, (3 * SIDE, 2 * SIDE)))


@pytest.mark.parametrize(("spoil", "odd"), [(sixteen_bits, 0), (color_png, 0), (another_size, 1)])
def test_an_unusual_image_is_predicted(
    kaggle: KaggleFolders,
    fakes: dict[str, FakeNetwork],
    script: Script,
    spoil: Callable[[KaggleFolders], None],
    odd: int,
) -> None:
    spoil(kaggle)
    report = rerun(script, kaggle)
    assert report.odd_sizes == odd
    assert report.unreadable == {}
    assert kaggle.masks()["i00"].all(), "white from edge to edge, at the competition's size"


def test_images_missing_from_the_sample_are_ignored(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script
) -> None:
    (kaggle.test / "extra.png").write_bytes(kaggle.image(8).read_bytes())
    (kaggle.test / "._i00.png").write_bytes(b"AppleDouble")
    (kaggle.test / "notes.txt").write_text("read me")
    assert rerun(script, kaggle).extra == 2


# --- the test set ---------------------------------------------------------------------------------------------


def test_an_empty_test_folder(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script) -> None:
    for path in kaggle.test.iterdir():
        path.unlink()
    report = rerun(script, kaggle)
    assert len(report.unreadable) == COUNT
    assert report.degraded == [f"{COUNT} of {COUNT} images could not be read."], "a rehearsal rejects that"
    assert set(kaggle.encoded.values()) == {"-1"}


def test_ids_with_extensions_and_a_repeated_row(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script
) -> None:
    kaggle.write_sample([f"{image_id}.png" for image_id in [*IDS, IDS[0]]])
    script(True).main()
    assert list(kaggle.encoded) == [f"{image_id}.png" for image_id in IDS]
    assert kaggle.encoded["i00.png"] != "-1"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "is missing"), ("a,b\n1,2\n", "lacks"), ("ImageId,EncodedPixels\n", "nothing to predict")],
)
def test_an_unusable_sample(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, content: str | None, words: str
) -> None:
    path = kaggle.competition / "sample.csv"
    path.unlink()
    if content:
        path.write_text(content)
    assert_rejected(script, kaggle, words)
    report = rerun(script, kaggle)
    assert "The rows are those of the images in the test folder" in report.degraded[0]


def test_an_unmounted_competition(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script) -> None:
    kaggle.competition.rename(kaggle.root / "elsewhere")
    assert_rejected(script, kaggle, "No test images")
    with pytest.raises(SystemExit, match="No sample submission"):
        script(True).main()


# --- the package ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"), [("m1", None, "m1.weights.h5 is missing"), ("g0", b"?", "g0.weights.h5 is damaged")]
)
def test_without_the_weights_of_a_member(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, name: str, content: bytes | None, words: str
) -> None:
    path = kaggle.dataset / f"{name}.weights.h5"
    path.unlink()
    if content:
        path.write_bytes(content)
    assert_rejected(script, kaggle, words)
    report = rerun(script, kaggle)
    assert fakes[name].predicted == 0
    assert report.degraded == [f"{words}."]
    assert all(kaggle.encoded[image_id] != "-1" for image_id in MASKED), "the other members are used"


def test_without_any_mask_network(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script) -> None:
    for name in ("m0", "m1"):
        (kaggle.dataset / f"{name}.weights.h5").unlink()
    assert "No mask network is left." in rerun(script, kaggle).degraded
    assert set(kaggle.encoded.values()) == {"-1"}


def test_without_any_gate_every_image_passes(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script
) -> None:
    for name in ("g0", "g1"):
        (kaggle.dataset / f"{name}.weights.h5").unlink()
    report = rerun(script, kaggle)
    assert "No gate network is left." in report.degraded
    assert report.passed == COUNT
    assert all(kaggle.encoded[image_id] != "-1" for image_id in MASKED)


@pytest.mark.integration
def test_weights_that_do_not_load(kaggle: KaggleFolders, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights files hold a few bytes; structure and loader are the real ones."""
    monkeypatch.setattr(networks, "compile_forward", lambda *_: None)
    with pytest.raises(SystemExit, match="cannot be loaded"):
        script(False).main()
    report = rerun(script, kaggle)
    assert len([text for text in report.degraded if "cannot be loaded" in text]) == 4


def test_a_damaged_ensemble_yaml(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script) -> None:
    (kaggle.dataset / "ensemble.yaml").write_text("competition: [")
    assert_rejected(script, kaggle, "ensemble.yaml is damaged")
    (kaggle.competition / "old_sample.csv").write_text("from another stage")
    module = script(True)
    module.SAMPLE = "sample.csv"  # type: ignore[attr-defined]
    module.main()
    assert "No prediction was possible" in read_report(kaggle).degraded[0]
    assert kaggle.submission.read_bytes() == (kaggle.competition / "sample.csv").read_bytes()


def test_a_changed_rule_that_can_be_parsed_is_not_used(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script
) -> None:
    path = kaggle.dataset / "ensemble.yaml"
    path.write_text(path.read_text().replace("gate: 0.4", "gate: 0.9"))
    assert kaggle.ensemble.class_rules[0].gate == 0.9
    assert_rejected(script, kaggle, "ensemble.yaml is damaged")
    report = rerun(script, kaggle)
    assert report.degraded == ["No prediction was possible: ensemble.yaml is damaged."]
    assert fakes["g0"].predicted == 0
    assert kaggle.submission.read_bytes() == (kaggle.competition / "sample.csv").read_bytes()


@pytest.mark.parametrize("keep", ["m1", "ensemble.yaml"])
def test_files_without_a_hash_are_not_used(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, keep: str
) -> None:
    sums = kaggle.dataset / "SHA256SUMS"
    lines = sums.read_text().splitlines()
    sums.write_text("\n".join([line for line in lines if keep not in line] + ["not a hash"]))
    assert_rejected(script, kaggle, rf"{keep}\S* is not listed in SHA256SUMS")
    report = rerun(script, kaggle)
    assert any("is not listed in SHA256SUMS" in text for text in report.degraded)
    if keep == "m1":
        assert "SHA256SUMS is damaged." in report.degraded
        assert fakes["m1"].predicted == 0 < fakes["m0"].predicted
    else:
        assert fakes["g0"].predicted == 0


def test_a_wheel_that_is_missing(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script) -> None:
    (kaggle.dataset / "gatemask-0-py3-none-any.whl").write_bytes(b"wheel")
    kaggle.write_sums()
    (kaggle.dataset / "gatemask-0-py3-none-any.whl").unlink()
    assert_rejected(script, kaggle, r"gatemask-0-py3-none-any.whl is missing")
    assert "gatemask-0-py3-none-any.whl is missing." in rerun(script, kaggle).degraded


def test_wheels_that_cannot_be_installed(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script(True)

    def fails(wheels: list[Path]) -> None:
        raise ModuleNotFoundError("No module named 'efficientnet'")

    monkeypatch.setattr(module, "install", fails)
    (kaggle.competition / "sample.csv").rename(kaggle.competition / "SampleSubmission.csv")
    module.main()
    assert "No module named 'efficientnet'" in read_report(kaggle).degraded[0]
    assert list(kaggle.encoded) == IDS


def test_no_dataset(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script) -> None:
    (kaggle.dataset / "SHA256SUMS").unlink()
    assert_rejected(script, kaggle, "attach the dataset")


# --- while it runs --------------------------------------------------------------------------------------------


class FailingNetwork(FakeNetwork):
    """A network that predicts NaN, or raises an error, from its second step on."""

    def __init__(self, original: FakeNetwork, error: Exception | None) -> None:
        super().__init__(original.task, original.factor)
        self.error = error

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        predictions = super().predict_on_batch(images)
        if self.predicted <= len(images):
            return predictions
        if self.error:
            raise self.error
        return predictions * np.nan


@pytest.mark.parametrize("name", ["g1", "m0"])
@pytest.mark.parametrize("error", [None, ValueError("no kernel for this device")])
def test_a_member_that_fails_is_dropped(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, name: str, error: Exception | None
) -> None:
    for number in range(COUNT):
        if number % 4 and name == "m0":  # more than one step of masks
            kaggle.image(number).write_bytes(kaggle.image(0).read_bytes())
    fakes[name] = FailingNetwork(fakes[name], error)
    report = rerun(script, kaggle)
    assert [dropped.name for dropped in report.dropped] == [name]
    assert ("NaN" if error is None else "no kernel for this device") in report.degraded[0]
    assert all(kaggle.encoded[image_id] != "-1" for image_id in MASKED)


def test_a_full_device_memory_halves_the_batch() -> None:
    class ResourceExhaustedError(Exception):
        pass

    steps: list[int] = []

    def run(weights: Any, images: np.ndarray) -> np.ndarray:
        steps.append(len(images))
        if len(images) > 4:
            raise ResourceExhaustedError("OOM when allocating tensor")
        return images.mean(axis=(1, 2))

    network = LoadedMember(run, None, 16)
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    assert network.predict_on_batch(images)[:, 0].tolist() == list(range(10))
    assert steps == [16, 8, 4, 4, 4], "shapes are static: the last batch is padded"
    assert network.batch == 4
    hopeless = LoadedMember(lambda *_: (_ for _ in ()).throw(ResourceExhaustedError("OOM")), None, 2)
    with pytest.raises(ResourceExhaustedError):
        hopeless.predict_on_batch(images)


def test_an_error_in_the_middle_keeps_the_masks_so_far(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, calls = runner.decide, []

    def fails(*given: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("a bug")
        return apply(*given)

    monkeypatch.setattr(runner, "decide", fails)
    monkeypatch.setattr(runner, "cores", lambda: 1)  # one thread decides on images in their order
    with pytest.raises(SystemExit, match="RuntimeError: a bug"):
        script(False).main()
    calls.clear()
    report = rerun(script, kaggle)
    assert "RuntimeError: a bug" in report.degraded[0]
    assert sum(text != "-1" for text in kaggle.encoded.values()) >= 1


def test_a_disk_full_from_the_start(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SystemExit, match="Not enough disk space"):
        script(False).main()
    report = rerun(script, kaggle)
    assert "No space left on device" in report.degraded[0]
    assert all(kaggle.encoded[image_id] != "-1" for image_id in MASKED), "the file itself still fitted"


def test_a_disk_full_at_the_end(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = SubmissionTable.write, []

    def full(*given: Any) -> Path:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*given)

    monkeypatch.setattr(SubmissionTable, "write", full)
    report = rerun(script, kaggle)
    assert "an empty one is in its place" in report.degraded[0]
    assert set(kaggle.encoded.values()) == {"-1"}


def test_a_disk_without_space_for_the_first_file(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SubmissionTable, "write", full)
    assert_rejected(script, kaggle, "Not enough disk space")
    report = rerun(script, kaggle)
    assert "the sample submission is in its place" in report.degraded[-1]
    (kaggle.competition / "sample.csv").unlink()
    kaggle.submission.unlink()
    with pytest.raises(SystemExit, match=r"Not enough disk space.* No sample submission"):
        script(True).main()


def test_a_disk_without_space_for_the_fallback(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    module = script(True)
    monkeypatch.setattr(module, "write_whole", full)
    module.main()
    assert all(kaggle.encoded[image_id] != "-1" for image_id in MASKED), "there was space later"
    kaggle.submission.unlink()
    monkeypatch.setattr(module, "find_dataset", lambda: module.sys.exit("no dataset"))
    with pytest.raises(SystemExit, match=r"no dataset The fallback, a copy of sample.csv, could not be written"):
        module.main()
    assert not list(kaggle.working.glob("*submission*"))


def test_a_report_that_cannot_be_written_costs_nothing(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, "write_json", full)
    (kaggle.working / "inference.json").mkdir()  # no file can be written there
    script(True).main()
    assert all(kaggle.encoded[image_id] != "-1" for image_id in MASKED)


class Clock:
    """A clock that advances by one step at each call."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def predict_in_time(kaggle: KaggleFolders, hours: float, clock: Callable[[], float]) -> InferenceReport:
    kaggle.change(inference={"time_budget": hours})
    return kaggle.predict(started=0.0, clock=clock)


def test_a_short_time_budget_drops_the_least_important_members(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork]
) -> None:
    for network in fakes.values():
        network.batch = 4
    report = predict_in_time(kaggle, 48 / 3600, Clock(0.25))
    assert report.dropped[0].name == "m1", "the last mask network is dropped first"
    assert report.dropped[0].why == "not enough time"
    assert 0 < report.dropped[0].from_image < COUNT
    assert report.degraded == [], "the budget asked for it"
    assert list(kaggle.encoded) == IDS
    assert fakes["g0"].predicted == COUNT, "one gate and one mask network are kept"


def test_dropping_members_to_keep_kaggles_limit_is_a_fault(
    kaggle: KaggleFolders, fakes: dict[str, FakeNetwork]
) -> None:
    for network in fakes.values():
        network.batch = 4
    kaggle.change(inference={"hours": 2 * 48 / 3600})  # half of so short a limit is kept as a margin
    report = kaggle.predict(started=0.0, clock=Clock(0.25))
    assert report.dropped[0].name == "m1"
    assert "m1 is dropped" in report.degraded[0]
    assert list(kaggle.encoded) == IDS


@pytest.mark.parametrize(
    ("settings", "hours"),
    [
        ({}, 8.75),
        ({"hours": 9}, 8.75),
        ({"hours": 0.2}, 0.1),
        ({"hours": 9, "time_budget": 8}, 8),
        ({"hours": 9, "time_budget": 12}, 8.75),
    ],
)
def test_the_limit_is_before_kaggles(settings: dict[str, float], hours: float) -> None:
    assert runner._limit_s(Inference.model_validate(settings)) == pytest.approx(hours * 3600)


def test_the_first_steps_drop_no_member() -> None:
    """First steps are slow, and a mask network that was never measured is assumed to be slow."""
    g0, g1, m0, m1 = (ShippedMember.model_validate(member(name)) for name in ("g0", "g1", "m0", "m1"))
    budget = Budget(1000.0, 0.0, 0.2, Clock(0.0))
    for gate in (g0, g1):
        budget.spent[gate.name] = TimeSpent(16, 160.0)
    budget.count_gated(16)
    assert budget.members_in_time(1000, 0, [g0, g1], [m0, m1]) == ([g0, g1], [m0, m1])
    budget.count_gated(16)
    budget.count_gated(16)
    assert budget.members_in_time(1000, 0, [g0, g1], [m0, m1]) == ([g0], [m0])
    for gate in (g0, g1):
        budget.spent[gate.name] = TimeSpent(1600, 160.0)
    assert budget.needed_s(1000, 0, [g0, g1], []) == pytest.approx(200)
    assert budget.needed_s(1000, 0, [g0, g1], [m0]) == pytest.approx(200 + 1000 * budget.share * 0.3)
    assert budget.members_in_time(4200, 0, [g0, g1], [m0, m1]) == ([g0, g1], [m0])


def test_enough_time_drops_nothing(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork]) -> None:
    assert predict_in_time(kaggle, 1.0, Clock(0.25)).dropped == []


def test_images_after_the_time_limit_get_empty_masks(kaggle: KaggleFolders, fakes: dict[str, FakeNetwork]) -> None:
    for network in fakes.values():
        network.batch = 4
    report = predict_in_time(kaggle, 36 / 3600, Clock(0.5))
    assert "Time was up after" in report.degraded[0]
    assert list(kaggle.encoded) == IDS
    kaggle.masks()
