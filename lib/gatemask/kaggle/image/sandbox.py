"""Run kernels in an environment that has only the packages of Kaggle's image, and no network."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from gatemask import quiet
from gatemask.console import console, say
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder
from gatemask.kaggle.image import wheels
from gatemask.shipped import SOURCE, runs_from_source
from gatemask.storage import full_disk

# The relevant packages of Kaggle's TPU image (2026-05).
ON_TPU = [
    "tensorflow",
    "keras",
    "jax",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "h5py",
    "opencv-python-headless",
    "pydantic",
    "PyYAML",
    "six",  # through TensorFlow, which may be missing here
    "pip",
]
# Relevant packages of Kaggle's CPU/GPU image (2026-05). Their requirements are included too.
ON_KAGGLE = [
    "tensorflow",
    "keras",
    "jax",
    "numpy",
    "pandas",
    "scikit-learn",
    "scikit-image",
    "scipy",
    "h5py",
    "opencv-python-headless",
    "pillow",
    "matplotlib",
    "pydicom",
    "optuna",
    "wandb",
    "pydantic",  # through wandb, which may be missing here
    "pip",
    "PyYAML",
    "six",  # through TensorFlow, which may be missing here
    "tqdm",
]

LAUNCHER = Path(__file__).with_name("launcher.py")
PROBE_LIMIT_S = 30
# Levels of isolation in the launcher, strictest first; docs/explanation/hidden_rerun.md states what each guarantees.
LEVELS = {
    "view": "no network, no other files of this machine, no privileges (namespaces of its own)",
    "network": "no network and no privileges (a separate network namespace)",
}
VERSIONS = ".venv-kaggle"  # environment with the package versions of requirements-kaggle.txt
# Messages of failed network access, from the hook below and from network libraries.
NETWORK_MESSAGES = (
    r"the rehearsal has no network|Network is unreachable|[Nn]ame resolution|Name or service not known"
    r"|Max retries exceeded|Failed to establish a new connection"
)

REFUSE_SOCKETS = '''"""Refuse any attempt to look up or reach an address."""
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise PermissionError(f"the rehearsal has no network: {event} {arguments!r}")

sys.addaudithook(refuse)
'''


def isolation() -> tuple[list[str], str]:
    """Return how a kernel is isolated here: a command prefix for this process, and a description.

    The first level that works is used: not every system lets its users enter namespaces. An empty prefix means that
    there are none.
    """
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER)]
    for level, description in LEVELS.items():
        prefix = [*launcher, level, str(os.getpid())]
        try:
            done = subprocess.run([*prefix, sys.executable, "-c", "pass"], capture_output=True, timeout=PROBE_LIMIT_S)
        except (OSError, subprocess.TimeoutExpired):
            break
        if done.returncode == 0:
            return prefix, description
    return [], "no network (sockets refused inside Python)"


def make_image(
    folder: Path, refuse_sockets: bool, packages: list[str] = ON_KAGGLE, python: Path | None = None
) -> tuple[Path, list[str]]:
    """Make a virtual environment that shows only Kaggle's packages, by links into another environment.

    Args:
        folder: Folder of the environment; emptied first.
        refuse_sockets: Whether to install a hook that refuses connections, for systems without namespaces.
        packages: Packages of the image, to which their requirements are added.
        python: Python of the environment that holds the packages. Default: the present one.

    Returns:
        Python of the new environment, and the names of the installed packages that it hides.

    Raises:
        GatemaskError: The environment could not be created.
    """
    fresh_folder(folder)
    command = [str(python or sys.executable), "-m", "venv", "--without-pip", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise GatemaskError(
            "The virtual environment could not be created.", where=folder, received=done.stderr.strip()[-300:]
        )
    site = next(folder.glob("lib/python*/site-packages"))
    installed = _installed(python)
    shown = _closure(packages, installed) - {_normalized(name) for name in ["gatemask", *wheels.missing_on_kaggle()]}
    for name in shown:
        _link(installed[name], site)
    if refuse_sockets:
        # Through a .pth file: a system's own sitecustomize would take precedence over ours.
        (site / "_no_network.py").write_text(REFUSE_SOCKETS)
        (site / "_no_network.pth").write_text("import _no_network\n")
    return folder / "bin" / "python", sorted(set(installed) - shown)


def packages_note(packages: list[str] = ON_KAGGLE) -> str:
    """Return which packages a kernel finds in the sandbox of this process's packages, for a message.

    Args:
        packages: Packages of the image.
    """
    note = "only the packages of Kaggle's image"
    if packages is ON_KAGGLE and quiet.default_backend() == "jax":
        note += ", without TensorFlow: it is not installed here, so the kernel runs on JAX, and on Kaggle on TensorFlow"
    return note


def python_of_image_versions() -> Path | None:
    """Return the Python of an environment with the package versions of Kaggle's image; None if they do not install.

    The environment is created if it does not exist, which takes minutes and a network.
    """
    if not runs_from_source():
        say("Only gatemask's source tree lists the package versions of Kaggle's image; those installed here are used.")
        return None
    python = SOURCE / VERSIONS / "bin" / "python"
    with console().status("Creating an environment with the package versions of Kaggle's image"):
        done = subprocess.run(
            ["make", "-C", str(SOURCE), f"{VERSIONS}/ready"], capture_output=True, text=True, check=False
        )
    if done.returncode == 0:
        return python
    reason = (done.stderr.strip().splitlines() or ["?"])[-1]
    say(f"The package versions of Kaggle's image cannot be installed here: {reason}")
    return None


def _installed(python: Path | None) -> dict[str, metadata.Distribution]:
    """Return the packages of an environment by normalized name; the first of a name counts, as in imports."""
    path = sys.path if python is None else [str(p) for p in python.parents[1].glob("lib/python*/site-packages")]
    distributions: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions(path=path):
        distributions.setdefault(_normalized(distribution.metadata["Name"]), distribution)
    return distributions


def run(command: list[str], kaggle: Path, folder: Path, limit_s: float, **variables: str) -> int | None:
    """Run a kernel's script with a bare environment, without keys, tokens or PYTHONPATH of this machine.

    It ends with this process, even if that is killed.

    Args:
        command: Prefix of `isolation`, Python of the sandbox, and the script.
        kaggle: Stand-in for /kaggle; the script runs in its working/.
        folder: Folder for log.txt, and for a home and temporary folder that is removed at the end.
        limit_s: Time limit, in seconds; the kernel is killed then, as on Kaggle.
        variables: Further environment variables, as Kaggle sets them for this kind of run.

    Returns:
        Exit code; None if the kernel was killed at the time limit.
    """
    temporary = fresh_folder(folder / "tmp")
    environment = {
        "PATH": os.defpath,
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "GATEMASK_KAGGLE": str(kaggle),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        **variables,
    }
    with (folder / "log.txt").open("w") as log, console().status("Running the kernel"):
        if LAUNCHER.name not in [Path(part).name for part in command[:4]]:
            command = [sys.executable, "-I", "-S", str(LAUNCHER), "plain", str(os.getpid()), *command]
        process = subprocess.Popen(
            command,
            cwd=kaggle / "working",
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # its child processes are killed with it
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            shutil.rmtree(temporary, ignore_errors=True)


def require_success(code: int | None, log: Path, retry: str) -> None:
    """Raise, with the last lines of the log, unless the kernel ended with exit code 0.

    Args:
        code: Exit code; None after the time limit.
        log: Log of the kernel.
        retry: What to do after fixing the cause, such as "rehearse again".

    Raises:
        GatemaskError: The kernel failed.
    """
    if code == 0:
        return
    if code is None:
        raise GatemaskError(
            "The kernel ran past the time limit.", where=log, do=f"Read the log, fix the cause, and {retry}."
        )
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-4:]
    raise kernel_failure(log, " | ".join(last) or f"exit {code}", retry)


def kernel_failure(log: Path, received: str, retry: str) -> GatemaskError:
    """Return the error for a failed kernel; a full disk and network access are reported before anything else.

    Args:
        log: Log of the kernel.
        received: What went wrong, as far as known.
        retry: What to do after fixing the cause, such as "rehearse again".
    """
    text = log.read_text(errors="replace")
    if (fault := full_disk(log, text)) is not None:  # of this machine, not of Kaggle
        return fault
    network_access = re.search(rf"^.*({NETWORK_MESSAGES}).*$", text, re.MULTILINE)
    if network_access:
        return GatemaskError(
            "The kernel tried to use the network, which is not available in the hidden rerun.",
            where=log,
            received=network_access[0].strip()[:300],
            expected="all that it needs in the attached datasets",
            do=f"Ship what it tries to download, and {retry}.",
        )
    return GatemaskError(
        "The kernel failed in the rehearsal.",
        where=log,
        received=received,
        do=f"It would have failed on Kaggle too. Read the log, fix the cause, and {retry}.",
    )


def _closure(names: list[str], installed: Mapping[str, metadata.Distribution]) -> set[str]:
    """Return the installed packages among `names`, with all of their requirements."""
    closure: set[str] = set()
    waiting = [_normalized(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in closure or name not in installed:
            continue
        closure.add(name)
        for requirement in installed[name].requires or []:
            if "extra ==" not in requirement:
                waiting.append(_normalized(re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0]))
    return closure


def _link(distribution: metadata.Distribution, site: Path) -> None:
    """Link a package's top-level files and folders."""
    tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        original = Path(str(distribution.locate_file(top)))
        link = site / top
        if original.exists() and not link.exists():
            link.symlink_to(original)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def remove(folder: Path) -> None:
    """Delete a sandbox: its links, not what they point to."""
    shutil.rmtree(folder, ignore_errors=True)
