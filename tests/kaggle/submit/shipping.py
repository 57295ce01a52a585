"""Quick packages: the files of `gatemask package` and `gatemask rehearse`, with a kernel of a few lines.

The kernel finds its dataset, and writes empty masks and a report. Variables of the fake Kaggle make it misbehave:
DEGRADED (an entry of its report), CRASH (its last words before it exits with 3), WRONG (what is wrong with its files:
account, ids, none).
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatemask.config import Competition, load_competition, load_ensemble
from gatemask.errors import GatemaskError
from gatemask.files import read_json, sha256, write_json, write_text
from gatemask.kaggle.submit import leaderboard, package, submission_records, submit
from gatemask.kaggle.submit.outdated import present_settings
from gatemask.project import Project
from gatemask.results.ensemble import CompetitionFacts, ShippedEnsemble, ShippedMember
from gatemask.results.submission import LeaderboardResult, SubmissionRecord
from gatemask.stage import Stage, StageResult
from tests.conftest import ROOT
from tests.kaggle.cloud import OWNER, Cloud, Version

COMPETITION = "phantom-chest-x-rays"
DATASET = f"{OWNER}/gatemask-phantom-quick"
KERNEL = f"{DATASET}-inference"
IDS = ["a", "b", "c"]
SAMPLE = "ImageId,EncodedPixels\n" + "".join(f"{name},-1\n" for name in IDS)

SCRIPT = '''"""A fake kernel."""
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
    """Return a project without a package: its settings, and a sample submission."""
    shutil.copytree(ROOT / "experiments" / "phantom", root / "experiments" / "phantom")
    project = Project(root, "phantom", quick=True)
    raw = project.data / "raw"
    raw.mkdir(parents=True)
    (raw / "sample_submission.csv").write_text(SAMPLE)
    write_text(project.folds, "image_id,fold,group,stratum\np,0,p,0\nq,1,q,0\n")
    return project


def ship(project: Project, local: float = 0.8, rehearsed: bool = True) -> str:
    """Write ensemble, package and rehearsal, and return the package's fingerprint."""
    comp = load_competition(project.experiments, quick=True)
    shipped = make_ensemble(comp, local)
    ensemble = shipped.save(project.runs / "ensemble" / "ensemble.yaml")
    dataset, kernel = project.dist / "dataset", project.dist / "kernel"
    for folder in (dataset, kernel):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    shutil.copyfile(ensemble, dataset / "ensemble.yaml")
    for member in shipped.members:
        (dataset / f"{member.name}.weights.h5").write_text(f"weights of {member.name}, {local}")
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(dataset.iterdir()))
    (dataset / "SHA256SUMS").write_text(sums)
    slug = package.dataset_slug(project)
    write_json(dataset / "dataset-metadata.json", {"id": f"{package.UNKNOWN_OWNER}/{slug}", "title": slug})
    (kernel / "inference.py").write_text(SCRIPT)
    write_json(kernel / "kernel-metadata.json", metadata(slug))
    stamp = project.dist / "package.json"
    files = [path for folder in (dataset, kernel) for path in folder.iterdir()]
    yamls = present_settings(project, comp, load_ensemble(project.experiments, quick=True), ensemble)
    write_stamp(stamp, {"ensemble": sha256(ensemble), "yamls": yamls}, files)
    if rehearsed:
        stamp_rehearsal(project)
    return package.require_package(project, comp)


def write_stamp(stamp: Path, made_from: dict[str, object], files: list[Path]) -> None:
    """Write a stamp of these files, without a result."""
    Stage("test", stamp, made_from, StageResult).finish(StageResult(), files, time.monotonic())


def make_ensemble(comp: Competition, local: float) -> ShippedEnsemble:
    """Return an ensemble of one gate and two mask networks."""

    def member(task: str, experiment: str, fold: int) -> ShippedMember:
        model = {"name": "gate" if task == "gate" else "unet", "encoder": "efficientnetb0"}
        run = {"name": f"{experiment}-fold{fold}", "experiment": experiment, "fold": fold, "task": task}
        return ShippedMember.model_validate({**run, "size": 64, "records": 64, "model": model})

    return ShippedEnsemble.model_validate(
        {
            "competition": CompetitionFacts.of(comp),
            "score": {"cross_fitted": local, "in_sample": local + 0.01, "all_empty": 0.5},
            "rule": {"gate": 0.5, "upper": 0.5, "lower": 0.5, "min_area": 1},
            "gate": [member("gate", "gate_r18", 0)],
            "mask": [member("mask", "unet_b0", fold) for fold in (0, 1)],
        }
    )


def stamp_rehearsal(project: Project) -> None:
    """Write the stamp of a rehearsal of the present package."""
    made_from: dict[str, object] = {
        "package": package.require_package(project, load_competition(project.experiments, quick=True))
    }
    write_stamp(project.runs / "rehearsal" / "result.json", made_from, [])


def metadata(slug: str) -> dict[str, Any]:
    name = f"{slug}-inference"
    return {
        "id": f"{package.UNKNOWN_OWNER}/{name}",
        "title": name.replace("-", " "),
        "code_file": "inference.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "dataset_sources": [f"{package.UNKNOWN_OWNER}/{slug}"],
        "competition_sources": [COMPETITION],
    }


@dataclass
class Desk:
    """A project, a fake Kaggle, and the commands, run in this process with short pauses."""

    cloud: Cloud
    project: Project

    def competition(self, *sets: str) -> Competition:
        return load_competition(self.project.experiments, quick=True, overrides=list(sets))

    def submit(self, *sets: str, as_trained: bool = False, **opts: Any) -> dict[str, Any]:
        """Return the JSON of `gatemask submit`."""
        options = submit.SubmitOptions(**{"allow_dirty": True, "poll_s": 0.02, **opts})
        ensemble = load_ensemble(self.project.experiments, quick=True)
        ensemble = ensemble.model_copy(update={"as_trained": as_trained})
        return submit.submit_package(self.project, self.competition(*sets), ensemble, options).as_dict()

    def leaderboard(self) -> LeaderboardResult:
        return leaderboard.compare_with_leaderboard(self.project, self.competition())

    def records(self) -> list[SubmissionRecord]:
        return submission_records.load_records(self.project)

    @property
    def record(self) -> SubmissionRecord:
        (only,) = self.records()
        return only

    def stored(self) -> dict[str, Any]:
        """Return the content of the only record."""
        (path,) = submission_records.submissions_folder(self.project).glob("*.json")
        content: dict[str, Any] = read_json(path)
        return content

    def versions(self) -> list[Version]:
        return self.cloud.kernels.get(KERNEL, [])

    def descriptions(self) -> list[str]:
        """Return the descriptions of all submissions, in order."""
        return [entry.request["submissionDescription"] for entry in self.cloud.entries.get(COMPETITION, [])]

    def finishes(self, versions: int = 1, submitted: int = 1) -> dict[str, Any]:
        """Run the command again: it completes the submission, and does nothing twice."""
        result = self.submit()
        assert result["state"] == "scored", result
        assert len(self.versions()) == versions
        assert len(self.descriptions()) == submitted
        assert self.submit()["current"]
        assert len(self.versions()) == versions
        assert len(self.descriptions()) == submitted
        return result


def real_submission(cloud: Cloud, project: Project) -> dict[str, Any]:
    """Submit a real package, made and rehearsed by the commands, with its own kernel; return the JSON."""
    comp = load_competition(project.experiments, quick=True)
    raw = project.data / "raw"
    assert comp.test is not None
    assert comp.submission.sample is not None
    wanted = [raw / comp.submission.sample, *raw.glob(comp.test.images)]
    assert comp.kaggle.competition is not None
    cloud.competitions[comp.kaggle.competition] = {p.relative_to(raw).as_posix(): p for p in wanted}
    options = submit.SubmitOptions(allow_dirty=True, poll_s=0.2)
    try:
        ensemble = load_ensemble(project.experiments, quick=True)
        return submit.submit_package(project, comp, ensemble, options).as_dict()
    except GatemaskError as error:
        logs = "\n".join(
            p.read_text(errors="replace")[-3000:] for p in submission_records.submissions_folder(project).glob("*.log")
        )
        raise AssertionError(f"{error}\n{logs}") from error
