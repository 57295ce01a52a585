"""Compare a package with what the YAMLs and the data say now, before it is rehearsed or submitted.

`gatemask package` records what they said. Weights and rule in the package stay as they are when a YAML is edited, so
nothing else would reveal that the submission is of another network than the YAML describes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gatemask.config import Competition, Ensemble, load_experiment
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.project import Project
from gatemask.results.ensemble import ShippedEnsemble, ShippedMember
from gatemask.stage import Stamp
from gatemask.training.differences import differences
from gatemask.training.fold_inputs import TrainingInputs

SHOWN = 4  # differences in an error


def present_settings(project: Project, comp: Competition, ensemble: Ensemble, shipped: Path) -> dict[str, object]:
    """Return what ensemble.yaml, and for each member its experiment's YAML and data, say now.

    Args:
        project: Project folders, with the `--set` options of the experiments.
        comp: Competition.
        ensemble: Contents of the experiments' ensemble.yaml.
        shipped: The selected ensemble, with the members.
    """
    members = ShippedEnsemble.load(shipped).members
    return {
        "ensemble.yaml": fingerprint(ensemble.model_dump(mode="json", exclude={"quick", "inference", "as_trained"})),
        # A time budget may be given to `gatemask package` alone.
        "inference": ensemble.inference.model_dump(mode="json", exclude={"time_budget"}),
        "members": {member.name: _settings_of(project, comp, member) for member in members},
    }


def require_present_settings(project: Project, comp: Competition, ensemble: Ensemble, stamp: Path) -> list[str]:
    """Verify that the YAMLs say what they said when the package was made.

    Args:
        project: Project folders, with the `--set` options of the experiments.
        comp: Competition.
        ensemble: Contents of the experiments' ensemble.yaml. Its `as_trained` allows members that differ.
        stamp: Stamp of the package.

    Returns:
        How members differ, one text each; empty unless `as_trained` allows it.

    Raises:
        GatemaskError: ensemble.yaml has changed; or, without `as_trained`, an experiment or its data.
    """
    recorded: Any = Stamp.load(stamp).made_from.get("yamls")
    shipped = project.dist / "dataset" / "ensemble.yaml"
    present: Any = present_settings(project, comp, ensemble, shipped)
    chain = f"gatemask oof-tune, ensemble and package {project.comp}"
    if not isinstance(recorded, Mapping) or recorded.keys() != present.keys():
        do = f"Run gatemask package {project.comp}; a rehearsal of the same files stays valid."
        raise GatemaskError("The package does not say which YAMLs it was made from.", where=stamp, do=do)
    if any(recorded[key] != present[key] for key in ("ensemble.yaml", "inference")):
        raise GatemaskError(
            "The package is older than ensemble.yaml.",
            where=project.experiments / "ensemble.yaml",
            expected="the settings that the package was made with",
            do=f"Run {chain}, restore ensemble.yaml, or give the --set of the package here too.",
        )
    notes = list(_differences(project, recorded["members"], present["members"], shipped))
    if notes and not ensemble.as_trained:
        shown = " | ".join(notes[:SHOWN]) + (f" | and {len(notes) - SHOWN} more" if len(notes) > SHOWN else "")
        raise GatemaskError(
            "The package is older than the YAMLs or the data of its members.",
            where=project.experiments,
            received=shown,
            expected="the YAMLs, records and split that the package was made with",
            do=f"Train again and run {chain}, restore the YAML, or give the --set of the training here too. With "
            "--as-trained the package is used as it is.",
        )
    return notes


def _settings_of(project: Project, comp: Competition, member: ShippedMember) -> dict[str, object] | None:
    """Return what a member would be trained from now; None without its YAML."""
    path = project.experiment_file(member.experiment)
    if not path.exists():
        return None
    exp = load_experiment(path, quick=project.quick, overrides=project.overrides)
    return TrainingInputs(project, comp, exp).comparable(member.fold)


def _differences(
    project: Project,
    recorded: Mapping[str, Mapping[str, object] | None],
    present: Mapping[str, Mapping[str, object] | None],
    shipped: Path,
) -> Iterator[str]:
    for member in ShippedEnsemble.load(shipped).members:
        before, now = recorded.get(member.name), present.get(member.name)
        if before == now:
            continue
        if before is None or now is None:
            yield f"{member.name}: its YAML {'no longer exists' if now is None else 'is new'}"
            continue
        # Records and initial weights may not have been on this disk, then or now.
        known = {key: value for key, value in now.items() if key in before}
        if any(before[key] != value for key, value in known.items()):
            path = project.experiment_file(member.experiment)
            exp = load_experiment(path, quick=project.quick, overrides=project.overrides)
            texts = differences(project.fold(member.experiment, member.fold), before, known, exp)
            yield f"{member.name}: {'; '.join(texts)}"
