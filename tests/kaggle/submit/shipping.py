"""A package in a moment: the files of `gatemask package` and `gatemask rehearse`, with a kernel of a few lines.

The kernel finds its dataset, and writes empty masks and an account of itself. What it is told to do wrong comes by
variables of the stand-in for Kaggle: DEGRADED (a sentence), CRASH (what it says before it ends with 3), WRONG (what is
wrong with its files: account, ids, none).
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatemask.config import Competition, load_competition
from gatemask.ensemble.select import facts
from gatemask.errors import GatemaskError
from gatemask.files import read_json, sha256, write_json, write_stamp, write_yaml
from gatemask.kaggle.submit import leaderboard, package, submission_records, submit
from gatemask.kaggle.submit.submission_records import Record
from gatemask.project import Project
from tests.conftest import ROOT
from tests.kaggle.cloud import OWNER, Cloud, Version

COMPETITION = "phantom-chest-x-rays"
DATASET = f"{OWNER}/gatemask-phantom-quick"
KERNEL = f"{DATASET}-inference"
IDS = ["a", "b", "c"]
SAMPLE = "ImageId,EncodedPixels\n" + "".join(f"{name},-1\n" for name in IDS)

SCRIPT = '''"""A stand-in for the kernel."""
from __future__ import annotations

import hashlib, json, os, pathlib, sys

kaggle = pathlib.Path(os.environ["GATEMASK_KAGGLE"])
print("here is a kernel")
if "CRASH" in os.environ:
    print(os.environ["CRASH"])
    sys.exit(3)
wrong = os.environ.get("WRONG")
(sums,) = kaggle.glob("input/**/SHA256SUMS")
(sample,) = kaggle.glob("input/**/sample_submission.csv")
text = sample.read_text() if wrong != "ids" else "ImageId,EncodedPixels\\na,-1\\n"
salt = (sums.parent / "ensemble.yaml").read_bytes()
working = kaggle / "working"
(working / "submission.csv").write_text(text)
account = {
    "images": text.count("\\n") - 1,
    "seconds": 1.5,
    "package": hashlib.sha256(sums.read_bytes()).hexdigest(),
    "submission": hashlib.sha256(text.encode()).hexdigest(),
    "members": {"unet_b0-fold0": {"images": 3, "seconds_per_image": 0.4}},
    "degraded": [os.environ["DEGRADED"]] if "DEGRADED" in os.environ else [],
}
if wrong == "account":
    account["submission"] = "0" * 64
if wrong != "none":
    (working / "inference.json").write_text(json.dumps(account))
'''


def prepare(root: Path) -> Project:
    """A project without a package: its settings, and the sample submission."""
    shutil.copytree(ROOT / "experiments" / "phantom", root / "experiments" / "phantom")
    project = Project(root, "phantom", quick=True)
    raw = project.data / "raw"
    raw.mkdir(parents=True)
    (raw / "sample_submission.csv").write_text(SAMPLE)
    return project


def ship(project: Project, local: float = 0.8, rehearsed: bool = True) -> str:
    """Write ensemble, package and rehearsal, and return the package's name."""
    members = [{"name": f"unet_b0-fold{fold}", "experiment": "unet_b0", "fold": fold} for fold in (0, 1)]
    gate = [{"name": "gate_b0-fold0", "experiment": "gate_b0", "fold": 0}]
    score = {"cross_fitted": local, "in_sample": local + 0.01, "all_empty": 0.5}
    comp = load_competition(project.experiments, quick=True)
    chosen = {"competition": facts(comp), "score": score, "gate": gate, "mask": members}
    ensemble = write_yaml(project.runs / "ensemble" / "ensemble.yaml", chosen)
    dataset, kernel = project.dist / "dataset", project.dist / "kernel"
    for folder in (dataset, kernel):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    shutil.copyfile(ensemble, dataset / "ensemble.yaml")
    for member in [*gate, *members]:
        (dataset / f"{member['name']}.weights.h5").write_text(f"weights of {member['name']}, {local}")
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(dataset.iterdir()))
    (dataset / "SHA256SUMS").write_text(sums)
    slug = package.slug(project)
    write_json(dataset / "dataset-metadata.json", {"id": f"{package.UNKNOWN}/{slug}", "title": slug})
    (kernel / "inference.py").write_text(SCRIPT)
    write_json(kernel / "kernel-metadata.json", metadata(slug))
    stamp = project.dist / "package.json"
    files = [path for folder in (dataset, kernel) for path in folder.iterdir()]
    write_stamp(stamp, {"ensemble": sha256(ensemble)}, {}, files, time.monotonic())
    if rehearsed:
        rehearse(project)
    return package.require_current(project, comp)


def rehearse(project: Project) -> None:
    made_from = {"package": package.require_current(project, load_competition(project.experiments, quick=True))}
    write_stamp(project.runs / "rehearsal" / "result.json", made_from, {}, [], time.monotonic())


def metadata(slug: str) -> dict[str, Any]:
    name = f"{slug}-inference"
    return {
        "id": f"{package.UNKNOWN}/{name}",
        "title": name.replace("-", " "),
        "code_file": "inference.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "dataset_sources": [f"{package.UNKNOWN}/{slug}"],
        "competition_sources": [COMPETITION],
    }


@dataclass
class Desk:
    """A project, Kaggle, and the commands, called in this process with few polls."""

    cloud: Cloud
    project: Project

    def competition(self, *sets: str) -> Competition:
        return load_competition(self.project.experiments, quick=True, overrides=list(sets))

    def submit(self, *sets: str, **opts: Any) -> dict[str, Any]:
        options = submit.Options(**{"allow_dirty": True, "poll_s": 0.02, **opts})
        return submit.submit(self.project, self.competition(*sets), options)

    def leaderboard(self) -> dict[str, Any]:
        return leaderboard.leaderboard(self.project, self.competition())

    def records(self) -> list[Record]:
        return submission_records.load(self.project)

    @property
    def record(self) -> Record:
        (only,) = self.records()
        return only

    def stored(self) -> dict[str, Any]:
        """What stands in the one file."""
        (path,) = submission_records.folder(self.project).glob("*.json")
        found: dict[str, Any] = read_json(path)
        return found

    def versions(self) -> list[Version]:
        return self.cloud.kernels.get(KERNEL, [])

    def descriptions(self) -> list[str]:
        """Of what was submitted, in order."""
        return [entry.request["submissionDescription"] for entry in self.cloud.entries.get(COMPETITION, [])]

    def ends_well(self, versions: int = 1, submitted: int = 1) -> dict[str, Any]:
        """The same command again: all gets done, and nothing twice."""
        result = self.submit()
        assert result["state"] == "scored", result
        assert len(self.versions()) == versions
        assert len(self.descriptions()) == submitted
        assert self.submit()["current"]
        assert len(self.versions()) == versions
        assert len(self.descriptions()) == submitted
        return result


def real_submission(cloud: Cloud, project: Project) -> dict[str, Any]:
    """Submit a project's real package, made by `gatemask package` and rehearsed: end to end, with its own kernel."""
    comp = load_competition(project.experiments, quick=True)
    raw = project.data / "raw"
    assert comp.test is not None
    assert comp.submission.sample is not None
    wanted = [raw / comp.submission.sample, *raw.glob(comp.test.images)]
    assert comp.kaggle.competition is not None
    cloud.competitions[comp.kaggle.competition] = {p.relative_to(raw).as_posix(): p for p in wanted}
    options = submit.Options(allow_dirty=True, poll_s=0.2)
    try:
        return submit.submit(project, comp, options)
    except GatemaskError as error:
        logs = "\n".join(
            p.read_text(errors="replace")[-3000:] for p in submission_records.folder(project).glob("*.log")
        )
        raise AssertionError(f"{error}\n{logs}") from error
