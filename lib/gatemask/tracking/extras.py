"""What W&B gets once a fold is finished: overlays of validation images, a table of all of them, and artifacts.

An online training and `gatemask sync` send it by the same code, from the files on disk. Overlays and table are one row
of the run's history, which also holds their hashes; the hash of the artifacts goes to the run's summary once they are
complete. So the server knows what it has, and nothing is sent twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from gatemask.config import Competition, Experiment, load_competition
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.project import Project
from gatemask.results.training import FoldResult
from gatemask.stage import Stamp
from gatemask.tracking import artifacts
from gatemask.tracking.artifacts import ArtifactFiles
from gatemask.tracking.examples import FoldExamples, Overlay, has_raw_images

FORMAT = 1  # of overlays and table: those of another format are sent again
OVERLAYS, TABLE, ARTIFACTS = "overlays", "per_image", "artifacts"  # the first two are keys of the history
SENT = "sent_"  # begins the keys that hold hashes
_PREDICTIONS = {"gate": ("oof.csv",), "mask": ("oof.h5", "tables.npz")}


@dataclass(frozen=True)
class Extras:
    """What belongs on W&B besides the epochs of a finished fold.

    Args:
        project: Project of the run.
        comp: Its competition.
        exp: Its experiment, as it was trained.
        stamp: Hashes of inputs and outputs of the fold.
        result: Its result.
    """

    project: Project
    comp: Competition
    exp: Experiment
    stamp: Stamp
    result: FoldResult

    @classmethod
    def of(cls, project: Project, exp: Experiment, folder: Path) -> Extras | None:
        """Return the extras of a run; None if it is not finished, was set aside, or cannot be read."""
        path = folder / "result.json"
        if not path.exists() or not re.fullmatch(r"fold\d+", folder.name):
            return None
        try:
            extras = cls(project, _competition(project), exp, Stamp.load(path), FoldResult.load(path))
        except GatemaskError:  # the epochs can be sent all the same
            return None
        return extras if project.fold(extras.result.experiment, extras.result.fold) == folder else None

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Hash of what is to be sent, by kind: "overlays", "per_image", "artifacts"."""
        names, folder = _PREDICTIONS[self.result.task], self.project.fold(self.result.experiment, self.result.fold)
        hashes = {}
        if all((folder / name).exists() for name in names) and (self.project.data / "manifest.json").exists():
            predictions = [FORMAT, *(self.stamp.outputs.get(name) for name in names)]
            images = self.exp.tracking.images
            if images and has_raw_images(self.project, self.comp):
                hashes[OVERLAYS] = fingerprint([*predictions, images])
            hashes[TABLE] = fingerprint(predictions)
        if self.exp.tracking.artifacts and self._weights is not None:
            hashes[ARTIFACTS] = fingerprint([one.digest for one in (*self._inputs, self._weights)])
        return hashes

    @cached_property
    def _inputs(self) -> list[ArtifactFiles]:
        """The records and the split, if they are still those of the training."""
        made_from, size = self.stamp.made_from, self.exp.input.records or self.comp.records.size
        records = self.project.records(size)
        same_records = made_from.get("records") == artifacts.records_fingerprint(records)
        same_split = self.project.folds.exists() and made_from.get("folds") == artifacts.content_hash(
            self.project.folds
        )
        found = [
            artifacts.records_artifact(self.project, records) if same_records else None,
            artifacts.folds_artifact(self.project) if same_split else None,
        ]
        return [one for one in found if one is not None]

    @cached_property
    def _weights(self) -> ArtifactFiles | None:
        return artifacts.weights_artifact(self.project, self.result.experiment, self.result.fold)

    def files(self, kinds: Collection[str]) -> dict[str, bytes | Path]:
        """Return what is to be searched for secrets before some kinds are sent, by name."""
        contents: dict[str, bytes | Path] = {}
        if {OVERLAYS, TABLE} & set(kinds):
            contents["the names of classes"] = json.dumps(self.comp.classes).encode()
            contents["manifest.csv"] = self.project.data / "manifest.csv"  # it lists all image ids
        for artifact in (*self._inputs, self._weights) if ARTIFACTS in kinds else ():
            if artifact is not None:
                contents |= {f"{artifact.name}/{name}": path for name, path in artifact.files.items()}
        return contents

    def row(self, kinds: Collection[str]) -> dict[str, object]:
        """Return the history's row of overlays and table, as objects of W&B's client, and their hashes.

        Args:
            kinds: Kinds to include.

        Raises:
            GatemaskError: A file of the run is missing or damaged.
        """
        import wandb

        examples = FoldExamples(self.project, self.comp, self.result)
        row: dict[str, object] = {}
        if OVERLAYS in kinds:
            labels = dict(enumerate(["background", *self.comp.classes]))
            images = [_client_image(one, labels) for one in examples.overlays(self.exp.tracking.images)]
            row |= {OVERLAYS: images} if images else {}
        if TABLE in kinds:
            table = examples.table()
            row[TABLE] = wandb.Table(columns=table.columns, data=table.rows)
        return row | {f"{SENT}{kind}": self.hashes[kind] for kind in (OVERLAYS, TABLE) if kind in kinds}

    def send_artifacts(self, run: Any) -> None:
        """Log the weights, with records and split as inputs, to an online run; wait, and note their hash there."""
        for artifact in self._inputs:
            artifacts.use_artifact(run, artifact)
        assert self._weights is not None
        artifacts.log_artifact(run, self._weights)
        run.summary.update({f"{SENT}{ARTIFACTS}": self.hashes[ARTIFACTS]})


def _competition(project: Project) -> Competition:
    yaml = project.experiments / "competition.yaml"
    return _competition_of_version(project, yaml.stat().st_mtime_ns if yaml.exists() else 0)


@lru_cache(maxsize=16)
def _competition_of_version(project: Project, changed: int) -> Competition:
    """Read a version of competition.yaml once per process: thousands of folds share it."""
    return load_competition(project.experiments, quick=project.quick)


def _client_image(overlay: Overlay, labels: Mapping[int, str]) -> Any:
    import wandb

    masks = {"ground_truth": overlay.truth, "prediction": overlay.prediction}
    given = {
        name: {"mask_data": mask, "class_labels": dict(labels)} for name, mask in masks.items() if mask is not None
    }
    return wandb.Image(overlay.image, caption=overlay.caption, masks=given)
