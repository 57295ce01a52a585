"""Turn what was found into the sections of competition.yaml, and into planned experiments."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gatemask.new import planning
from gatemask.new.images import ImageFacts
from gatemask.new.masks import LabelFacts
from gatemask.new.naming import Naming
from gatemask.new.sample import SampleFacts
from gatemask.new.writing import Plans

PLANS = ("quick", "good", "strong")
TOUCHING = 0.1  # share of images with touching objects from which they are split by a watershed
MANY_OBJECTS = 8  # per image, from which images probably have no upper side


@dataclass(frozen=True)
class Found:
    """What the files are.

    Args:
        raw: The raw folder.
        naming: How training files become images.
        stacked: Whether neighboring slices become channels.
        test: The same for test images; None where there are none.
        images: Facts about the images.
        labels: Facts about the labels.
        submission: Facts about the sample submission.
        frames: How images become inputs.
    """

    raw: Path
    naming: Naming
    stacked: bool
    test: Naming | None
    images: ImageFacts
    labels: LabelFacts
    submission: SampleFacts
    frames: planning.Frames

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return 3 if self.stacked else self.images.channels * len(self.naming.tails)


def _images_section(naming: Naming, found: Found) -> dict[str, object]:
    """Return section `train` or `test`."""
    patterns, channels = naming.patterns, found.images.channels
    images: object = naming.pattern
    if len(patterns) > 1:
        images = (
            patterns if channels == 1 else {name: {"files": p, "channels": channels} for name, p in patterns.items()}
        )
    section: dict[str, object] = {"images": images}
    if found.stacked:
        section["stack"] = {"by": naming.number, "around": 1}
    if naming.id is not None:
        section["id"] = naming.id
    return section


def competition_sections(name: str, root: Path, found: Found) -> dict[str, object]:
    """Return the sections of competition.yaml that follow from the files.

    Args:
        name: Name of the competition.
        root: Folder of the project.
        found: What the files are.
    """
    facts, labels, frames, channels = found.images, found.labels, found.frames, found.channels
    image: dict[str, object] = {"size": list(facts.size) if facts.size else "mixed", "channels": channels}
    if facts.window != "full":
        image["window"] = facts.window
    if frames.fit != "stretch":
        image["fit"] = frames.fit
    sections: dict[str, object] = {
        "title": name.replace("-", " ").capitalize(),
        "raw": os.path.relpath(found.raw, root),
        "image": image,
        "train": _images_section(found.naming, found),
        "labels": labels.section,
        "classes": labels.classes or ["object"],
        "submission": found.submission.section,
    }
    if found.test is not None:
        sections["test"] = _images_section(found.test, found)
    if labels.exclusive:
        sections["exclusive"] = True
    if labels.objects:
        touching = labels.touching > TOUCHING
        sections["objects"] = {"touching": "watershed", "border": True} if touching else {"touching": "components"}
    if frames.tiles:
        sections["tiles"] = frames.tiles
    # JPEG would blur small images, and cannot hold other numbers of channels.
    small = max(facts.typical) <= 256 or channels not in (1, 3) or found.stacked or not facts.lossy
    records: dict[str, object] = {"format": "png" if small else "jpeg"}
    if frames.records is not None:
        records["size"] = frames.records if isinstance(frames.records, int) else list(frames.records)
    sections["records"] = records
    return sections


def quick_section(frames: planning.Frames) -> dict[str, object]:
    quick: dict[str, object] = {"folds": {"k": 2}}
    if frames.tiles:
        scale = float(frames.tiles.get("scale", 1.0))
        quick["tiles"] = {"size": planning.TILE // 4, "overlap": planning.OVERLAP // 4, "scale": scale / 4}
    return quick


def plan_experiments(facts: ImageFacts, labels: LabelFacts, frames: planning.Frames, folds: int) -> Plans:
    gated = labels.positives < 0.995 or labels.stats.class_empties > 0.01
    tasks = ["mask", "gate"] if gated else ["mask"]
    made = {
        (plan, task): planning.plan_experiment(plan, task, facts, labels, frames, folds)
        for plan in PLANS
        for task in tasks
    }
    return Plans(
        {plan: made[plan, "mask"] for plan in PLANS},
        {plan: made[plan, "gate"] for plan in PLANS} if gated else {},
        per_class=gated and len(labels.classes) > 1,
        flips=bool(frames.tiles) or labels.stats.many >= MANY_OBJECTS,
        square=all(isinstance(experiment.input, int) for experiment in made.values()),
        empty=1 - labels.positives,
    )
