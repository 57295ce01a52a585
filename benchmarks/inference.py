"""Benchmark of gate-first inference against a plain two-stage pass, and of memory at ten times the images.

The plain pass runs every member on all images, one after another, decoding them each time, then averages the maps and
applies the rule. Both use the same networks, compiled before timing starts, the same averaging and the same rule, and
take turns. The floor is the time of the members' steps on prepared batches: gates on all images, mask networks on the
share that passes. Weights are random; the gate's threshold lets 22 % of the images pass, as in SIIM-ACR.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import interleaved, row

from gatemask.config import Model, Rle
from gatemask.data.phantom import as_dicom
from gatemask.files import write_text, write_yaml
from gatemask.inference import networks
from gatemask.inference.predict import run
from gatemask.masks import rle
from gatemask.masks import rule as rules

IMAGES, SIDE, SIZE, MEMBERS = 240, 256, 128, 4
ENCODER = "efficientnetb0"
POSITIVES = 0.22
FEW, MANY, MEMORY_SIZE = 200, 2_000, 64
ROUNDS = 3
STEP = 16
DIALECT = {"offsets": "relative", "base": 0, "order": "column", "empty": "-1"}


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        yield from _speed(Path(name))
        yield _memory(Path(name))


def _speed(folder: Path) -> Iterator[dict[str, Any]]:
    place = Place(folder / "speed", IMAGES, SIZE, MEMBERS)
    plain, loaded = Plain(place), networks.load
    place.set_gate(float(np.quantile(plain.gates(), 1 - POSITIVES)))
    masks: dict[str, Any] = {}

    def ours() -> None:
        networks.load = lambda members, *_: {member.name: plain.networks[member.name] for member in members}
        run(place.dataset, place.competition, place.working)
        networks.load = loaded
        masks["ours"] = place.masks()

    def theirs() -> None:
        masks["plain"] = plain.masks()

    times = interleaved({"ours": ours, "floor": plain.floor, "plain": theirs}, ROUNDS)
    label = f"inference, {MEMBERS} gates and {MEMBERS} mask networks of {SIZE} px, {POSITIVES:.0%} pass"
    yield row(f"{label}, vs all members on all images", times["ours"], times["plain"], 2.0, per=IMAGES)
    yield row(f"{label}, vs the members' own steps", times["ours"], times["floor"], 0.9, per=IMAGES)
    differ = np.mean([(masks["ours"][image_id] != mask).mean() for image_id, mask in masks["plain"].items()]) * 1e6
    yield {
        "name": "inference, differing pixels per million, vs the plain pass",
        "ours": f"{differ:.3f}",
        "reference": "1",
        "ratio": round(1 / max(differ, 1e-3), 3),
        "target": 1.0,
        "met": bool(differ <= 1.0),
    }


def _memory(folder: Path) -> dict[str, Any]:
    few, many = (_peak(Place(folder / f"memory{count}", count, MEMORY_SIZE, 2)) for count in (FEW, MANY))
    return {
        "name": f"inference, peak memory, {FEW} images vs {MANY}",
        "ours": f"{many:.0f} MB",
        "reference": f"{few:.0f} MB",
        "ratio": round(few / many, 3),
        "target": 0.95,
        "met": few / many >= 0.95,
    }


def _peak(place: Place) -> float:
    """Return the peak memory of a process that only predicts, in MB."""
    place.set_gate(0.5)
    place.save_weights()
    script = "import sys, json; from pathlib import Path; from gatemask.inference.predict import run\n"
    script += "print(json.dumps(run(*map(Path, sys.argv[1:]))['peak_megabytes']))"
    folders = map(str, (place.dataset, place.competition, place.working))
    done = subprocess.run([sys.executable, "-c", script, *folders], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


class Place:
    """A competition of DICOMs with a packaged ensemble."""

    def __init__(self, root: Path, images: int, size: int, members: int) -> None:
        self.dataset, self.competition, self.working = (root / name for name in ("dataset", "competition", "working"))
        (self.competition / "test").mkdir(parents=True)
        self.working.mkdir()
        self.paths = _images(self.competition / "test", images)
        names = [(kind, f"{kind}{number}") for kind in ("gate", "mask") for number in range(members)]
        self.chosen: dict[str, Any] = {
            "competition": {
                "name": "bench",
                "image": {"size": [SIDE, SIDE], "channels": 1, "window": "full"},
                "test_images": "test/*.dcm",
                "classes": ["lesion"],
                "submission": {"id": "ImageId", "mask": "EncodedPixels", "sample": None, "rle": DIALECT},
            },
            "passing_share": POSITIVES,
            **{kind: [_member(name, kind, size) for of, name in names if of == kind] for kind in ("gate", "mask")},
        }
        self.listed = {kind: networks.members(self.chosen[kind], self.dataset) for kind in ("gate", "mask")}

    def set_gate(self, gate: float) -> None:
        # Random maps are close to 0.5, so some pixels are above the threshold and some below.
        self.rule = rules.Rule(gate, 0.5, 0.5, 10)
        rule = {"gate": gate, "upper": 0.5, "lower": 0.5, "min_area": 10}
        write_yaml(self.dataset / "ensemble.yaml", {**self.chosen, "rule": rule})
        write_text(self.dataset / "SHA256SUMS", "")

    def save_weights(self) -> None:
        for members in self.listed.values():
            model = _model(members[0])
            for number, member in enumerate(members):
                _randomize(model, number)
                member.weights.parent.mkdir(exist_ok=True)
                model.save_weights(member.weights)

    def masks(self) -> dict[str, np.ndarray]:
        lines = (self.working / "submission.csv").read_text().splitlines()[1:]
        return {
            image_id: rle.decode(text, (SIDE, SIDE), Rle(**DIALECT)) for image_id, text in (x.split(",") for x in lines)
        }


def _images(folder: Path, count: int) -> list[Path]:
    """Write X-ray-like DICOMs. After the first hundred, the pixels repeat under other names."""
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        paths.append(folder / f"image{number:05d}.dcm")
        if number < 100:
            shade = np.linspace(rng.integers(20, 120), rng.integers(120, 250), SIDE)[:, None]
            image = np.clip(shade + rng.normal(0, 20, (SIDE, SIDE)), 0, 255).astype(np.uint8)
            paths[-1].write_bytes(as_dicom(image, f"1.2.{number}", number, inverted=False))
        else:
            paths[-1].hardlink_to(paths[number % 100])
    return paths


def _member(name: str, kind: str, size: int) -> dict[str, Any]:
    model = {"name": "gate" if kind == "gate" else "unet", "encoder": ENCODER}
    return {"name": name, "weight": 1.0, "size": size, "records": SIDE, "tta": [], "model": model}


def _model(member: networks.Member) -> Any:
    from gatemask.builders import models

    config = Model(**{**member.config.model_dump(), "weights": "none"})
    return models.build_network(config, member.size, 1, 1, seed=0).predict


def _randomize(model: Any, seed: int) -> None:
    """Perturb the weights of a model."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        value = np.asarray(variable)
        variable.assign(value * (1 + 0.05 * rng.standard_normal(value.shape)))


class Plain:
    """The plain two-stage pass, and the steps of the members alone."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.networks: dict[str, networks.Network] = {}
        for members in place.listed.values():
            model = _model(members[0])
            run_graph = networks.graph(model)
            for number, member in enumerate(members):
                _randomize(model, number)
                self.networks[member.name] = networks.Network(run_graph, networks.weights_of(model), STEP)
            self.networks[members[0].name].predict_on_batch(np.zeros((STEP, SIZE, SIZE, 1), np.uint8))  # compiled

    def _over_all(self, member: networks.Member) -> np.ndarray:
        """Predict all images with one member, decoding them for it alone."""
        from gatemask.data.readers import read_image, resize_image

        batches = []
        for start in range(0, len(self.place.paths), STEP):
            part = self.place.paths[start : start + STEP]
            batch = [resize_image(resize_image(read_image(p, 1), member.records), member.size) for p in part]
            batches.append(self.networks[member.name].predict_on_batch(np.stack(batch)))
        return np.concatenate(batches)

    def gates(self) -> np.ndarray:
        members = self.place.listed["gate"]
        return np.mean([[round(float(v), 6) for v in self._over_all(member)[:, 0]] for member in members], axis=0)

    def masks(self) -> dict[str, np.ndarray]:
        from gatemask.masks.rule import as_uint8

        gates = self.gates()
        maps = [as_uint8(self._over_all(member)) for member in self.place.listed["mask"]]
        masks = {}
        for index, path in enumerate(self.place.paths):
            full = rules.resize_map(rules.average_maps([member_maps[index] for member_maps in maps]), (SIDE, SIDE))
            mask = rules.apply_rule(self.place.rule, float(gates[index]), np.ascontiguousarray(full[:, :, 0]))
            masks[path.stem] = rle.decode(rle.encode(mask, Rle(**DIALECT)), (SIDE, SIDE), Rle(**DIALECT))
        return masks

    def floor(self) -> None:
        """Run the required number of steps of each member on one batch."""
        batch = np.random.default_rng(0).integers(0, 255, (STEP, SIZE, SIZE, 1)).astype(np.uint8)
        for kind, share in (("gate", 1.0), ("mask", POSITIVES)):
            steps = int(np.ceil(len(self.place.paths) * share / STEP))
            for member in self.place.listed[kind]:
                for _ in range(steps):
                    self.networks[member.name].predict_on_batch(batch)
