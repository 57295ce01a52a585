"""Rules in results and in rule.yaml: the rule of the only class, or a rule by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gatemask.errors import GatemaskError
from gatemask.files import read_yaml, write_yaml
from gatemask.masks.rule import Rule
from gatemask.results.rules import UNUSED, ClassRules, RuleValues


def rule_as_dict(rule: Rule) -> dict[str, float | int | bool]:
    """Return the numbers of a rule as files hold them: `split` and `quantile` appear only where they are used.

    >>> rule_as_dict(Rule(0.5, 0.7, 0.4, 100))
    {'gate': 0.5, 'upper': 0.7, 'lower': 0.4, 'min_area': 100, 'min_component': 0, 'hysteresis': False}
    """
    return {name: value for name, value in asdict(rule).items() if name not in UNUSED or value}


def as_values(rules: Sequence[Rule]) -> ClassRules:
    """Return rules as results hold them: that of the only class, or a list."""
    values = [RuleValues(**asdict(rule)) for rule in rules]
    return values[0] if len(values) == 1 else values


def of_values(values: Sequence[RuleValues]) -> list[Rule]:
    """Return the rules that a result holds.

    >>> of_values([RuleValues(gate=0.5, upper=0.75, lower=0.4, min_area=200)])[0].min_area
    200
    """
    return [Rule(**rule.model_dump()) for rule in values]


def save_rule(rule: Rule, path: Path) -> Path:
    """Write a rule as YAML and return the path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_rules(save_rule(Rule(0.5, 0.7, 0.4, 100), Path(folder) / "rule.yaml"), ["lesion"])[0].min_area
    100
    """
    return write_yaml(path, rule_as_dict(rule))


def save_rules(rules: Sequence[Rule], classes: Sequence[str], path: Path) -> Path:
    """Write the rules of all classes as YAML and return the path: a rule by class, or that of the only class.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_rules([Rule(0.5, 0.7, 0.4, 100)] * 2, ["a", "b"], Path(folder) / "rule.yaml").read_text().split()[:3]
    ['a:', 'gate:', '0.5']
    """
    if len(classes) == 1:
        return save_rule(rules[0], path)
    return write_yaml(path, {name: rule_as_dict(rule) for name, rule in zip(classes, rules, strict=True)})


def load_rules(path: Path, classes: Sequence[str]) -> list[Rule]:
    """Read the rules of all classes; the inverse of `save_rules`. A file with one rule holds for every class.

    Raises:
        GatemaskError: The file does not hold a rule, or lacks that of a class, or one is impossible.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rules = load_rules(save_rule(Rule(0.5, 0.7, 0.4, 100), Path(folder) / "rule.yaml"), ["a", "b"])
    >>> [rule.min_area for rule in rules]
    [100, 100]
    """
    try:
        values = read_yaml(path)
        if not isinstance(values, dict) or not all(isinstance(part, dict) for part in values.values()):
            return [Rule(**values)] * len(classes)
        by_class = {str(name): part for name, part in values.items()}
        if set(by_class) != set(classes):
            missing, unknown = sorted(set(classes) - set(by_class)), sorted(set(by_class) - set(classes))
            raise GatemaskError(
                "The file does not hold a rule for each class.",
                received=f"no rule for {', '.join(missing)}" if missing else f"a rule for {', '.join(unknown)}",
                expected=", ".join(classes),
                do="Run gatemask oof-tune again, or correct the file.",
            )
        return [Rule(**by_class[name]) for name in classes]
    except GatemaskError as error:
        error.details["where"] = path
        raise
    except (OSError, TypeError, UnicodeDecodeError) as error:
        raise GatemaskError(
            "The file does not hold a rule.",
            where=path,
            received=" ".join(str(error).split()),
            expected="gate, upper, lower, min_area; optionally min_component, hysteresis, split, quantile",
            do="Run gatemask oof-tune again, or correct the file.",
        ) from None
