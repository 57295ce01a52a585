"""Rules made elsewhere, set by hand or searched on a grid, to be scored next to the tuned one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gatemask.errors import GatemaskError
from gatemask.files import read_yaml
from gatemask.masks import rule_files
from gatemask.masks.rule import Rule
from gatemask.results.tuning import CANDIDATES


def names_of(files: Sequence[str]) -> dict[str, str]:
    """Return the names under which files of rules are shown: without folder and ending, where that is unambiguous.

    Args:
        files: Paths, relative to the project.

    Returns:
        Paths by name.

    >>> names_of(["rules/mine.yaml", "a/best.yaml", "b/best.yaml", "exact.yaml"])
    {'mine': 'rules/mine.yaml', 'a/best.yaml': 'a/best.yaml', 'b/best.yaml': 'b/best.yaml', 'exact.yaml': 'exact.yaml'}
    """
    stems = [Path(file).stem for file in files]
    short = {stem for stem in stems if stems.count(stem) == 1 and stem not in CANDIDATES}
    return {stem if stem in short else file: file for file, stem in zip(files, stems, strict=True)}


def reference_rules(path: Path, size: tuple[int, int], classes: Sequence[str]) -> list[list[Rule]]:
    """Return the rules of a file, one per class. Several of these are a grid, to be searched for its best.

    Args:
        path: rule.yaml, or a grid: `rules`, a list of rules, and `image_pixels`, the number of pixels of the images for
            which their areas are meant.
        size: Height and width of the competition's images, in pixels; the areas of a grid are scaled to it.
        classes: Names of the classes; a grid holds for each of them.

    Raises:
        GatemaskError: The file does not hold a rule.
    """
    try:
        values = read_yaml(path)
    except GatemaskError as error:
        error.details["where"] = path
        raise
    if not isinstance(values, dict) or not isinstance(values.get("rules"), list):  # a class may be called rules
        return [rule_files.load_rules(path, classes)]
    try:
        grid = [Rule(**rule) for rule in values["rules"]]
        if not grid:
            raise TypeError("an empty list")
        scale = size[0] * size[1] / values.get("image_pixels", size[0] * size[1])
        areas = ("min_area", "min_component")
        scaled = [replace(rule, **{name: round(getattr(rule, name) * scale) for name in areas}) for rule in grid]
    except GatemaskError as error:
        error.details["where"] = path
        raise
    except (TypeError, ZeroDivisionError) as error:
        raise GatemaskError(
            "The file does not hold rules.",
            where=path,
            received=" ".join(str(error).split()),
            expected="image_pixels: 1048576 and rules: [{gate: 0.5, upper: 0.7, lower: 0.4, min_area: 100}]",
            do="Correct the file.",
        ) from None
    return [[rule] * len(classes) for rule in scaled]
