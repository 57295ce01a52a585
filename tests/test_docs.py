"""Tests of docs/: YAML fits the schemas, Python runs, the site builds, and pages fetch nothing from other hosts."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import runpy
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from gatemask.config import schema
from gatemask.errors import GatemaskError
from gatemask.masks.rule import Rule
from gatemask.yaml12 import parse_yaml
from tests.config.test_schema import problems
from tests.conftest import ROOT
from tests.pages import DOCS, blocks, inline_code, short

YAML = [(page, text) for page in [ROOT / "README.md", *DOCS] for text in blocks(page, "yaml")]
KEYS = {name: set(schema.document_schema(name)["properties"]) for name in schema.DOCUMENTS}  # type: ignore[arg-type]
MKDOCS = ROOT / ".venv-docs/bin/mkdocs"
RESULTS = {"Network", "TunedMaps"}  # the functions that return them have examples
API = sorted((ROOT / "docs/reference/python").glob("*.md"))


def faults(document: dict[str, object]) -> str:
    """Return why a fragment fits none of the documents; "" if it fits one."""
    rules = list(document.values()) if all(isinstance(value, dict) for value in document.values()) else [document]
    if all(isinstance(rule, dict) and "min_area" in rule and "upper" in rule for rule in rules):
        for rule in rules:
            Rule(**rule)  # type: ignore[arg-type]
        return ""
    fitting = [name for name, keys in KEYS.items() if set(document) <= keys]
    found = {name: problems(name, document) for name in fitting}
    return "" if any(not faults for faults in found.values()) else f"{found or 'no document has these keys'}"


@pytest.mark.parametrize(
    ("page", "text"), YAML, ids=[f"{short(page)}-{number}" for number, (page, _) in enumerate(YAML)]
)
def test_yaml_fits_a_schema(page: Path, text: str) -> None:
    assert faults(parse_yaml(text, page).value) == ""


def test_yaml_in_sentences_fits_a_schema() -> None:
    checked = 0
    for page in DOCS:
        for code in inline_code(page):
            if not re.match(r"[a-z_]+: [\[{]", code) or re.search(r"\.\.\.|<|`|\b[A-Z]{2,}\b", code):
                continue
            try:
                document = parse_yaml(code, page).value
            except GatemaskError:
                continue  # not YAML, such as the text of a message
            if isinstance(document, dict) and any(set(document) <= keys for keys in KEYS.values()):
                assert faults(document) == "", f"{short(page)}: {code}"
                checked += 1
    assert checked > 20


def test_python_compiles() -> None:
    for page in DOCS:
        for text in blocks(page, "python"):
            if ">>>" not in text:  # those run as doctests
                ast.parse(text, short(page))


def test_coco_annotations_become_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [script] = [text for text in blocks(ROOT / "docs/how_to/labels.md", "python") if "annotations.json" in text]
    annotations = [
        {"image_id": 1, "segmentation": [[2, 1, 6, 1, 6, 5, 2, 5]]},
        {"image_id": 1, "segmentation": {"counts": [0, 2, 78], "size": [8, 10]}},
    ]
    coco = {"images": [{"id": 1, "height": 8, "width": 10, "file_name": "a.jpg"}], "annotations": annotations}
    (tmp_path / "annotations.json").write_text(json.dumps(coco))
    (tmp_path / "draw.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("draw.py")
    mask = cv2.imread("masks/a.png", cv2.IMREAD_UNCHANGED)
    expected = np.zeros((8, 10), np.uint8)
    expected[1:6, 2:7] = expected[:2, 0] = 255
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("page", API, ids=short)
def test_listed_objects_have_examples(page: Path) -> None:
    for path in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.M):
        module, _, name = path.rpartition(".")
        if name in RESULTS:
            continue
        file = importlib.util.find_spec(module)
        assert file is not None and file.origin is not None, path
        tree = ast.parse(Path(file.origin).read_text(encoding="utf-8"))
        kinds = (ast.FunctionDef, ast.ClassDef)
        listed = [node for node in tree.body if isinstance(node, kinds) and node.name == name]
        examples = (ast.get_docstring(listed[0]) or "") + "".join(blocks(page, "python"))
        assert ">>>" in examples and re.search(rf"\b{name}\b", examples.partition(">>>")[2]), f"{path} has no example"


@pytest.mark.integration
@pytest.mark.skipif(not MKDOCS.exists(), reason="make docs was never run: .venv-docs is missing")
def test_the_site_builds_without_warnings_and_fetches_nothing(tmp_path: Path) -> None:
    command = [str(MKDOCS), "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(DOCS)
    for page in pages:
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]+src=\"?(https?:[^\"\s>]+)", page.read_text())
        fetched += re.findall(r"<link[^>]+rel=\"?stylesheet\"?[^>]+href=\"?(https?:[^\"\s>]+)", page.read_text())
        assert fetched == [], page.name
