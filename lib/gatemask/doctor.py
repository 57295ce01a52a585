"""`gatemask doctor`: check this machine and the Kaggle account before a stage or a push fails.

Each check reports one line: ok, warn or wrong. No check changes, installs or downloads anything.
"""

from __future__ import annotations

import netrc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from gatemask.console import console, plain
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.kaggle.client import api, cli
from gatemask.kaggle.image import wheels
from gatemask.project import Project
from gatemask.results.doctor import DoctorResult, Finding
from gatemask.secrets.known import kaggle_credential_files
from gatemask.shipped import SOURCE, runs_from_source

PYTHON, TOO_NEW = (3, 11), (3, 14)  # TensorFlow has no release for later ones
OLDEST = (2, 2, 3)  # earlier kaggle commands print no JSON for `quota`
NEWEST = (2, 2)  # later ones are untested
LIMIT_S = 20.0  # time limit for the first request to Kaggle
GB = 1e9
TIGHT, LOW = 10 * GB, 2 * GB  # free disk space; training writes a few GB
COLORS = {"ok": "green", "warn": "yellow", "wrong": "bold red"}


@dataclass(frozen=True)
class KaggleAccount:
    """Kaggle's answers about the account, requested once for several checks.

    Args:
        credentials: Whether there are any credentials.
        name: Name of the account, if available.
        quota: Hours by accelerator; None if Kaggle did not answer.
        error: Why Kaggle did not answer.
    """

    credentials: bool
    name: str | None = None
    quota: dict[str, api.Quota] | None = None
    error: cli.KaggleError | None = None


Check = Callable[[], Finding]


def run_checks(root: Path) -> DoctorResult:
    """Run all checks.

    Args:
        root: Folder of the project.
    """
    with console().status("checking"):
        account = ask_kaggle()
        checks: list[Check] = [
            check_python,
            partial(check_packages, SOURCE / "requirements.txt") if runs_from_source() else check_requirements,
            check_kaggle_command,
            check_shipped_wheels,
            partial(check_credentials, account),
            partial(check_account_name, account),
            partial(check_quota, account),
            partial(check_owners, root, account),
            partial(check_disk, [root / "runs", root / "data", Path(tempfile.gettempdir())]),
            partial(check_git, root),
            check_wandb,
        ]
        findings = [run_check(check) for check in checks]
    count = Counter(finding.state for finding in findings)
    return DoctorResult(findings=findings, wrong=count["wrong"], warn=count["warn"])


def print_findings(result: DoctorResult) -> None:
    """Print one line per check, followed by what to do."""
    from rich.text import Text

    for finding in result.findings:
        state = (f"{finding.state:<6}", COLORS[finding.state])
        console().print(Text.assemble(state, plain(f"{finding.name:<13}{finding.found}")))
        if finding.do:
            console().print(Text.assemble(" " * 19, plain(finding.do, "dim")))


def run_check(check: Check) -> Finding:
    """Run a check. If it fails, the failure is a finding, and the other checks continue."""
    try:
        return check()
    except (GatemaskError, OSError, subprocess.SubprocessError) as error:
        name = getattr(check, "func", check).__name__.removeprefix("check_").replace("_", " ")
        if not isinstance(error, GatemaskError):
            return Finding(name, "wrong", f"check failed: {error}", "Fix this and run the command again.")
        text = f"check failed: {error.short()} ({error.details['where']})"
        return Finding(name, "wrong", text, str(error.details["do"] or "Fix this and run the command again."))


# --- this machine -----------------------------------------------------------------------------------------------


def check_python() -> Finding:
    version, oldest = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, PYTHON))
    if not PYTHON <= sys.version_info[:2] < TOO_NEW:
        do = f"Install Python {oldest} to {TOO_NEW[0]}.{TOO_NEW[1] - 1}, then: make setup PYTHON=python{oldest}"
        return Finding("Python", "wrong", version, do)
    return Finding("Python", "ok", version)


def check_packages(file: Path) -> Finding:
    """Compare the pins of a requirements file with the installed packages, without importing them."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    installed = {name: _version(name) for name, _ in pins}
    unneeded = _unneeded_packages()
    missing = [f"{name} {pin}" for name, pin in pins if installed[name] is None and name not in unneeded]
    others = [f"{name} {installed[name]}, not {pin}" for name, pin in pins if installed[name] not in (None, pin)]
    if unneeded:
        others.append("without TensorFlow, networks run on JAX")
    if missing:
        text = f"{len(missing)} of {len(pins)} missing: {', '.join(missing)}"
        return Finding("packages", "wrong", "; ".join([text, *others]), "make setup")
    if others:
        return Finding("packages", "warn", "; ".join(others), "make setup, unless you chose these packages.")
    return Finding("packages", "ok", f"all {len(pins)} match {file.name}")


def check_requirements() -> Finding:
    """Compare gatemask's requirements with the installed packages, without importing them."""
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in metadata.requires("gatemask") or []]
    unneeded = _unneeded_packages()
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    needed = [one for one in needed if one.name not in unneeded]
    wrong = []
    for one in needed:
        version = _version(one.name)
        if version is None or not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} {version or 'missing'}, not {one.specifier}")
    if wrong:
        return Finding("packages", "wrong", "; ".join(wrong), "pip install --upgrade gatemask")
    return Finding("packages", "ok", f"all {len(needed)} requirements are met")


def _unneeded_packages() -> tuple[str, ...]:
    """Return packages that may be missing: where only JAX is installed, networks run on it without TensorFlow."""
    return ("tensorflow", "tf_keras") if _version("tensorflow") is None and _version("jax") else ()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_kaggle_command() -> Finding:
    version = _version("kaggle")
    if version is None:
        return Finding("kaggle", "wrong", "the kaggle command is not installed", "make setup, or pip install kaggle")
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if number < OLDEST:
        do = "make setup, or pip install --upgrade kaggle"
        return Finding("kaggle", "wrong", f"{version}, whose output is not supported (2.2.4 and 2.2.5 are)", do)
    if number[:2] > NEWEST:
        do = "If a push fails unexpectedly: make setup, which installs a tested version."
        return Finding("kaggle", "warn", f"{version}, newer than the tested versions (2.2.4, 2.2.5)", do)
    return Finding("kaggle", "ok", version)


def check_shipped_wheels() -> Finding:
    """Verify the wheels that are shipped with the submission kernel."""
    pins = dict(re.findall(r"^(\S+)==\S+ --hash=sha256:([0-9a-f]{64})", wheels.LIST.read_text(), flags=re.MULTILINE))
    hashes = {sha256(path) for path in wheels.CACHE.glob("*.whl")}
    if not hashes and not runs_from_source():
        return Finding("wheels", "ok", "gatemask package downloads them")
    if lost := sorted(name for name, pin in pins.items() if pin not in hashes):
        do = f"With a network connection: rm -f {wheels.CACHE.parent / 'ready'}; make setup"
        return Finding("wheels", "wrong", f"missing or damaged in {wheels.CACHE}: {', '.join(lost)}", do)
    return Finding("wheels", "ok", f"all {len(pins)} are present")


def check_disk(folders: Sequence[Path]) -> Finding:
    """Measure free space on the disks of these folders, which may not exist yet."""
    disks: dict[int, tuple[Path, list[str]]] = {}
    for folder in folders:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        disks.setdefault(place.stat().st_dev, (place, []))[1].append(str(folder))
    free = [(shutil.disk_usage(place).free, names) for place, names in disks.values()]
    text = "; ".join(f"{space / GB:.1f} GB free for {', '.join(names)}" for space, names in free)
    smallest = min(space for space, _ in free)
    if smallest < TIGHT:
        do = "Delete old runs or other programs' caches, or set TMPDIR to another disk."
        return Finding("disk", "wrong" if smallest < LOW else "warn", text, do)
    return Finding("disk", "ok", text)


def check_git(root: Path) -> Finding:
    """Check that a push would find a commit that describes its code."""
    from gatemask.kaggle.client import account

    try:
        commit = account.clean_commit(Project(root, ""), allow_dirty=False)
    except GatemaskError as error:
        return Finding("git", "warn", error.short(), str(error.details["do"]))
    return Finding("git", "ok", f"commit {str(commit)[:7]}, no uncommitted changes in what a push uploads")


def check_wandb() -> Finding:
    """Look for a W&B key, which is optional: without one, runs are kept locally."""
    if os.environ.get("WANDB_API_KEY"):
        return Finding("W&B", "ok", "a key in WANDB_API_KEY")
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    netrc_file = os.environ.get("NETRC")
    for file in [Path(netrc_file).expanduser()] if netrc_file else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if host in netrc.netrc(file).hosts:
                return Finding("W&B", "ok", f"a key for {host} in {file}")
        except (OSError, netrc.NetrcParseError):
            continue
    return Finding("W&B", "ok", "no key (optional): runs are kept locally")


# --- the account ------------------------------------------------------------------------------------------------


def ask_kaggle() -> KaggleAccount:
    """Request the account name and quota."""
    if not cli.has_credentials():
        return KaggleAccount(credentials=False)
    try:
        # First a request with a short limit and a single attempt: the calls below wait and retry for a long time.
        cli.kaggle("quota", "--format", "json", about="the account", retry_on=frozenset(), limit_s=LIMIT_S)
        return KaggleAccount(True, api.user(), api.quota())
    except cli.KaggleError as error:
        return KaggleAccount(True, error=error)


def check_credentials(account: KaggleAccount) -> Finding:
    if not account.credentials:
        return Finding("credentials", "wrong", "none for Kaggle", cli.MEANING["login"][1])
    if account.error is not None and account.error.kind == "login":
        return Finding("credentials", "wrong", "rejected by Kaggle: wrong or expired", cli.MEANING["login"][1])
    if exposed := [str(file) for file in kaggle_credential_files() if file.exists() and file.stat().st_mode & 0o044]:
        return Finding(
            "credentials", "warn", f"readable by other users: {', '.join(exposed)}", f"chmod 600 {' '.join(exposed)}"
        )
    if account.error is not None:
        return Finding("credentials", "ok", "present, but not verified: Kaggle did not answer")
    return Finding("credentials", "ok", "accepted")


def check_account_name(account: KaggleAccount) -> Finding:
    if account.name is None:
        return Finding("account", "warn", "unknown", _advice(account))
    return Finding("account", "ok", account.name)


def check_quota(account: KaggleAccount) -> Finding:
    """Report the accelerator hours left this week."""
    if account.error is not None and account.error.kind != "login":
        received = account.error.details["received"]
        text = f"{account.error.what} {received}" if account.error.kind == "other" else account.error.what
        return Finding("quota", "warn", text, _advice(account))
    if account.quota is None:
        return Finding("quota", "warn", "unknown", _advice(account))
    if not account.quota:
        return Finding("quota", "warn", "none reported by Kaggle", "See https://www.kaggle.com/settings.")
    left = {name: max(0.0, hours.total_h - hours.used_h) for name, hours in account.quota.items()}
    text = ", ".join(f"{name} {left[name]:.1f} of {hours.total_h:.0f} h" for name, hours in account.quota.items())
    if spent := [name for name in left if left[name] == 0]:
        refresh = account.quota[spent[0]].refresh or "the beginning of Kaggle's next week"
        other = "Wait" if len(spent) == len(left) else "Use another machine (kaggle.accelerator), or wait"
        return Finding("quota", "warn", text, f"No {' and '.join(spent)} hours are left: {other} until {refresh}.")
    return Finding("quota", "ok", f"{text} left")


def check_owners(root: Path, account: KaggleAccount) -> Finding:
    """Compare each competition's kaggle.owner with the account in use."""
    from gatemask.config import load_competition

    folders = [file.parent for file in sorted((root / "experiments").glob("*/competition.yaml"))]
    owner_of = {folder.name: load_competition(folder).kaggle.owner for folder in folders}
    owner_of = {name: owner for name, owner in owner_of.items() if owner}
    listed = ", ".join(f"{name}: {owner}" for name, owner in owner_of.items())
    if not owner_of:
        return Finding("owners", "ok", "no competition names another account (kaggle.owner)")
    if account.name is None:
        return Finding("owners", "warn", f"not compared ({listed})", _advice(account))
    if others := [name for name, owner in owner_of.items() if str(owner).lower() != account.name.lower()]:
        files = ", ".join(f"experiments/{name}/competition.yaml" for name in others)
        do = f"Use the credentials of that account, or set kaggle.owner to {account.name} (or remove it) in {files}."
        return Finding("owners", "wrong", f"{listed}; but the account is {account.name}", do)
    return Finding("owners", "ok", listed)


def _advice(account: KaggleAccount) -> str:
    """Return what to do if Kaggle gave no answer."""
    if not account.credentials or (account.error is not None and account.error.kind == "login"):
        return "Add credentials first."
    if account.error is not None:
        return str(account.error.details["do"])
    return "See kaggle config view."
