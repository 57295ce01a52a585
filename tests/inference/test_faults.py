"""Whatever is wrong with images, files, members, disk or time: a valid submission, or a refusal before the start.

The kernel's own script runs here, but in this process and with stand-ins for the networks. Saved as a version it
refuses a damaged package; in the hidden rerun it goes on with what there is.
"""

from __future__ import annotations

import errno
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.data.phantom import as_dicom
from gatemask.errors import GatemaskError
from gatemask.inference import networks, predict
from gatemask.inference.budget import Budget, Spent
from gatemask.masks import rule as rules
from gatemask.submission import file_format
from gatemask.submission.file_format import SubmissionTable
from tests.conftest import ROOT
from tests.inference.stand_in import COUNT, SIDE, Place, Stand, place, stand_in

IDS = [f"i{n:02d}" for n in range(COUNT)]
MASKED = ["i00", "i04", "i08"]  # bright images: each has a mask, unless something is wrong with it


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return place(tmp_path / "kaggle")


@pytest.fixture
def stands(monkeypatch: pytest.MonkeyPatch) -> dict[str, Stand]:
    return stand_in(monkeypatch)


@pytest.fixture
def script(here: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], ModuleType]:
    """The kernel's script as a module, for a rerun or for a version; wheels are not installed."""

    def load(rerun: bool) -> ModuleType:
        monkeypatch.setenv("GATEMASK_KAGGLE", str(here.root))
        if rerun:
            monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
        else:
            monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
        spec = importlib.util.spec_from_file_location("inference", ROOT / "kaggle_kernels/inference/inference.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module, "install", lambda dataset: None)
        return module

    return load


Script = Callable[[bool], ModuleType]


def account(here: Place) -> dict[str, Any]:
    return json.loads((here.working / "inference.json").read_text())


def rerun(script: Script, here: Place) -> dict[str, Any]:
    """Run as the hidden rerun; whatever happened, the submission is complete, in order, and every mask decodes."""
    script(True).main()
    assert list(here.texts) == IDS
    here.masks()
    return account(here)


def refused(script: Script, here: Place, words: str) -> None:
    """Saved as a version, it ends with an error before anything is predicted."""
    with pytest.raises((SystemExit, GatemaskError), match=words) as ended:
        script(False).main()
    assert getattr(ended.value, "code", 1) not in (0, None)
    assert not here.submission.exists()


# --- images -------------------------------------------------------------------------------------------------


def grey(values: Any = 255, shape: tuple[int, ...] = (SIDE, SIDE)) -> np.ndarray:
    return np.full(shape, values, np.uint8)


def truncated_dicom(here: Place) -> None:
    here.image(0).with_suffix(".dcm").write_bytes(as_dicom(grey(), "1.2.3", 1, inverted=False)[:900])
    here.image(0).unlink()


def zero_bytes(here: Place) -> None:
    here.image(0).write_bytes(b"")


def half_a_picture(here: Place) -> None:
    here.image(0).write_bytes(here.image(0).read_bytes()[:60])


def missing(here: Place) -> None:
    here.image(0).unlink()


def a_folder(here: Place) -> None:
    missing(here)
    here.image(0).mkdir()


def colour_dicom(here: Place) -> None:
    import io

    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(as_dicom(grey(), "1.2.3", 1, inverted=False)))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    dataset.save_as(here.image(0).with_suffix(".dcm"))
    missing(here)


@pytest.mark.parametrize("spoil", [truncated_dicom, zero_bytes, half_a_picture, missing, a_folder, colour_dicom])
def test_an_image_that_cannot_be_read_is_empty_and_told(
    here: Place, stands: dict[str, Stand], script: Script, spoil: Callable[[Place], None]
) -> None:
    spoil(here)
    found = rerun(script, here)
    assert list(found["unreadable"]) == ["i00"]
    assert here.texts["i00"] == "-1"
    assert here.texts["i04"] != "-1", "the others are not touched"
    assert found["degraded"] == [], "nothing that the kernel could have helped"
    script(False).main()
    assert list(account(here)["unreadable"]) == ["i00"], "as a version too: it may well be so on Kaggle"


def sixteen_bits(here: Place) -> None:
    cv2.imwrite(str(here.image(0)), np.full((SIDE, SIDE), 65535, np.uint16))


def colour_picture(here: Place) -> None:
    cv2.imwrite(str(here.image(0)), grey(255, (SIDE, SIDE, 3)))


def another_size(here: Place) -> None:
    cv2.imwrite(str(here.image(0)), grey(255, (3 * SIDE, 2 * SIDE)))


@pytest.mark.parametrize(("spoil", "odd"), [(sixteen_bits, 0), (colour_picture, 0), (another_size, 1)])
def test_an_odd_image_is_predicted_all_the_same(
    here: Place, stands: dict[str, Stand], script: Script, spoil: Callable[[Place], None], odd: int
) -> None:
    spoil(here)
    found = rerun(script, here)
    assert found["odd_sizes"] == odd
    assert found["unreadable"] == {}
    assert here.masks()["i00"].all(), "white from edge to edge, at the competition's size"


def test_what_the_sample_does_not_name_is_left_alone(here: Place, stands: dict[str, Stand], script: Script) -> None:
    (here.test / "extra.png").write_bytes(here.image(8).read_bytes())
    (here.test / "._i00.png").write_bytes(b"AppleDouble")
    (here.test / "notes.txt").write_text("read me")
    assert rerun(script, here)["extra"] == 2


# --- the test set ---------------------------------------------------------------------------------------------


def test_an_empty_test_folder(here: Place, stands: dict[str, Stand], script: Script) -> None:
    for path in here.test.iterdir():
        path.unlink()
    found = rerun(script, here)
    assert len(found["unreadable"]) == COUNT
    assert found["degraded"] == [f"{COUNT} of {COUNT} images could not be read."], "no rehearsal lets that pass"
    assert set(here.texts.values()) == {"-1"}


def test_ids_with_extensions_and_a_row_twice(here: Place, stands: dict[str, Stand], script: Script) -> None:
    here.sample([f"{one}.png" for one in [*IDS, IDS[0]]])
    script(True).main()
    assert list(here.texts) == [f"{one}.png" for one in IDS]
    assert here.texts["i00.png"] != "-1"


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is missing"), ("a,b\n1,2\n", "lacks"), ("ImageId,EncodedPixels\n", "noth")]
)
def test_a_sample_that_is_of_no_use(
    here: Place, stands: dict[str, Stand], script: Script, content: str | None, words: str
) -> None:
    path = here.competition / "sample.csv"
    path.unlink()
    if content:
        path.write_text(content)
    refused(script, here, words)
    found = rerun(script, here)
    assert "The rows are those of the images" in found["degraded"][0]


def test_no_competition_at_all(here: Place, stands: dict[str, Stand], script: Script) -> None:
    here.competition.rename(here.root / "elsewhere")
    refused(script, here, "No test images")
    with pytest.raises(SystemExit, match="Not even a sample"):
        script(True).main()


# --- the package ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"), [("m1", None, "m1.weights.h5 is missing"), ("g0", b"?", "g0.weights.h5 is damaged")]
)
def test_without_the_weights_of_a_member(
    here: Place, stands: dict[str, Stand], script: Script, name: str, content: bytes | None, words: str
) -> None:
    path = here.dataset / f"{name}.weights.h5"
    path.unlink()
    if content:
        path.write_bytes(content)
    refused(script, here, words)
    found = rerun(script, here)
    assert stands[name].seen == 0
    assert found["degraded"] == [f"{words}."]
    assert all(here.texts[one] != "-1" for one in MASKED), "the others go on"


def test_without_any_mask_network(here: Place, stands: dict[str, Stand], script: Script) -> None:
    for name in ("m0", "m1"):
        (here.dataset / f"{name}.weights.h5").unlink()
    assert "No mask network is left." in rerun(script, here)["degraded"]
    assert set(here.texts.values()) == {"-1"}


def test_without_any_gate_every_image_passes(here: Place, stands: dict[str, Stand], script: Script) -> None:
    for name in ("g0", "g1"):
        (here.dataset / f"{name}.weights.h5").unlink()
    found = rerun(script, here)
    assert "No gate network is left." in found["degraded"]
    assert found["passed"] == COUNT
    assert all(here.texts[one] != "-1" for one in MASKED)


def test_weights_that_do_not_load(here: Place, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of this test's members are no weights at all; structure and loader are the real ones."""
    monkeypatch.setattr(networks, "graph", lambda *_: None)
    with pytest.raises(GatemaskError, match="cannot be loaded"):
        script(False).main()
    found = rerun(script, here)
    assert len([text for text in found["degraded"] if "cannot be loaded" in text]) == 4


def test_a_damaged_ensemble_yaml(here: Place, stands: dict[str, Stand], script: Script) -> None:
    (here.dataset / "ensemble.yaml").write_text("competition: [")
    refused(script, here, "ensemble.yaml is damaged")
    (here.competition / "old_sample.csv").write_text("of another stage")
    module = script(True)
    module.SAMPLE = "sample.csv"  # type: ignore[attr-defined]
    module.main()
    assert "No prediction was possible" in account(here)["degraded"][0]
    assert here.submission.read_bytes() == (here.competition / "sample.csv").read_bytes()


def test_a_wheel_that_is_missing(here: Place, stands: dict[str, Stand], script: Script) -> None:
    (here.dataset / "gatemask-0-py3-none-any.whl").write_bytes(b"wheel")
    here.seal()
    (here.dataset / "gatemask-0-py3-none-any.whl").unlink()
    refused(script, here, r"gatemask-0-py3-none-any.whl is missing")
    assert "gatemask-0-py3-none-any.whl is missing." in rerun(script, here)["degraded"]


def test_wheels_that_cannot_be_installed(
    here: Place, stands: dict[str, Stand], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script(True)

    def fails(dataset: Path) -> None:
        raise ModuleNotFoundError("No module named 'efficientnet'")

    monkeypatch.setattr(module, "install", fails)
    (here.competition / "sample.csv").rename(here.competition / "SampleSubmission.csv")
    module.main()
    assert "No module named 'efficientnet'" in account(here)["degraded"][0]
    assert list(here.texts) == IDS


def test_no_dataset(here: Place, stands: dict[str, Stand], script: Script) -> None:
    (here.dataset / "SHA256SUMS").unlink()
    refused(script, here, "attach the dataset")


# --- while it runs --------------------------------------------------------------------------------------------


class Wrong(Stand):
    """Says what is no number, or raises, from its second step on."""

    def __init__(self, of: Stand, error: Exception | None) -> None:
        super().__init__(of.task, of.factor)
        self.error = error

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        found = super().predict_on_batch(images)
        if self.seen <= len(images):
            return found
        if self.error:
            raise self.error
        return found * np.nan


@pytest.mark.parametrize("name", ["g1", "m0"])
@pytest.mark.parametrize("error", [None, ValueError("no kernel for this device")])
def test_a_member_that_fails_is_dropped(
    here: Place, stands: dict[str, Stand], script: Script, name: str, error: Exception | None
) -> None:
    for number in range(COUNT):
        if number % 4 and name == "m0":  # more than one step of masks
            here.image(number).write_bytes(here.image(0).read_bytes())
    stands[name] = Wrong(stands[name], error)
    found = rerun(script, here)
    assert [one["name"] for one in found["dropped"]] == [name]
    assert ("no number" if error is None else "no kernel for this device") in found["degraded"][0]
    assert all(here.texts[one] != "-1" for one in MASKED)


def test_memory_that_is_too_small_halves_the_step() -> None:
    class ResourceExhaustedError(Exception):
        pass

    steps: list[int] = []

    def run(weights: Any, images: np.ndarray) -> np.ndarray:
        steps.append(len(images))
        if len(images) > 4:
            raise ResourceExhaustedError("OOM when allocating tensor")
        return images.mean(axis=(1, 2))

    network = networks.Network(run, None, 16)
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    assert network.predict_on_batch(images)[:, 0].tolist() == list(range(10))
    assert steps == [16, 8, 4, 4, 4], "of static shapes: the last one is filled up"
    assert network.batch == 4
    hopeless = networks.Network(lambda *_: (_ for _ in ()).throw(ResourceExhaustedError("OOM")), None, 2)
    with pytest.raises(ResourceExhaustedError):
        hopeless.predict_on_batch(images)


def test_an_error_in_the_middle_keeps_what_there_is(
    here: Place, stands: dict[str, Stand], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, calls = rules.apply_rules, []

    def fails(*given: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("a bug")
        return apply(*given)

    monkeypatch.setattr(rules, "apply_classes", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        script(False).main()
    calls.clear()
    found = rerun(script, here)
    assert "RuntimeError: a bug" in found["degraded"][0]
    assert sum(text != "-1" for text in here.texts.values()) >= 1


def test_a_disk_that_is_full_from_the_start(
    here: Place, stands: dict[str, Stand], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_format.os, "posix_fallocate", full)
    with pytest.raises(GatemaskError, match="Not enough disk space"):
        script(False).main()
    found = rerun(script, here)
    assert "No space left on device" in found["degraded"][0]
    assert all(here.texts[one] != "-1" for one in MASKED), "the text itself still had room"


def test_a_disk_that_is_full_in_the_end(
    here: Place, stands: dict[str, Stand], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = SubmissionTable.write, []

    def full(*given: Any) -> Path:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*given)

    monkeypatch.setattr(SubmissionTable, "write", full)
    found = rerun(script, here)
    assert "an empty one is in its place" in found["degraded"][0]
    assert set(here.texts.values()) == {"-1"}


def test_a_disk_without_room_for_anything(
    here: Place, stands: dict[str, Stand], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SubmissionTable, "write", full)
    with pytest.raises(GatemaskError, match="Not enough disk space"):
        script(False).main()


def test_an_account_that_cannot_be_written_costs_nothing(
    here: Place, stands: dict[str, Stand], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predict, "write_json", full)
    (here.working / "inference.json").mkdir()  # nothing can be written there
    script(True).main()
    assert all(here.texts[one] != "-1" for one in MASKED)


class Clock:
    """Each look at it takes a little."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def timed(here: Place, hours: float, clock: Callable[[], float]) -> dict[str, Any]:
    here.change(inference={"time_budget": hours})
    return predict.run(here.dataset, here.competition, here.working, started=0.0, clock=clock)


def test_too_little_time_drops_the_members_taken_last(here: Place, stands: dict[str, Stand]) -> None:
    for network in stands.values():
        network.batch = 4
    seen = timed(here, 48 / 3600, Clock(0.25))
    assert seen["dropped"][0]["name"] == "m1", "the last mask network is the first to go"
    assert seen["dropped"][0]["why"] == "there is no time for it"
    assert 0 < seen["dropped"][0]["from_image"] < COUNT
    assert seen["degraded"] == [], "that is what a budget is for"
    assert list(here.texts) == IDS
    assert stands["g0"].seen == COUNT, "one gate and one mask network stay"


def test_without_a_budget_kaggles_own_limit_counts_and_a_drop_is_told(here: Place, stands: dict[str, Stand]) -> None:
    for network in stands.values():
        network.batch = 4
    here.change(inference={"hours": 2 * 48 / 3600})  # of so few, half are kept for the end
    seen = predict.run(here.dataset, here.competition, here.working, started=0.0, clock=Clock(0.25))
    assert seen["dropped"][0]["name"] == "m1"
    assert "m1 is dropped" in seen["degraded"][0]
    assert list(here.texts) == IDS


@pytest.mark.parametrize(
    ("settings", "hours"),
    [({}, None), ({"hours": 9}, 8.75), ({"hours": 9, "time_budget": 8}, 8), ({"hours": 9, "time_budget": 12}, 8.75)],
)
def test_the_limit_is_before_kaggles(settings: dict[str, float], hours: float | None) -> None:
    assert predict._limit_s(settings) == (hours and hours * 3600)


def test_what_one_step_took_drops_nobody() -> None:
    """The first steps of a device say little, and a mask network that was never seen is taken for a dear one."""
    names = ("g0", "g1", "m0", "m1")
    g0, g1, m0, m1 = (networks.Member(n, Path(n), 1.0, None, 32, 32, [], []) for n in names)  # type: ignore[arg-type]
    budget = Budget(1000.0, 0.0, 0.2, Clock(0.0))
    for one in (g0, g1):
        budget.spent[one.name] = Spent(16, 160.0)
    budget.saw(16)
    assert budget.fitting(1000, 0, [g0, g1], [m0, m1]) == ([g0, g1], [m0, m1])
    budget.saw(16)
    budget.saw(16)
    assert budget.fitting(1000, 0, [g0, g1], [m0, m1]) == ([g0], [m0])
    for one in (g0, g1):
        budget.spent[one.name] = Spent(1600, 160.0)
    assert budget.needed_s(1000, 0, [g0, g1], []) == pytest.approx(200)
    assert budget.needed_s(1000, 0, [g0, g1], [m0]) == pytest.approx(200 + 1000 * budget.share * 0.3)
    assert budget.fitting(4200, 0, [g0, g1], [m0, m1]) == ([g0, g1], [m0])


def test_enough_time_drops_nothing(here: Place, stands: dict[str, Stand]) -> None:
    assert timed(here, 1.0, Clock(0.25))["dropped"] == []


def test_when_time_is_up_the_rest_is_empty(here: Place, stands: dict[str, Stand]) -> None:
    for network in stands.values():
        network.batch = 4
    found = timed(here, 36 / 3600, Clock(0.5))
    assert "Time was up after" in found["degraded"][0]
    assert list(here.texts) == IDS
    here.masks()
