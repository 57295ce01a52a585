"""A small mounted competition, and an ensemble whose networks are arithmetic, so results can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.config import Rle
from gatemask.files import read_yaml, sha256, write_text, write_yaml
from gatemask.inference import networks
from gatemask.inference.runner import predict_test_set
from gatemask.masks import rle
from gatemask.results.ensemble import ShippedEnsemble
from gatemask.results.submission import InferenceReport

DIALECT = Rle(offsets="absolute", base=1, order="column", empty="-1")
SUBMISSION = {"id": "ImageId", "mask": "EncodedPixels", "sample": "sample.csv", "rle": DIALECT.model_dump()}
RULE = {"gate": 0.4, "upper": 0.55, "lower": 0.5, "min_area": 10}
FACTORS = {"g0": 1.1, "g1": 0.95, "m0": 1.2, "m1": 0.9}
COUNT, SIDE = 40, 64


class FakeNetwork:
    """A gate that returns the mean brightness, or a mask network that returns the image, times a factor.

    Attributes:
        predicted: Number of images predicted so far.
    """

    def __init__(self, task: str, factor: float) -> None:
        self.task, self.factor, self.predicted, self.batch, self.device = task, factor, 0, 16, None

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        self.predicted += len(images)
        scaled = np.minimum(images.astype(np.float32) / 255 * self.factor, 1)
        return scaled.mean(axis=(1, 2)) if self.task == "gate" else scaled


class KaggleFolders:
    """The folders of a submission kernel.

    Args:
        root: Folder in place of /kaggle, with input/datasets/me/set (the dataset), input/competitions/t (the
            competition) and working.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dataset, self.competition = root / "input/datasets/me/set", root / "input/competitions/t"
        self.test, self.working = self.competition / "test", root / "working"
        for folder in (self.dataset, self.test, self.working):
            folder.mkdir(parents=True)

    def image(self, number: int) -> Path:
        return self.test / f"i{number:02d}.png"

    @property
    def submission(self) -> Path:
        return self.working / "submission.csv"

    @property
    def encoded(self) -> dict[str, str]:
        return dict(line.split(",") for line in self.submission.read_text().splitlines()[1:])

    @property
    def ensemble(self) -> ShippedEnsemble:
        return ShippedEnsemble.load(self.dataset / "ensemble.yaml")

    def masks(self) -> dict[str, np.ndarray]:
        return {name: rle.decode(text, (SIDE, SIDE), DIALECT) for name, text in self.encoded.items()}

    def predict(self, started: float | None = None, clock: Callable[[], float] | None = None) -> InferenceReport:
        """Predict the test set, with a clock of the test's own if one is given."""
        timing = {} if clock is None else {"started": started, "clock": clock}
        return predict_test_set(self.ensemble, self.dataset, self.competition, self.working, **timing)  # type: ignore[arg-type]

    def change(self, **sections: Any) -> None:
        """Replace or update sections of ensemble.yaml."""
        ensemble = read_yaml(self.dataset / "ensemble.yaml")
        for name, value in sections.items():
            ensemble[name] = {**ensemble[name], **value} if isinstance(value, dict) and name in ensemble else value
        write_yaml(self.dataset / "ensemble.yaml", ensemble)
        self.write_sums()

    def write_sums(self) -> None:
        """Write SHA256SUMS for the files of the dataset."""
        files = sorted(path for path in self.dataset.iterdir() if path.name != "SHA256SUMS")
        write_text(self.dataset / "SHA256SUMS", "".join(f"{sha256(path)}  {path.name}\n" for path in files))

    def write_sample(self, ids: Sequence[str]) -> None:
        rows = "".join(f"{image_id},-1\r\n" for image_id in ids)
        (self.competition / "sample.csv").write_text(f"\ufeffImageId, EncodedPixels\r\n{rows}", newline="")


def member(name: str, size: int = SIDE, **more: Any) -> dict[str, Any]:
    """Return an entry of ensemble.yaml; names of gates begin with g."""
    task = "gate" if name[0] == "g" else "mask"
    model = {"name": "gate" if task == "gate" else "unet", "encoder": "efficientnetb0"}
    run = {"experiment": f"exp_{name}", "fold": 0, "task": task}
    return {"name": name, **run, "size": size, "records": SIDE, "tta": [], "model": model, **more}


def make_kaggle_folders(root: Path) -> KaggleFolders:
    """Write a competition and an ensemble; one image in four is bright enough for the gates."""
    folders, rng = KaggleFolders(root), np.random.default_rng(0)
    for number in range(COUNT):
        image = rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8) // (1 if number % 4 == 0 else 3)
        cv2.imwrite(str(folders.image(number)), cv2.GaussianBlur(image, (0, 0), 3) * 1.0)
    folders.write_sample([f"i{n:02d}" for n in range(COUNT)])
    facts = {
        "name": "t",
        "image": {"size": [SIDE, SIDE], "channels": 1, "window": "full"},
        "test_images": "test/*",
        "classes": ["x"],
        "submission": SUBMISSION,
    }
    masks = [member("m0"), member("m1", size=32)]
    ensemble = {"competition": facts, "rule": RULE, "gate": [member("g0"), member("g1")], "mask": masks}
    for name in FACTORS:
        (folders.dataset / f"{name}.weights.h5").write_bytes(name.encode())
    write_yaml(folders.dataset / "ensemble.yaml", ensemble)
    folders.write_sums()
    return folders


def use_fake_networks(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeNetwork]:
    """Replace the loading of members, and return the fake networks by name."""
    fakes = {name: FakeNetwork("gate" if name[0] == "g" else "mask", factor) for name, factor in FACTORS.items()}
    monkeypatch.setattr(
        networks, "load_members", lambda members, *_: {member.name: fakes[member.name] for member in members}
    )
    monkeypatch.setattr(networks, "accelerator", lambda: "cpu")
    return fakes
