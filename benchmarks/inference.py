"""Compare gate-first prediction with the plain two-stage way, and measure memory at ten times the images.

The plain way runs every member over all images, one after another, each decoding them again; then it averages maps and
applies the rule. Both use the same networks, compiled before the timing starts, the same averaging and the same rule,
and take turns. The lower bound is the time of the members' own steps on prepared batches: gates on all images, mask
networks on the share that passes. Weights are random; the gate's threshold lets 22 % pass.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import Row, interleaved, row

from gatemask.config import Rle, both_sides
from gatemask.data.phantom import as_dicom
from gatemask.files import write_text
from gatemask.inference import networks
from gatemask.inference.runner import predict_test_set
from gatemask.masks import frame, rle
from gatemask.masks import rule as rules
from gatemask.results.ensemble import ShippedEnsemble, ShippedMember

IMAGES, SIDE, SIZE, MEMBERS = 240, 256, 128, 4
ENCODER = "efficientnetb0"
POSITIVES = 0.22
FEW, MANY, MEMORY_SIZE = 200, 2_000, 64
ROUNDS = 3
STEP = 16
DIALECT = Rle(offsets="relative", base=0, order="column", empty="-1")


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        yield from _speed(Path(name))
        yield _memory(Path(name))


def _speed(folder: Path) -> Iterator[Row]:
    case = BenchmarkCase(folder / "speed", IMAGES, SIZE, MEMBERS)
    plain, load_members = PlainPrediction(case), networks.load_members
    case.set_gate(float(np.quantile(plain.gates(), 1 - POSITIVES)))
    masks: dict[str, Any] = {}

    def gate_first() -> None:
        networks.load_members = lambda members, *_: {member.name: plain.networks[member.name] for member in members}
        case.predict()
        networks.load_members = load_members
        masks["ours"] = case.masks()

    def two_stage() -> None:
        masks["plain"] = plain.masks()

    times = interleaved({"ours": gate_first, "floor": plain.steps_only, "plain": two_stage}, ROUNDS)
    label = f"inference, {MEMBERS} gates and {MEMBERS} mask networks of {SIZE} px, {POSITIVES:.0%} pass"
    yield row(f"{label}, vs all members on all images", times["ours"], times["plain"], 2.0, per=IMAGES)
    yield row(f"{label}, vs the members' own steps", times["ours"], times["floor"], 0.9, per=IMAGES)
    differing = [(masks["ours"][image_id] != mask).mean() for image_id, mask in masks["plain"].items()]
    differ = np.mean(differing) * 1e6
    yield {
        "name": "inference, pixels of a million that differ from the plain way's masks",
        "ours": f"{differ:.3f}",
        "reference": "1",
        "ratio": round(1 / max(differ, 1e-3), 3),
        "target": 1.0,
        "met": bool(differ <= 1.0),
    }


def _memory(folder: Path) -> Row:
    few, many = (
        _peak_megabytes(BenchmarkCase(folder / f"memory{count}", count, MEMORY_SIZE, 2)) for count in (FEW, MANY)
    )
    return {
        "name": f"inference, peak memory, {FEW} images vs {MANY}",
        "ours": f"{many:.0f} MB",
        "reference": f"{few:.0f} MB",
        "ratio": round(few / many, 3),
        "target": 0.95,
        "met": few / many >= 0.95,
    }


def _peak_megabytes(case: BenchmarkCase) -> float:
    """Return the peak memory of a process that only predicts, in MB."""
    case.set_gate(0.5)
    case.save_weights()
    script = (
        "import sys; from pathlib import Path\n"
        "from gatemask.inference.runner import predict_test_set\n"
        "from gatemask.results.ensemble import ShippedEnsemble\n"
        "dataset, competition, working = map(Path, sys.argv[1:])\n"
        "ensemble = ShippedEnsemble.load(dataset / 'ensemble.yaml')\n"
        "print(predict_test_set(ensemble, dataset, competition, working).peak_megabytes)\n"
    )
    folders = map(str, (case.dataset, case.competition, case.working))
    done = subprocess.run([sys.executable, "-c", script, *folders], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


class BenchmarkCase:
    """A competition of DICOM files, and a packaged ensemble for it."""

    def __init__(self, root: Path, images: int, size: int, members: int) -> None:
        self.dataset, self.competition, self.working = (root / name for name in ("dataset", "competition", "working"))
        (self.competition / "test").mkdir(parents=True)
        self.working.mkdir()
        self.paths = _images(self.competition / "test", images)
        names = [(kind, f"{kind}{number}") for kind in ("gate", "mask") for number in range(members)]
        self.sections = {
            "competition": {
                "name": "bench",
                "image": {"size": [SIDE, SIDE], "channels": 1, "window": "full"},
                "test_images": "test/*.dcm",
                "classes": ["lesion"],
                "submission": {"id": "ImageId", "mask": "EncodedPixels", "sample": None, "rle": DIALECT.model_dump()},
            },
            "passing_share": POSITIVES,
            **{kind: [_member(name, kind, size) for task, name in names if task == kind] for kind in ("gate", "mask")},
        }

    def set_gate(self, gate: float) -> None:
        # Random maps vary around one half, so some pixels are mask and some are not.
        self.rule = rules.Rule(gate, 0.5, 0.5, 10)
        self.ensemble(gate).save(self.dataset / "ensemble.yaml")
        write_text(self.dataset / "SHA256SUMS", "")

    def ensemble(self, gate: float = 0.5) -> ShippedEnsemble:
        rule = {"gate": gate, "upper": 0.5, "lower": 0.5, "min_area": 10}
        return ShippedEnsemble.model_validate({**self.sections, "rule": rule})

    def predict(self) -> None:
        ensemble = ShippedEnsemble.load(self.dataset / "ensemble.yaml")
        predict_test_set(ensemble, self.dataset, self.competition, self.working)

    def save_weights(self) -> None:
        ensemble = self.ensemble()
        for members in (ensemble.gate, ensemble.mask):
            model = _build_model(members[0])
            for number, member in enumerate(members):
                _randomize(model, number)
                model.save_weights(networks.weights_path(self.dataset, member))

    def masks(self) -> dict[str, np.ndarray]:
        lines = (self.working / "submission.csv").read_text().splitlines()[1:]
        return {name: rle.decode(text, (SIDE, SIDE), DIALECT) for name, text in (line.split(",") for line in lines)}


def _images(folder: Path, count: int) -> list[Path]:
    """Write X-ray-like DICOM files; after the first hundred, pixels repeat under other names."""
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
    run = {"experiment": name, "fold": 0, "task": kind}
    return {"name": name, **run, "weight": 1.0, "size": size, "records": SIDE, "tta": [], "model": model}


def _build_model(member: ShippedMember) -> Any:
    from gatemask.builders import models

    config = member.model.model_copy(update={"weights": "none"})
    return models.build_network(config, member.size, 1, 1, seed=0).model


def _randomize(model: Any, seed: int) -> None:
    """Change each weight of the model a little."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        value = np.asarray(variable)
        variable.assign(value * (1 + 0.05 * rng.standard_normal(value.shape)))


class PlainPrediction:
    """The plain two-stage way, and the members' own steps."""

    def __init__(self, case: BenchmarkCase) -> None:
        self.case, self.ensemble = case, case.ensemble()
        self.networks: dict[str, networks.LoadedMember] = {}
        for members in (self.ensemble.gate, self.ensemble.mask):
            model = _build_model(members[0])
            run_graph = networks.compile_forward(model)
            for number, member in enumerate(members):
                _randomize(model, number)
                self.networks[member.name] = networks.LoadedMember(run_graph, networks.copy_weights(model), STEP)
            self.networks[members[0].name].predict_on_batch(np.zeros((STEP, SIZE, SIZE, 1), np.uint8))  # compiled

    def _predict_all(self, member: ShippedMember) -> np.ndarray:
        """Return a member's predictions for all images, decoded for it alone."""
        from gatemask.data.readers import read_image
        from gatemask.masks.frame import resize

        predictions = []
        for start in range(0, len(self.case.paths), STEP):
            part = self.case.paths[start : start + STEP]
            sizes = both_sides(member.records), both_sides(member.size)
            batch = [resize(resize(read_image(p, 1), sizes[0]), sizes[1]) for p in part]
            predictions.append(self.networks[member.name].predict_on_batch(np.stack(batch)))
        return np.concatenate(predictions)

    def gates(self) -> np.ndarray:
        by_member = [[round(float(v), 6) for v in self._predict_all(gate)[:, 0]] for gate in self.ensemble.gate]
        return np.mean(by_member, axis=0)

    def masks(self) -> dict[str, np.ndarray]:
        from gatemask.masks.rule import as_uint8

        gates = self.gates()
        maps = [as_uint8(self._predict_all(member)) for member in self.ensemble.mask]
        masks = {}
        for index, path in enumerate(self.case.paths):
            full = frame.resize_map(rules.average_maps([member_maps[index] for member_maps in maps]), (SIDE, SIDE))
            mask = rules.apply_rule(self.case.rule, float(gates[index]), np.ascontiguousarray(full[:, :, 0]))
            masks[path.stem] = rle.decode(rle.encode(mask, DIALECT), (SIDE, SIDE), DIALECT)
        return masks

    def steps_only(self) -> None:
        """Run as many steps of each member as prediction needs, on one batch."""
        batch = np.random.default_rng(0).integers(0, 255, (STEP, SIZE, SIZE, 1)).astype(np.uint8)
        for members, share in ((self.ensemble.gate, 1.0), (self.ensemble.mask, POSITIVES)):
            steps = int(np.ceil(len(self.case.paths) * share / STEP))
            for member in members:
                for _ in range(steps):
                    self.networks[member.name].predict_on_batch(batch)
