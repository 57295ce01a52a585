"""What this machine and this account lack, before a stage or a push finds it out.

Each check looks at one thing and tells it in one line: ok, warn (something works less well, or not yet) or wrong. None
of them changes, installs or downloads anything.
"""

from __future__ import annotations

import netrc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from gatemask.console import console
from gatemask.errors import GatemaskError
from gatemask.files import sha256
from gatemask.kaggle.client import api, cli
from gatemask.kaggle.image import wheels
from gatemask.project import Project

PYTHON = (3, 11)
OLDEST, NEWEST = (2, 2, 3), (2, 2)  # of the kaggle command: without JSON from `quota` before, and tried up to these
LIMIT_S = 20.0  # for Kaggle's first answer
GB = 1e9
TIGHT, LOW = 10 * GB, 2 * GB  # free space: a training writes a few GB
COLOURS = {"ok": "green", "warn": "yellow", "wrong": "bold red"}


@dataclass(frozen=True)
class Finding:
    """Of one check.

    Args:
        name: what was looked at.
        state: ok, warn or wrong; only the last makes the command fail.
        found: what is there.
        do: what to do, for all that is not ok.
    """

    name: str
    state: Literal["ok", "warn", "wrong"]
    found: str
    do: str | None = None


@dataclass(frozen=True)
class Account:
    """What Kaggle says of the account: asked once, for several checks.

    Args:
        credentials: whether there are any.
        name: of the account, where it is known.
        quota: hours by accelerator; None where Kaggle did not answer.
        error: why it did not.
    """

    credentials: bool
    name: str | None = None
    quota: dict[str, api.Quota] | None = None
    error: cli.KaggleError | None = None


Check = Callable[[], Finding]


def run(root: Path) -> dict[str, Any]:
    """Look at everything.

    Args:
        root: the project's folder.

    Returns:
        `findings`, one dictionary a check in their order, and how many are `wrong` and `warn`.
    """
    with console().status("looking around"):
        account = ask()
        checks: list[Check] = [
            python,
            partial(packages, wheels.SOURCE / "requirements.txt"),
            kaggle_command,
            shipped_wheels,
            partial(credentials, account),
            partial(account_name, account),
            partial(quota, account),
            partial(owners, root, account),
            partial(disk, [root / "runs", root / "data", Path(tempfile.gettempdir())]),
            partial(git, root),
            wandb,
        ]
        findings = [_tried(check) for check in checks]
    count = {state: sum(finding.state == state for finding in findings) for state in ("wrong", "warn")}
    return {"findings": [asdict(finding) for finding in findings], **count}


def show(found: dict[str, Any]) -> None:
    """One line a check, and below it what to do."""
    from rich.text import Text

    for finding in found["findings"]:
        state, do = finding["state"], finding["do"]
        console().print(Text.assemble((f"{state:<6}", COLOURS[state]), f"{finding['name']:<13}{finding['found']}"))
        if do:
            console().print(Text.assemble(" " * 19, (do, "dim")))


def _tried(check: Check) -> Finding:
    """A check that cannot be made is a finding too: the others go on."""
    try:
        return check()
    except (GatemaskError, OSError, subprocess.SubprocessError) as error:
        name = getattr(check, "func", check).__name__.replace("_", " ")
        if not isinstance(error, GatemaskError):
            return Finding(name, "wrong", f"cannot be checked: {error}", "Mend that, and look again.")
        found = f"cannot be checked: {error.short()} ({error.details['where']})"
        return Finding(name, "wrong", found, str(error.details["do"] or "Mend that, and look again."))


# --- this machine -----------------------------------------------------------------------------------------------


def python() -> Finding:
    have, least = sys.version_info[:3], ".".join(map(str, PYTHON))
    found = ".".join(map(str, have))
    if have < PYTHON:
        return Finding(
            "Python", "wrong", found, f"Install Python {least} or newer, then: make setup PYTHON=python{least}"
        )
    return Finding("Python", "ok", found)


def packages(file: Path) -> Finding:
    """Each pin of a requirements file against what is installed; nothing is imported."""
    if not file.exists():
        return Finding("packages", "warn", f"{file} is not there", "Run gatemask from its source tree: make setup.")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    installed = {name: _version(name) for name, _ in pins}
    missing = [f"{name} {pin}" for name, pin in pins if installed[name] is None]
    others = [f"{name} {installed[name]}, not {pin}" for name, pin in pins if installed[name] not in (None, pin)]
    if missing:
        found = f"{len(missing)} of {len(pins)} missing: {', '.join(missing)}"
        return Finding("packages", "wrong", "; ".join([found, *others]), "make setup")
    if others:
        return Finding("packages", "warn", "; ".join(others), "make setup, unless you chose them.")
    return Finding("packages", "ok", f"all {len(pins)} as in {file.name}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def kaggle_command() -> Finding:
    version = _version("kaggle")
    if version is None:
        return Finding("kaggle", "wrong", "the kaggle command is not installed", "make setup, or pip install kaggle")
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if number < OLDEST:
        do = "make setup, or pip install --upgrade kaggle"
        return Finding("kaggle", "wrong", f"{version}, whose answers cannot be read here (2.2.4 and 2.2.5 can)", do)
    if number[:2] > NEWEST:
        do = "If a push fails strangely: make setup, which installs one that was tried."
        return Finding("kaggle", "warn", f"{version}, newer than what was tried (2.2.4, 2.2.5)", do)
    return Finding("kaggle", "ok", version)


def shipped_wheels() -> Finding:
    """The wheels that are packed beside the kernel: there, and with the right hash."""
    pins = dict(re.findall(r"^(\S+)==\S+ --hash=sha256:([0-9a-f]{64})", wheels.LIST.read_text(), flags=re.MULTILINE))
    have = {sha256(path) for path in wheels.CACHE.glob("*.whl")}
    if lost := sorted(name for name, pin in pins.items() if pin not in have):
        do = f"While there is a network: rm -f {wheels.CACHE.parent / 'ready'}; make setup"
        return Finding("wheels", "wrong", f"missing or damaged in {wheels.CACHE}: {', '.join(lost)}", do)
    return Finding("wheels", "ok", f"all {len(pins)} that are shipped")


def disk(folders: Sequence[Path]) -> Finding:
    """Free space where these folders lie, or would."""
    disks: dict[int, tuple[Path, list[str]]] = {}
    for folder in folders:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        disks.setdefault(place.stat().st_dev, (place, []))[1].append(str(folder))
    free = [(shutil.disk_usage(place).free, names) for place, names in disks.values()]
    found = "; ".join(f"{space / GB:.1f} GB free for {', '.join(names)}" for space, names in free)
    least = min(space for space, _ in free)
    if least < TIGHT:
        do = "Make room (runs that you do not need, other programs' caches), or set TMPDIR to another disk."
        return Finding("disk", "wrong" if least < LOW else "warn", found, do)
    return Finding("disk", "ok", found)


def git(root: Path) -> Finding:
    """Whether a push would be refused since nobody could tell later what it trained."""
    from gatemask.kaggle.client import account

    try:
        commit = account.clean_commit(Project(root, ""), allow_dirty=False)
    except GatemaskError as error:
        return Finding("git", "warn", error.short(), str(error.details["do"]))
    return Finding("git", "ok", f"commit {str(commit)[:7]}, nothing changed since that a push would take along")


def wandb() -> Finding:
    """A note only: without a key, runs are kept locally."""
    if os.environ.get("WANDB_API_KEY"):
        return Finding("W&B", "ok", "a key in WANDB_API_KEY")
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    named = os.environ.get("NETRC")
    for file in [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if host in netrc.netrc(file).hosts:
                return Finding("W&B", "ok", f"a key for {host} in {file}")
        except (OSError, netrc.NetrcParseError):
            continue
    return Finding("W&B", "ok", "no key, and none is needed: runs are kept locally")


# --- the account ------------------------------------------------------------------------------------------------


def ask() -> Account:
    """Ask Kaggle who we are and what is left to us."""
    if not cli.has_credentials():
        return Account(credentials=False)
    try:
        # With a short limit and one try: the calls below wait and try again for long, and do so only behind this one.
        cli.kaggle("quota", "--format", "json", about="the account", retry_on=frozenset(), limit_s=LIMIT_S)
        return Account(True, api.user(), api.quota())
    except cli.KaggleError as error:
        return Account(True, error=error)


def credentials(account: Account) -> Finding:
    if not account.credentials:
        return Finding("credentials", "wrong", "none for Kaggle", cli.MEANING["login"][1])
    if account.error is not None and account.error.kind == "login":
        return Finding("credentials", "wrong", "Kaggle refuses them: wrong or expired", cli.MEANING["login"][1])
    if exposed := [str(file) for file in cli.credential_files() if file.exists() and file.stat().st_mode & 0o044]:
        return Finding("credentials", "warn", f"others may read {', '.join(exposed)}", f"chmod 600 {' '.join(exposed)}")
    if account.error is not None:
        return Finding("credentials", "ok", "there; not tried, since Kaggle did not answer")
    return Finding("credentials", "ok", "accepted")


def account_name(account: Account) -> Finding:
    if account.name is None:
        return Finding("account", "warn", "not known", _first(account))
    return Finding("account", "ok", account.name)


def quota(account: Account) -> Finding:
    """Hours that are left this week."""
    if account.error is not None and account.error.kind != "login":
        received = account.error.details["received"]
        found = f"{account.error.what} {received}" if account.error.kind == "other" else account.error.what
        return Finding("quota", "warn", found, _first(account))
    if account.quota is None:
        return Finding("quota", "warn", "not known", _first(account))
    if not account.quota:
        return Finding("quota", "warn", "Kaggle tells none", "Look at https://www.kaggle.com/settings.")
    left = {name: max(0.0, hours.total_h - hours.used_h) for name, hours in account.quota.items()}
    found = ", ".join(f"{name} {left[name]:.1f} of {hours.total_h:.0f} h" for name, hours in account.quota.items())
    if spent := [name for name in left if left[name] == 0]:
        refresh = account.quota[spent[0]].refresh or "the beginning of Kaggle's next week"
        other = "Wait" if len(spent) == len(left) else "Take another machine (kaggle.accelerator), or wait"
        return Finding("quota", "warn", found, f"No {' and '.join(spent)} hours are left: {other} until {refresh}.")
    return Finding("quota", "ok", f"{found} left")


def owners(root: Path, account: Account) -> Finding:
    """Each competition's kaggle.owner against the account that would push."""
    from gatemask.config import load_competition

    folders = [file.parent for file in sorted((root / "experiments").glob("*/competition.yaml"))]
    named = {folder.name: load_competition(folder).kaggle.owner for folder in folders}
    named = {name: owner for name, owner in named.items() if owner}
    listed = ", ".join(f"{name}: {owner}" for name, owner in named.items())
    if not named:
        return Finding("owners", "ok", "no competition names another account (kaggle.owner)")
    if account.name is None:
        return Finding("owners", "warn", f"not compared ({listed})", _first(account))
    if others := [name for name, owner in named.items() if str(owner).lower() != account.name.lower()]:
        files = ", ".join(f"experiments/{name}/competition.yaml" for name in others)
        do = f"Take the credentials of that account, or write kaggle.owner: {account.name} (or nothing) in {files}."
        return Finding("owners", "wrong", f"{listed}; but the account is {account.name}", do)
    return Finding("owners", "ok", listed)


def _first(account: Account) -> str:
    """What to do where Kaggle told nothing."""
    if not account.credentials or (account.error is not None and account.error.kind == "login"):
        return "Give credentials first."
    if account.error is not None:
        return str(account.error.details["do"])
    return "Look at kaggle config view."
