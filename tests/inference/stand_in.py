"""A small competition and an ensemble whose networks are arithmetic: what comes out can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gatemask.files import read_yaml, sha256, write_text, write_yaml
from gatemask.inference import networks
from gatemask.masks import rle

RLE = {"offsets": "absolute", "base": 1, "order": "column", "empty": "-1"}
SUBMISSION = {"id": "ImageId", "mask": "EncodedPixels", "sample": "sample.csv", "rle": RLE}
RULE = {"gate": 0.4, "upper": 0.55, "lower": 0.5, "min_area": 10}
FACTORS = {"g0": 1.1, "g1": 0.95, "m0": 1.2, "m1": 0.9}
COUNT, SIDE = 40, 64


class Stand:
    """In place of a network: a gate that sees the mean brightness, a map that is the image."""

    def __init__(self, task: str, factor: float) -> None:
        self.task, self.factor, self.seen, self.batch, self.device = task, factor, 0, 16, None

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        self.seen += len(images)
        scaled = np.minimum(images.astype(np.float32) / 255 * self.factor, 1)
        return scaled.mean(axis=(1, 2)) if self.task == "gate" else scaled


class Place:
    """Folders as the kernel finds them.

    Args:
        root: holds input/datasets/me/set (the dataset), input/competitions/t (the competition) and working.
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
    def texts(self) -> dict[str, str]:
        return dict(line.split(",") for line in self.submission.read_text().splitlines()[1:])

    def masks(self) -> dict[str, np.ndarray]:
        flavour = networks_flavour()
        return {name: rle.decode(text, (SIDE, SIDE), flavour) for name, text in self.texts.items()}

    def change(self, **parts: Any) -> None:
        """Write parts of ensemble.yaml anew."""
        chosen = read_yaml(self.dataset / "ensemble.yaml")
        for name, value in parts.items():
            chosen[name] = {**chosen[name], **value} if isinstance(value, dict) and name in chosen else value
        write_yaml(self.dataset / "ensemble.yaml", chosen)
        self.seal()

    def seal(self) -> None:
        """Write SHA256SUMS for what is there."""
        listed = sorted(path for path in self.dataset.iterdir() if path.name != "SHA256SUMS")
        write_text(self.dataset / "SHA256SUMS", "".join(f"{sha256(path)}  {path.name}\n" for path in listed))

    def sample(self, ids: Sequence[str]) -> None:
        rows = "".join(f"{one},-1\r\n" for one in ids)
        (self.competition / "sample.csv").write_text(f"\ufeffImageId, EncodedPixels\r\n{rows}", newline="")


def networks_flavour() -> Any:
    from gatemask.config import Rle

    return Rle(**RLE)


def member(name: str, size: int = SIDE, **more: Any) -> dict[str, Any]:
    model = {"name": "gate" if name[0] == "g" else "unet", "encoder": "efficientnetb0"}
    return {"name": name, "size": size, "records": SIDE, "tta": [], "model": model, **more}


def place(root: Path) -> Place:
    """Every fourth of the images is bright enough for the gates."""
    made, rng = Place(root), np.random.default_rng(0)
    for number in range(COUNT):
        image = rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8) // (1 if number % 4 == 0 else 3)
        cv2.imwrite(str(made.image(number)), cv2.GaussianBlur(image, (0, 0), 3) * 1.0)
    made.sample([f"i{n:02d}" for n in range(COUNT)])
    facts = {
        "name": "t",
        "image": {"size": [SIDE, SIDE], "channels": 1, "window": "full"},
        "test_images": "test/*",
        "classes": ["x"],
        "submission": SUBMISSION,
    }
    masks = [member("m0"), member("m1", size=32)]
    chosen = {"competition": facts, "rule": RULE, "gate": [member("g0"), member("g1")], "mask": masks}
    for name in FACTORS:
        (made.dataset / f"{name}.weights.h5").write_bytes(name.encode())
    write_yaml(made.dataset / "ensemble.yaml", chosen)
    made.seal()
    return made


def stand_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, Stand]:
    """Networks by name in place of those that would be loaded."""
    made = {name: Stand("gate" if name[0] == "g" else "mask", factor) for name, factor in FACTORS.items()}
    monkeypatch.setattr(networks, "load", lambda members, *_: {one.name: made[one.name] for one in members})
    monkeypatch.setattr(networks, "accelerator", lambda: "cpu")
    return made
