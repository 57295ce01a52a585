"""A training session inside a Kaggle kernel: find the inputs, train the folds, leave a hashed output.

    <kaggle>/input/**/gatemask-<kind>.json       marks a dataset that gatemask made, however Kaggle mounts it
    <kaggle>/input/**/gatemask-output.json       marks the output of an earlier session, to go on from
    <kaggle>/working/runs/<experiment>/fold<k>/  as `gatemask train` writes it
    <kaggle>/working/gatemask-output.json        whose output this is, how far each fold came, every file's hash

Runs on what Kaggle's images have. The image of the TPU machines lacks most of what the laptop has.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, read_json, sha256, write_json
from gatemask.kaggle.image.machines import MACHINES, Machine
from gatemask.project import Project

OUTPUT = "gatemask-output.json"
DEPTH = 6  # markers lie less than so many folders below input/; mounts have been seen at one to three
PIP_S = 600
LEAST_MARGIN_H = 0.1  # between the end of the work and the end of the session, for W&B, hashes and Kaggle
SETTLE_S = 5.0  # in which W&B's own process ends, once the one that it serves is gone
WANDB = "wandb==0.31.0"  # of requirements.txt, for the image that has none: one that can be told to give up


def main(project: Path, kaggle: Path, started: float) -> int:
    """Run the session that `project`/session.json describes, in a process of its own.

    Whatever ends that process (no memory, an abort in the accelerator's library), this one is left to account for what
    it wrote. It forks before anything heavy is imported: only one process may hold a TPU.

    Args:
        project: the unpacked payload.
        kaggle: /kaggle, or what stands in for it.
        started: `time.monotonic()` when the kernel began.

    Returns:
        The kernel's exit code: 0 where it leaves something to keep or to go on from, since Kaggle may not mount what a
        failed kernel wrote. What went wrong stands in the account.
    """
    session = read_json(project / "session.json")
    output = Output(kaggle / "working", session, started)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        return work(project, kaggle, started)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        output.died(f"The training's process was ended by signal {-code}; 9 mostly means that memory ran out.")
    elif code and not output.told():
        output.died(f"The training's process ended with exit code {code}, and without a word.")
    else:
        return code
    return output.code


def work(project: Path, kaggle: Path, started: float) -> int:
    """The session itself, in this process; arguments and result are those of `main`."""
    session = read_json(project / "session.json")
    output = Output(kaggle / "working", session, started)
    say(f"push {session['push']} of {session['ref']}, commit {session['commit'] or 'unknown'}")
    try:
        try:
            require_machine(MACHINES[session["machine"]])
            inputs = find_inputs(kaggle / "input", session["datasets"])
            install(inputs.get("wheels"))
            root = lay_out(project, kaggle, session, inputs)
            go_on(kaggle / "input", root, session)
        except GatemaskError as error:  # Kaggle's doing: another time may do better
            output.lost(str(error))
            return output.code
        _train(root, session, started, output)
    except GatemaskError as error:
        output.failed(str(error))
    except Exception as error:  # of any package, on a machine that nobody can look into: the log has to tell all
        traceback.print_exc()
        output.failed(f"{type(error).__name__}: {error}")
    end_tracking()
    output.tidy()
    output.write(all_folds=True)
    return output.code


class Output:
    """The account of a session, written again after each fold: what is in it can be trusted.

    A session that is killed leaves the account of the folds that it finished; what it wrote since is not in it.

    Args:
        working: the folder that Kaggle keeps.
        session: of session.json.
        started: `time.monotonic()` when the kernel began.
    """

    def __init__(self, working: Path, session: dict[str, Any], started: float) -> None:
        self._working, self._session, self._started = working, session, started
        self._folds: dict[str, dict[str, Any]] = {}
        self._errors: list[str] = []
        self._lost = False
        self._begun = True

    @property
    def code(self) -> int:
        return int(bool(self._errors) and not (self._begun and any(self._files(all_folds=True))))

    def told(self) -> bool:
        """Whether the account, as it stands on disk, says what went wrong."""
        path = self._working / OUTPUT
        return path.exists() and read_json(path)["error"] is not None

    def fold(self, fold: int, **what: Any) -> None:
        self._folds[str(fold)] = what
        self.write()

    def lost(self, error: str) -> None:
        """The session could not even begin. What it was to go on from stays in the output that it should have found."""
        self._lost, self._begun = True, False
        self.failed(error)
        self.write()

    def died(self, error: str) -> None:
        """Account for a process that could not do it itself: for the folds that it finished, and the states it left."""
        if (path := self._working / OUTPUT).exists():
            self._folds = read_json(path)["folds"]
        self._errors = [f"fold {fold}: {one['error']}" for fold, one in self._folds.items() if "error" in one]
        self._lost = True  # of what outside of the training ends it, the next session may see nothing
        self.failed(error)
        if any(self._working.glob("runs/**/*.wandb")):  # files that grow have no hash
            time.sleep(SETTLE_S)
        self.tidy()
        self.write(all_folds=True)

    def failed(self, error: str, fold: int | None = None) -> None:
        text = error if fold is None else f"fold {fold}: {error}"
        print(f"error: {text}", file=sys.stderr, flush=True)
        self._errors.append(text)
        if fold is not None:
            self.fold(fold, error=error)

    def write(self, all_folds: bool = False) -> None:
        left = [k for k in self._session["folds"] if not self._folds.get(str(k), {}).get("done")]
        write_json(
            self._working / OUTPUT,
            {
                **{key: self._session[key] for key in ("push", "ref", "experiment", "commit")},
                "state": "lost" if self._lost else "failed" if self._errors else "stopped" if left else "finished",
                "folds": self._folds,
                "error": "\n".join(self._errors) or None,
                "seconds": round(time.monotonic() - self._started, 1),
                "files": {p.relative_to(self._working).as_posix(): sha256(p) for p in self._files(all_folds)},
            },
        )

    def tidy(self) -> None:
        """Remove what is not worth fetching, so that Kaggle neither keeps nor lists it; links go too."""
        for path in sorted((self._working / "runs").rglob("*"), reverse=True):
            if path.is_symlink() or (path.is_file() and not _kept(path, self._working)):
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _files(self, all_folds: bool) -> Iterator[Path]:
        for run in sorted((self._working / "runs" / self._session["experiment"]).glob("fold*")):
            if all_folds or run.name.removeprefix("fold") in self._folds:
                yield from (p for p in sorted(run.rglob("*")) if _kept(p, run))


def _kept(path: Path, below: Path) -> bool:
    """Whether a file is worth fetching: of W&B's own, the rows and pictures are, its caches and logs are not."""
    if not path.is_file() or path.is_symlink() or path.name.startswith(".tmp-"):
        return False
    parts = path.relative_to(below).parts
    return "wandb" not in parts or path.suffix == ".wandb" or "files" in parts


def require_machine(wanted: Machine) -> None:
    """End at once on a machine that was not asked for: Kaggle gives those in silence, and the hours run.

    Raises:
        GatemaskError: another kind of machine, or fewer devices.
    """
    from gatemask.training.runtime import KINDS, look

    found, count = look(), None
    if found == wanted.kind == "tpu":
        import jax  # type: ignore[import-not-found,import-untyped,unused-ignore]

        try:
            devices = jax.devices()
        except RuntimeError as error:  # a TPU that does not come up, or that another process holds
            raise GatemaskError("The TPU does not start.", received=str(error).splitlines()[0]) from None
        found, count = devices[0].platform, len(devices)
    if found != wanted.kind or (count is not None and count < wanted.devices):
        raise GatemaskError(
            "Kaggle gave this kernel another machine than was asked for.",
            received=KINDS.get(found, found) + ("" if count is None else f" of {count} devices"),
            expected=f"{KINDS[wanted.kind]} of {wanted.devices} devices ({wanted.name})",
            do="Push it again; if it stays so, look whether the account may use this accelerator (a verified phone, "
            "hours left), and at kaggle.accelerator in competition.yaml.",
        )
    say(f"machine: {KINDS[found]}, as asked for")


def find_inputs(mounts: Path, wanted: dict[str, str]) -> dict[str, Path]:
    """The folder of each kind of dataset, every file of it verified.

    Args:
        mounts: /kaggle/input.
        wanted: the digest of each kind, as it was when the kernel was pushed.

    Raises:
        GatemaskError: a dataset is not attached, is of another version, or a file of it is missing or damaged.
    """
    found: dict[str, Path] = {}
    others: list[str] = []
    for kind, digest in wanted.items():
        for marker in markers(mounts, f"gatemask-{kind}.json"):
            try:
                described = read_json(marker)
            except GatemaskError:
                others.append(f"{marker} is damaged")
                continue
            if described["digest"] == digest:
                found[kind] = marker.parent
            else:
                others.append(f"{kind} of another version in {marker.parent}")
    if lacking := [kind for kind in wanted if kind not in found]:
        raise GatemaskError(
            "A dataset that this kernel was pushed with is not attached, or Kaggle mounted another version of it.",
            where=mounts,
            received="; ".join(others) or "no dataset of gatemask's",
            expected=", ".join(f"{kind} with digest {wanted[kind]}" for kind in lacking),
            do="Push again: gatemask waits until the datasets' new versions are current. If it stays so, delete the "
            "dataset on Kaggle: it is uploaded anew.",
        )
    for kind, folder in found.items():
        do = "Delete the dataset on Kaggle and push again: it is uploaded anew."
        _verify(folder, read_json(folder / f"gatemask-{kind}.json")["files"], do)
    return found


def markers(mounts: Path, name: str) -> list[Path]:
    """Files of this name anywhere near the top of the mounts, whose depth differs from source to source."""
    return sorted(path for depth in range(1, DEPTH) for path in mounts.glob("/".join(["*"] * depth) + f"/{name}"))


def _verify(folder: Path, files: dict[str, str], do: str) -> None:
    wrong = [name for name in files if not (folder / name).is_file()]
    wrong = [f"{name} is missing" for name in wrong] + [
        f"{name} is damaged" for name, digest in files.items() if name not in wrong and sha256(folder / name) != digest
    ]
    if wrong:
        raise GatemaskError(
            "What is attached to this kernel is not whole.",
            where=folder,
            received=f"{len(wrong)} of {len(files)} files: " + "; ".join(wrong[:5]),
            do=do,
        )


def install(wheels: Path | None) -> None:
    """What the image lacks, and nothing that it has; from the dataset, without a network."""
    if wheels is None:
        return
    modules = read_json(wheels / "gatemask-wheels.json")["modules"]
    lacking = [name for name, module in modules.items() if importlib.util.find_spec(module) is None]
    if lacking:
        packages = Path(os.environ.get("TMPDIR", "/tmp")) / "gatemask-packages"
        error = _pip("--no-index", "--find-links", str(wheels), "--no-deps", "--target", str(packages), *lacking)
        if error:
            raise GatemaskError("pip could not install what the image lacks.", where=wheels, received=error)
        sys.path.insert(0, str(packages))
        say(f"installed: {', '.join(lacking)}")


def _pip(*arguments: str) -> str | None:
    """Install; returns what went wrong."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*pip, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PIP_S
        )
    except subprocess.TimeoutExpired:
        return f"no end after {PIP_S} s"
    importlib.invalidate_caches()
    return done.stderr.strip()[-300:] or f"exit {done.returncode}" if done.returncode else None


def lay_out(project: Path, kaggle: Path, session: dict[str, Any], inputs: dict[str, Path]) -> Path:
    """Make the payload's folder a project: data from the mounts, the run where Kaggle keeps what is written."""
    there = Project(project, session["comp"], session["quick"])
    data, records = there.data, inputs["records"]
    data.mkdir(parents=True)
    for name in ("manifest.csv", "masks.csv"):
        (data / name).symlink_to(records / name)
    write_json(data / "manifest.json", {"made_from": {}})  # the laptop's names folders that are not here
    there.records(read_json(records / "gatemask-records.json")["size"]).symlink_to(records)
    working = kaggle / "working" / "runs" / session["experiment"]
    working.mkdir(parents=True, exist_ok=True)
    there.runs.mkdir(parents=True)
    (there.runs / session["experiment"]).symlink_to(working)
    if "weights" in inputs:
        for name, target in read_json(inputs["weights"] / "gatemask-weights.json")["places"].items():
            place = project / target
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(inputs["weights"] / name)
    return project


def go_on(mounts: Path, root: Path, session: dict[str, Any]) -> None:
    """Bring in what earlier sessions left of the experiment's folds: of several, the state that is furthest.

    Folds that this session does not train come along too, since the next one gets this one's output alone.

    Raises:
        GatemaskError: Kaggle did not mount a state that the push counted on; hours would be spent on what was done.
    """
    project, experiment = Project(root, session["comp"], session["quick"]), session["experiment"]
    best: dict[int, str] = {}
    for marker in markers(mounts, OUTPUT):
        earlier = read_json(marker)
        if earlier["experiment"] != experiment:
            continue
        for fold, newest in states(earlier).items():
            if newest > best.get(fold, ""):
                prefix = f"runs/{experiment}/fold{fold}/"
                files = {name: digest for name, digest in earlier["files"].items() if name.startswith(prefix)}
                _verify(marker.parent, files, "Push again; if it stays so, push with --afresh, which begins anew.")
                best[fold] = newest
                _copy(marker.parent, files, prefix, project.fold(experiment, fold))
                say(f"fold {fold}: goes on from {newest}, in {marker.parent}")
    for fold, wanted in session["goes_on"].items():
        if best.get(int(fold), "") < wanted:
            raise GatemaskError(
                "Kaggle did not mount the output that this session should go on from.",
                where=mounts,
                received=f"fold {fold}: {best.get(int(fold), 'nothing')}",
                expected=wanted,
                do="Push again; if it stays so, push with --afresh, which begins anew.",
            )


def states(account: dict[str, Any]) -> dict[int, str]:
    """The newest state of each unfinished fold in an account, such as at-0003-00000; names sort by epoch and step."""
    found: dict[int, str] = {}
    for name in account["files"]:
        if match := re.fullmatch(rf"runs/{re.escape(account['experiment'])}/fold(\d+)/state/(at-[\d-]+)\.h5", name):
            found[int(match[1])] = max(found.get(int(match[1]), ""), match[2])
    return found


def _copy(source: Path, files: dict[str, str], prefix: str, target: Path) -> None:
    fresh_folder(target)
    for name in files:
        place = target / name.removeprefix(prefix)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, place)


def track(mode: str) -> None:
    """W&B online where the account's secret answers, else offline: `gatemask sync` brings that home.

    Args:
        mode: `tracking.wandb`; only 'disabled' is heeded, since a kernel cannot know beforehand what it can reach.

    A secret that is not attached raises, and each image's client in its own way: nothing of it may end the training.
    """
    if mode == "disabled":
        os.environ["WANDB_MODE"] = mode
        return
    try:
        from kaggle_secrets import UserSecretsClient

        key = UserSecretsClient().get_secret("WANDB_API_KEY")
    except BaseException as error:
        key = None
        say(f"W&B: no secret WANDB_API_KEY ({type(error).__name__}); offline")
    os.environ["WANDB_MODE"] = "online" if key else "offline"
    if key:
        os.environ["WANDB_API_KEY"] = key
    # With what it needs, and beside what is there: its version of another package must not take that one's place.
    if importlib.util.find_spec("wandb") is None and (trouble := _pip("--retries", "1", "--timeout", "20", WANDB)):
        say(f"W&B: not on this image, and not to be had ({trouble}); the run's own files hold all that it would show.")


def end_tracking() -> None:
    """Let W&B write what it holds; it does so in a process of its own, and files that grow have no hash."""
    if (wandb := sys.modules.get("wandb")) is not None:
        with contextlib.suppress(Exception):
            wandb.teardown()


def _train(root: Path, session: dict[str, Any], started: float, output: Output) -> None:
    """Fold by fold, so that what is done is accounted for before the next one begins."""
    from gatemask.config import load_competition, load_experiment
    from gatemask.training.time_budget import MARGIN, Clock
    from gatemask.training.train import train

    project = Project(root, session["comp"], session["quick"])
    comp = load_competition(project.experiments)
    exp = load_experiment(project.experiments / f"{session['experiment']}.yaml")
    track(exp.tracking.wandb)
    spent = (time.monotonic() - started) / 3600
    clock = Clock(session["hours"] - spent - max(0.0, LEAST_MARGIN_H - MARGIN * session["hours"]))
    stopped = False
    for fold in session["folds"]:
        if stopped:  # to begin another would only leave two unfinished ones
            output.fold(fold, done=False, left="not begun in this session")
            continue
        try:
            result = train(project, comp, exp, [fold], clock)
        except GatemaskError as error:  # of this fold's images or weights; the others may do
            output.failed(str(error), fold)
            continue
        left = result.get("left", {}).get(str(fold))
        stopped = left is not None
        output.fold(fold, done=not stopped, left=left)
