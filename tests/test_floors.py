"""Imports point downward only: modules are arranged in floors, and no modules import each other in a circle."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from gatemask.kaggle.train.bundle import NOT_NEEDED
from tests.conftest import ROOT

LIB = ROOT / "lib"
# From the ground up. Rooms that share a floor may not import each other; modules of one room may.
FLOORS = [
    [
        "errors",
        "storage",
        "yaml12",
        "files",
        "hdf5",
        "optional",
        "faults",
        "console",
        "quiet",
        "parallel",
        "pieces",
        "project",
        "remote",
        "shipped",
        "stage",
    ],
    ["config", "secrets"],
    ["results"],
    ["masks", "notify"],
    ["data"],
    ["input", "new"],
    ["builders"],
    ["plots"],
    ["oof"],
    ["tracking"],
    ["training"],
    ["cost"],
    ["tuning"],
    ["submission"],
    ["inference"],
    ["ensemble"],
    ["kaggle.image"],
    ["kaggle.client"],
    ["kaggle.download", "kaggle.train", "kaggle.submit"],
    ["runs"],
    ["report", "search", "finalists"],
    ["stages"],
    ["doctor", "loop", "clean", "transfer"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
GROUND = FLOORS[0]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Figures are drawn from plain arrays.
ONLY = {"plots": {*GROUND, "plots"}}
# Third-party packages of Kaggle's CPU/GPU image, which runs the submission without a network.
OFFLINE = {
    "PIL",
    "cv2",
    "h5py",
    "jax",
    "keras",  # which requires rich
    "numpy",
    "pandas",
    "pydantic",
    "pydantic_core",
    "pydicom",  # the TPU image lacks it; only DICOM files need it
    "rich",
    "segmentation_models",  # shipped as a wheel next to the kernel, with the three packages it requires
    "tensorflow",
    "tifffile",  # through scikit-image
    "yaml",
}


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module, by its dotted name without `gatemask.`."""
    paths = sorted((LIB / "gatemask").rglob("*.py"))
    names = (".".join(path.relative_to(LIB / "gatemask").with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def room(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "kaggle" else parts[0]


@cache
def imports(module: str, with_types: bool = True) -> frozenset[str]:
    """Return the full dotted names that a module imports anywhere, also inside functions.

    Args:
        module: Dotted name without `gatemask.`.
        with_types: Whether imports for type checkers only are counted. Default: True.
    """
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if not with_types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full.removeprefix("gatemask.") in modules() else str(node.module))
    return frozenset(names)


def own_imports(module: str, with_types: bool = True) -> set[str]:
    """Return the modules of gatemask that a module imports."""
    names = {name.removeprefix("gatemask.") for name in imports(module, with_types) if name.startswith("gatemask.")}
    return {name for name in names if name in modules() and name != module}


def breaks_a_rule(importer: str, imported: str) -> bool:
    mine, theirs = room(importer), room(imported)
    if mine == theirs:
        return False
    if theirs not in ONLY.get(mine, {theirs}):
        return True
    if theirs in GROUND and mine in GROUND:
        return False
    return FLOOR[theirs] >= FLOOR[mine]


def test_each_module_has_a_floor() -> None:
    packages = {"__init__", "kaggle"}
    assert {room(module) for module in modules() if module not in packages} == set(FLOOR)


def test_imports_point_down() -> None:
    broken = {
        (importer, imported)
        for importer in modules()
        if importer not in ("__init__", "kaggle")
        for imported in own_imports(importer)
        if imported != "kaggle" and breaks_a_rule(importer, imported)
    }
    assert broken == set(), "imports from the same floor or above"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: own_imports(module, with_types=False) for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def reached_from(start: set[str]) -> set[str]:
    """Return the modules that some modules import, directly or not, with these."""
    reached: set[str] = set()
    ahead = start
    while ahead:
        reached |= ahead
        ahead = set().union(*(own_imports(module, with_types=False) for module in ahead)) - reached
    return reached


def test_training_kernels_get_all_that_they_import() -> None:
    reached = reached_from({"kaggle.train.session", "training.train_piece"})
    assert {module for module in reached if module.split(".")[0] in NOT_NEEDED} == set()
    assert {name.split(".")[0] for name in modules()} >= NOT_NEEDED


def test_inference_imports_only_packages_of_kaggles_image() -> None:
    foreign = {
        f"{module}: {name}"
        for module in reached_from({module for module in modules() if room(module) == "inference"})
        for name in imports(module, with_types=False)
        if name.split(".")[0] not in {*sys.stdlib_module_names, *OFFLINE, "gatemask"}
    }
    assert foreign == set()


def test_the_page_of_the_architecture_lists_and_draws_the_floors() -> None:
    from tests import floor_plan

    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", page, re.M)
    listed = [name for row in rows for name in re.findall(r"`(.+?)`", row)]
    assert sorted(listed) == sorted(FLOOR) and listed == sorted(listed, key=FLOOR.__getitem__), "from the ground up"
    assert floor_plan.FILE.read_text(encoding="utf-8") == floor_plan.drawing(), "run: python -m tests.floor_plan"
