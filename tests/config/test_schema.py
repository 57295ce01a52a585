"""JSON schemas accept every YAML that gatemask ships, reject mistakes, and are current; so is the list of keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gatemask.config import schema
from gatemask.yaml12 import parse_yaml
from tests.conftest import ROOT

KINDS = {"competition.yaml": "competition", "ensemble.yaml": "ensemble", "dashboard.yaml": "dashboard"}
YAMLS = sorted((ROOT / "experiments").glob("*/*.yaml"))
VALIDATORS = {name: jsonschema.Draft202012Validator(schema.document_schema(name)) for name in schema.DOCUMENTS}


def problems(name: str, document: Any) -> list[str]:
    return [error.message for error in VALIDATORS[name].iter_errors(document)]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_yamls_fit_the_schema_they_name(path: Path) -> None:
    text, kind = path.read_text(), KINDS.get(path.name, "experiment")
    assert schema.schema_line(kind).strip() in text.splitlines()[:2]
    assert problems(kind, parse_yaml(text, "test").value) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("experiment", "epoch: 3"),
        ("experiment", "epochs: 0"),
        ("experiment", "epochs: three"),
        ("experiment", "augment: [hflipp]"),
        ("experiment", "runtime: npu"),
        ("experiment", "loss: {dise: 1}"),
        ("experiment", "model: {encoder: efficientnetb9}"),
        ("experiment", "quick: {epoch: 1}"),
        ("competition", "labels: {format: rle, fil: a.csv}"),
        ("competition", "image: {size: [64]}"),
        ("competition", "metric: [1]"),
        ("ensemble", "tune: {trial: 3}"),
        ("dashboard", "panel: 3"),
    ],
)
def test_mistakes_are_found(name: str, text: str) -> None:
    assert problems(name, parse_yaml(text, "test").value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("experiment", "augment: [hflip, {hflip: 0.3}, affine]\nruntime: gpu\ntta: [hflip, {scale: 1.1}]"),
        ("experiment", "extends: base.yaml\ninput: {size: [64, 96]}\nquick: {epochs: 1}\nfreeze: null"),
        ("experiment", "search: {space: {schedule.peak: [0.001, 0.01]}, pruner: median}"),
        ("competition", "labels: {format: png, ignore: 255}\nimage: {size: mixed, window: [40, 400]}"),
        ("competition", "labels: {format: png, ignore: [254, 255]}"),
    ],
)
def test_short_forms_are_accepted(name: str, text: str) -> None:
    assert problems(name, parse_yaml(text, "test").value) == []


def test_the_files_are_current() -> None:
    for path, text in schema.schema_files(ROOT / "experiments").items():
        assert path.read_text() == text, "run gatemask schema"
    assert (ROOT / "docs/reference/keys.md").read_text() == schema.keys_page(), (
        "run gatemask schema --page docs/reference/keys.md"
    )


def test_the_page_lists_every_key() -> None:
    page = schema.keys_page()
    for key in ("workers", "per_device", "coarse_dropout", "tiles", "offsets", "artifacts"):
        assert f"| `{key}` |" in page
