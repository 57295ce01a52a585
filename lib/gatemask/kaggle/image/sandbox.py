"""An environment that has what Kaggle's image has and nothing else, and no way to the network."""

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

from gatemask.console import console, say
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder
from gatemask.kaggle.image import wheels

# What Kaggle's TPU image has (2026-05), of all that matters here: not much.
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
    "pip",
]
# Named in the list of Kaggle's CPU/GPU image (2026-05), or needed by one that is; what these require comes along.
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
    "pip",
    "PyYAML",
    "tqdm",
]

VERSIONS = ".venv-kaggle"  # of requirements-kaggle.txt
# What is printed when something reaches for the network, by the hook below and by what there is without one.
NETWORK = (
    r"the rehearsal has no network|Network is unreachable|[Nn]ame resolution|Name or service not known"
    r"|Max retries exceeded|Failed to establish a new connection"
)

REFUSE_SOCKETS = '''"""No network: any attempt to look up or reach an address ends here."""
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise PermissionError(f"the rehearsal has no network: {event} {arguments!r}")

sys.addaudithook(refuse)
'''


def isolation() -> tuple[list[str], str]:
    """How to cut off the network: a command prefix, and its name for people."""
    for prefix in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        try:
            if subprocess.run([*prefix, "true"], capture_output=True, timeout=10).returncode == 0:
                return prefix, "no network (a network namespace of its own)"
        except (OSError, subprocess.TimeoutExpired):
            break
    return [], "no network (sockets refused inside Python)"


def make_image(
    folder: Path, refuse_sockets: bool, packages: list[str] = ON_KAGGLE, python: Path | None = None
) -> tuple[Path, list[str]]:
    """A virtual environment that shows only Kaggle's packages, by links into another one.

    Args:
        folder: where to make it; emptied first.
        refuse_sockets: also install a hook that refuses connections, for systems without namespaces.
        packages: that the image has; what they require comes along.
        python: of the environment that holds them; the present one where there is none.

    Returns:
        its Python, and the names of the installed packages that it hides.
    """
    fresh_folder(folder)
    command = [str(python or sys.executable), "-m", "venv", "--without-pip", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise GatemaskError(
            "A virtual environment could not be made.", where=folder, received=done.stderr.strip()[-300:]
        )
    site = next(folder.glob("lib/python*/site-packages"))
    installed = _installed(python)
    shown = _closure(packages, installed) - {_plain(name) for name in ["gatemask", *wheels.missing_on_kaggle()]}
    for name in shown:
        _link(installed[name], site)
    if refuse_sockets:
        # By way of a .pth file: some systems have a sitecustomize of their own, which would come first.
        (site / "_no_network.py").write_text(REFUSE_SOCKETS)
        (site / "_no_network.pth").write_text("import _no_network\n")
    return folder / "bin" / "python", sorted(set(installed) - shown)


def kaggles_python() -> Path | None:
    """The Python of an environment with the versions of Kaggle's image, made where it is not there yet.

    It takes minutes and a network, once. None where these versions cannot be installed on this machine.
    """
    python = wheels.SOURCE / VERSIONS / "bin" / "python"
    with console().status("an environment with the versions of Kaggle's image"):
        done = subprocess.run(
            ["make", "-C", str(wheels.SOURCE), f"{VERSIONS}/ready"], capture_output=True, text=True, check=False
        )
    if done.returncode == 0:
        return python
    say(f"The versions of Kaggle's image cannot be installed here: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return None


def _installed(python: Path | None) -> dict[str, metadata.Distribution]:
    """The packages of an environment by plain name; the first of a name counts, as for an import."""
    path = sys.path if python is None else [str(p) for p in python.parents[1].glob("lib/python*/site-packages")]
    found: dict[str, metadata.Distribution] = {}
    for one in metadata.distributions(path=path):
        found.setdefault(_plain(one.metadata["Name"]), one)
    return found


def run(command: list[str], kaggle: Path, folder: Path, limit_s: float, **more: str) -> int | None:
    """Run a kernel's script with a bare environment: no key, no token, no PYTHONPATH of this machine reaches it.

    Args:
        command: the sandbox's Python and the script.
        kaggle: what stands in for /kaggle; working/ is where the script runs.
        folder: for log.txt, and a home and temporary folder that are removed in the end.
        limit_s: after which it is killed, as Kaggle would.
        more: environment variables that Kaggle sets for this kind of run.

    Returns:
        Its exit code; None where it was killed for its time.
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
        **more,
    }
    with (folder / "log.txt").open("w") as log, console().status("the kernel runs"):
        process = subprocess.Popen(
            command,
            cwd=kaggle / "working",
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # what it starts ends with it
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


def require_success(code: int | None, log: Path, do: str) -> None:
    """Raise, with the log's last lines, where a kernel ended in another way than with 0."""
    if code == 0:
        return
    if code is None:
        raise GatemaskError("The kernel ran past the time limit.", where=log, do=f"Look at the log, mend, {do}.")
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-4:]
    raise failure(log, " | ".join(last) or f"exit {code}", do)


def failure(log: Path, received: str, do: str) -> GatemaskError:
    """The error for a kernel that failed; one that reached for the network is told so first."""
    found = re.search(rf"^.*({NETWORK}).*$", log.read_text(errors="replace"), re.MULTILINE)
    if found:
        return GatemaskError(
            "The kernel asked for the network, and in the hidden rerun there is none.",
            where=log,
            received=found[0].strip()[:300],
            expected="everything that it needs in the attached datasets",
            do=f"Ship what it wants to fetch, {do}.",
        )
    return GatemaskError(
        "The kernel failed in the rehearsal.",
        where=log,
        received=received,
        do=f"It would have failed on Kaggle too. Read the log, mend, {do}.",
    )


def _closure(names: list[str], installed: Mapping[str, metadata.Distribution]) -> set[str]:
    """The installed packages among `names`, with all that they require."""
    found: set[str] = set()
    waiting = [_plain(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found or name not in installed:
            continue
        found.add(name)
        for requirement in installed[name].requires or []:
            if "extra ==" not in requirement:
                waiting.append(_plain(re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0]))
    return found


def _link(distribution: metadata.Distribution, site: Path) -> None:
    """Links to a package's top-level files and folders."""
    tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        original = Path(str(distribution.locate_file(top)))
        link = site / top
        if original.exists() and not link.exists():
            link.symlink_to(original)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def remove(folder: Path) -> None:
    """Delete a sandbox; links go, what they point to stays."""
    shutil.rmtree(folder, ignore_errors=True)
