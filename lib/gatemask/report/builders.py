"""`gatemask builders`: the names a YAML may use, as tables made from the schema and the builders' docstrings.

The builders' modules import Keras, so their docstrings are read from the source files.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from gatemask import config
from gatemask.files import write_text
from gatemask.results.report import BuildersPage

Row = dict[str, str | int]  # cells by column
BUILDERS = Path(__file__).parents[1] / "builders"
HEAD = """# Builders

Every name that an experiment's YAML may use, with its options and their defaults. `gatemask builders --write
docs/reference/builders.md` writes this page from the code.

Published weights (`weights: imagenet`, `weights: noisy-student`) are searched in the folders named by the environment
variable GATEMASK_WEIGHTS, in `data/weights`, in `~/.keras/models` and anywhere below `/kaggle/input`, under their
original file names; otherwise they are downloaded into `data/weights`. Files are checked against the published hash.
Without internet, put the file into one of these folders. `weights:` may also name a file: an encoder of older Keras
(.h5), or an encoder or a whole network saved by gatemask (.weights.h5).
"""


def builder_tables() -> dict[str, list[Row]]:
    """Return one table per section (models, encoders, losses, ...), as rows of name, text and options."""
    return {
        "models": [
            _row(name, _first_line("models.py" if name == "gate" else f"decoders/{name}.py", name))
            for name in get_args(config.Architecture)
        ],
        "model": _fields(config.Model, {"name", "encoder"}),
        "encoders": [_encoder_row(name, encoder) for name, encoder in config.ENCODERS.items()],
        "losses": [
            _row(name, _first_line("losses.py", name), ", ".join(config.LOSS_OPTIONS.get(name, ())))
            for name in get_args(config.LossName)
        ],
        "loss": _fields(config.LossPart),
        "metrics": [
            _row("auc, sensitivity, specificity", _first_line("metrics.py", "GateCurve")),
            _row("dice, dice_positives", _first_line("metrics.py", "BestThresholdDice")),
        ],
        "optimizers": [
            _row(name, _first_line("optimizers.py", name) or "Keras's own.") for name in get_args(config.OptimizerName)
        ],
        "optimizer": _fields(config.Optimizer, {"name"}),
        "schedules": [_row(name, _first_line("schedules.py", name)) for name in get_args(config.ScheduleName)],
        "schedule": _fields(config.Schedule, {"name"}),
        "batch": _fields(config.Batch),
        "augment": _steps(),
        "tta": _fields(config.View),
    }


NORMALIZATIONS: dict[config.Normalization, str] = {
    "torch": "standardized",
    "tf": "-1 to 1",
    "tf128": "-1 to 1",
    "raw": "0 to 255",
    "caffe": "BGR, centered",
}
TITLES = {
    "models": "Models: `model: {name: ...}`",
    "model": "Options of `model`",
    "encoders": "Encoders: `model: {encoder: ...}`",
    "losses": "Losses: `loss: {bce: 1, dice: 1}`",
    "loss": "Options of a loss",
    "metrics": "Metrics",
    "optimizers": "Optimizers: `optimizer: {name: ...}`",
    "optimizer": "Options of `optimizer`",
    "schedules": "Schedules: `schedule: {name: ...}`",
    "schedule": "Options of `schedule`",
    "batch": "Options of `batch`",
    "augment": "Steps of `augment`",
    "tta": "Views of `tta`",
}


def builders_markdown() -> str:
    """Return the contents of docs/reference/builders.md."""
    parts = [HEAD]
    for section, rows in builder_tables().items():
        header = list(rows[0])
        parts.append(f"## {TITLES[section]}\n")
        lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(_cell(key, row[key]) for key in header) + " |" for row in rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def write_builders_page(path: Path) -> BuildersPage:
    """Write docs/reference/builders.md."""
    return BuildersPage(written=str(write_text(path, builders_markdown())))


def _cell(key: str, value: str | int) -> str:
    if key == "name":
        return f"`{value}`"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def _row(name: str, text: str, options: str | None = None) -> Row:
    row: Row = {"name": name, "what": text}
    return row if options is None else {**row, "options": options}


def _encoder_row(name: str, encoder: config.EncoderInfo) -> Row:
    family = encoder.family
    return {
        "name": name,
        "family": f"{family.title} ({family.paper})",
        "parameters": encoder.parameters,
        "strides": ", ".join(map(str, family.strides)),
        "images": NORMALIZATIONS[family.normalization],
        "weights": ", ".join(encoder.weights),
        "package": family.package,
    }


def _first_line(file: str, name: str) -> str:
    """Return the first paragraph of the docstring of a function or class in a builders' module."""
    tree = ast.parse((BUILDERS / file).read_text(encoding="utf-8"))
    names = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    documented = next((node for node in names if name in (node.name, node.name.lower())), None)
    return _paragraph(ast.get_docstring(documented)) if documented else ""


def _fields(section: type[BaseModel], leave: set[str] | None = None) -> list[Row]:
    return [
        {"name": name, "values": _type(field.annotation), "default": _default(field), "what": field.description or ""}
        for name, field in section.model_fields.items()
        if name not in (leave or set())
    ]


def _steps() -> list[Row]:
    """Return the steps of `augment:`, and the options of a bare name."""
    rows: list[Row] = []
    for name, field in config.Augment.model_fields.items():
        kinds = [kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        text = field.description or (_paragraph(kinds[0].__doc__) if kinds else "")
        bare = getattr(config.Augment.model_validate(name), name)
        options = ", ".join(f"{key}: {_plain(value)}" for key, value in bare) if kinds else _plain(bare)
        rows.append({"name": name, "what": text, "bare name means": options})
    return rows


def _paragraph(docstring: str | None) -> str:
    """Return the first paragraph on one line."""
    return " ".join((docstring or "").split("\n\n")[0].split())


def _default(field: Any) -> str:
    return "" if field.default is PydanticUndefined else _plain(field.default)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _type(annotation: Any) -> str:
    """Return an annotation in the words of a YAML's reader."""
    if annotation is None or annotation is type(None):
        return ""
    if get_origin(annotation) is not None and str(get_origin(annotation)) == "typing.Literal":
        return ", ".join(map(str, get_args(annotation)))
    if hasattr(annotation, "__metadata__"):
        return _type(get_args(annotation)[0])
    names = {bool: "true, false", int: "whole number", float: "number", str: "text"}
    if annotation in names:
        return names[annotation]
    inner = [text for part in get_args(annotation) if (text := _type(part))]
    return f"list of {inner[0]}s" if get_origin(annotation) is list else ", ".join(dict.fromkeys(inner))
