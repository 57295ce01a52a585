"""Write competition.yaml, the experiments and ensemble.yaml, with a comment for every guess."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatemask.config.schema import with_schema_line
from gatemask.files import write_text
from gatemask.new.decisions import Decisions, Finding
from gatemask.new.planning import Experiment
from gatemask.yaml12 import dump_yaml

WIDTH = 118
KAGGLE = [
    "# To submit on Kaggle, add the last part of the competition's address there:",
    "# kaggle: {competition: NAME}",
]
# Topics of findings that explain a key of competition.yaml.
TOPICS: dict[str, tuple[str, ...]] = {
    "image": ("images", "unreadable", "size", "channels", "levels", "fit"),
    "train": ("ids", "files", "stack"),
    "test": ("test",),
    "labels": ("labels", "RLE offsets", "RLE base", "RLE order", "values", "inverted", "ignored", "empties"),
    "classes": ("classes",),
    "exclusive": ("exclusive",),
    "objects": ("objects", "touching"),
    "tiles": ("tiles",),
    "metric": ("metric",),
    "groups": ("groups", "duplicates"),
    "folds": ("folds",),
    "records": ("records",),
    "submission": ("sample", "submission", "empty masks", "rows"),
}


def competition_text(name: str, sections: Mapping[str, object], decisions: Decisions) -> str:
    """Return competition.yaml.

    Args:
        name: Name of the competition.
        sections: Its keys, in order.
        decisions: Findings, which become the comments.
    """
    lines = [
        f"# make loop COMP={name}",
        "# Written by `gatemask new`: the comments say what was found, and why. Correct whatever you know better.",
    ]
    for key, value in sections.items():
        for finding in decisions.findings:
            if finding.topic in TOPICS.get(key, ()):
                lines += _comment(finding)
        lines += _section(key, value)
    if "kaggle" not in sections:
        lines += [
            "# To train and submit on Kaggle: the last part of the competition's address there.",
            "# kaggle: {competition: NAME}",
        ]
    return "\n".join(lines) + "\n"


def _comment(finding: Finding) -> list[str]:
    text = " ".join(f"{finding.topic}: {finding.found} ({finding.why})".split())
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def _section(key: str, value: object) -> list[str]:
    """Return a key on one line if it fits, else with an inner key on each."""
    short = f"{key}: {_flow(value)}"
    if not isinstance(value, Mapping) or len(short) <= WIDTH:
        return [short]
    return [f"{key}:", *(f"  {inner}: {_flow(one)}" for inner, one in value.items())]


def _flow(value: object) -> str:
    text = dump_yaml({"x": value}, flow_style=True, width=100_000).strip()
    return text.removeprefix("{x: ").removesuffix("}")


@dataclass(frozen=True)
class Plans:
    """Experiments by name of the plan: "quick", "good", "strong".

    Args:
        masks: Mask networks.
        gates: Gates; empty where every image has a mask.
        per_class: Whether gates have one output per class.
        flips: Whether images have no upper side, so that they may be turned.
        square: Whether all inputs are square.
        empty: Share of the images without a mask.
        small_quick: Side of the input with --quick.
    """

    masks: Mapping[str, Experiment]
    gates: Mapping[str, Experiment]
    per_class: bool
    flips: bool
    square: bool
    empty: float
    small_quick: int = 32


INTENDED = {
    "quick": "A first honest score on two cores within minutes; weights are random, so nothing is downloaded.",
    "good": "For a GPU of Kaggle, or a TPU: the workhorse.",
    "strong": "For Kaggle's TPUs: larger inputs and encoders, longer training.",
}


def _write(path: Path, document: str, text: str) -> None:
    write_text(path, with_schema_line(document, text))


def write_experiments(folder: Path, comp: str, plans: Plans) -> None:
    """Write base.yaml, an experiment per plan and task, and ensemble.yaml.

    Args:
        folder: Folder of the YAMLs.
        comp: Name of the competition.
        plans: The experiments.
    """
    _write(folder / "base.yaml", "experiment", _base(comp, plans))
    for plan, experiment in plans.masks.items():
        _write(folder / f"{plan}.yaml", "experiment", _experiment(comp, plan, "mask", experiment, plans))
    for plan, experiment in plans.gates.items():
        _write(folder / f"{plan}_gate.yaml", "experiment", _experiment(comp, plan, "gate", experiment, plans))
    _write(folder / "ensemble.yaml", "ensemble", _ensemble(comp, bool(plans.gates)))


def _base(comp: str, plans: Plans) -> str:
    augment: list[object] = [*_flips(plans)]
    augment += [{"affine": {"rotate": 15, "zoom": [0.85, 1.15], "shift": 0.05}}, {"brightness_contrast": 0.15}]
    quick = {
        "epochs": 1,
        "model": {"encoder": "resnet18", "weights": "none", "batchnorm_momentum": 0.9},
        "input": {"size": plans.small_quick},
        "batch": {"per_device": 4},
        "sampling": {"epoch": 8},
        "runtime": {"precision": "float32"},
    }
    sides = "turned, since many small objects have no upper side" if plans.flips else "mirrored"
    lines = [
        f"# Settings shared by the experiments of {comp}. Images are {sides}, moved and brightened at random.",
        *_section("augment", augment),
        *_section("optimizer", {"name": "adam"}),
        *_section("quick", quick),
    ]
    return "\n".join(lines) + "\n"


def _flips(plans: Plans) -> list[str]:
    """Return the steps of augmentation that move no pixel between others."""
    return ["hflip", *(["vflip"] if plans.flips else []), *(["turn"] if plans.flips and plans.square else [])]


def _experiment(comp: str, plan: str, task: str, exp: Experiment, plans: Plans) -> str:
    quick = plan == "quick"
    name = f"{plan}_gate" if task == "gate" else plan
    model: dict[str, object] = {"name": "gate" if task == "gate" else "unet", "encoder": exp.encoder}
    model |= {"batchnorm_momentum": 0.9} if quick else {"weights": "imagenet"}
    if task == "gate" and plans.per_class:
        model["per_class"] = True
    peak = 1e-3 if task == "mask" or quick else 3e-4
    warmup = 1 if exp.epochs < 20 else 2
    sections: dict[str, object] = {
        "extends": "base.yaml",
        "task": task,
        "model": model,
        "input": {"size": exp.input if isinstance(exp.input, int) else list(exp.input)},
        "loss": {"bce": 1} if task == "gate" else {"bce": 1, "dice": 1},
        "schedule": {
            "name": "cosine",
            "peak": peak,
            "start": float(f"{peak / 10:.1e}"),
            "warmup": warmup,
            "floor": 1e-6,
        },
        "epochs": exp.epochs,
        "batch": {"per_device": exp.batch},
    }
    if quick:
        sections["augment"] = _flips(plans)  # short trainings do not overfit
    sampling: dict[str, object] = {}
    if task == "mask" and plans.empty > 0.4:
        sampling["positives"] = [0.8, 0.6]
    if exp.epoch is not None:
        sampling["epoch"] = exp.epoch
    if sampling:
        sections["sampling"] = sampling
    if plan == "strong":
        sections["runtime"] = {"precision": "bfloat16"}
    views = ["hflip"] + (["vflip"] if plan == "strong" and plans.flips else [])
    sections["tta"] = views
    lines = [
        f"# make {'train' if quick else 'push'} EXP=experiments/{comp}/{name}.yaml FOLD={'0' if quick else 'all'}",
        f"# {INTENDED[plan]}",
        *textwrap.wrap(f"Planned: {exp.why}.", WIDTH, initial_indent="# ", subsequent_indent="#   "),
        *(line for key, value in sections.items() for line in _section(key, value)),
    ]
    return "\n".join(lines) + "\n"


def _ensemble(comp: str, gated: bool) -> str:
    gate = "gate: {experiments: [quick_gate]}" if gated else "# No gate: every image has a mask."
    lines = [
        f"# make oof-tune COMP={comp} && make ensemble COMP={comp}",
        "# When good and strong are trained, name them instead, or all: averages of networks score higher.",
        gate,
        "mask: {experiments: [quick]}",
        "tune: {trials: 200}",
        "quick: {tune: {trials: 20}}",
    ]
    return "\n".join(lines) + "\n"


def write_competition(folder: Path, comp: str, sections: Mapping[str, object], decisions: Decisions) -> None:
    """Write competition.yaml."""
    _write(folder / "competition.yaml", "competition", competition_text(comp, sections, decisions))


ORDER = (
    *("title", "raw", "image", "train", "test", "labels", "classes", "exclusive", "objects", "tiles", "metric"),
    *("groups", "folds", "records", "submission", "kaggle", "quick"),
)


def in_order(sections: Mapping[str, object]) -> dict[str, object]:
    """Return the keys of competition.yaml in the order in which they are written, with lists in place of tuples."""
    return {key: as_lists(sections[key]) for key in ORDER if key in sections}


def as_lists(value: object) -> object:
    """Return a value with lists in place of tuples, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: as_lists(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_lists(inner) for inner in value]
    return value
