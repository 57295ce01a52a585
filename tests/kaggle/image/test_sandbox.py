"""Tests of the rehearsal's environment: only Kaggle's packages, and no network."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatemask.kaggle.image import sandbox, wheels

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    return sandbox.make_image(tmp_path_factory.mktemp("image") / "env", refuse_sockets=True)


def run(python: Path, code: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*prefix, str(python), "-c", code], capture_output=True, text=True, cwd="/", env={})


def test_gatemask_and_the_shipped_wheels_are_hidden(image: tuple[Path, list[str]]) -> None:
    python, hidden = image
    names = {name.lower() for name in wheels.missing_on_kaggle()}
    assert len(names) == 4
    assert names | {"gatemask", "kaggle", "pytest"} <= set(hidden)
    for module in ("gatemask", "segmentation_models", "efficientnet", "classification_models", "keras_applications"):
        done = run(python, f"import {module}")
        assert "ModuleNotFoundError" in done.stderr, module


def test_kaggles_packages_can_be_imported(image: tuple[Path, list[str]]) -> None:
    done = run(image[0], "import numpy, pandas, cv2, pydicom, h5py, yaml, pydantic, pip; print(numpy.ones(2).sum())")
    assert done.stdout.strip() == "2.0", done.stderr


CONNECT = "import socket; socket.create_connection(('127.0.0.1', 9), timeout=2)"


def test_sockets_are_refused(image: tuple[Path, list[str]]) -> None:
    assert "the rehearsal has no network" in run(image[0], CONNECT).stderr
    assert "the rehearsal has no network" in run(image[0], "import socket; socket.getaddrinfo('kaggle.com', 80)").stderr


# --- namespaces ----------------------------------------------------------------------------------------------


def prefix(level: str) -> list[str]:
    """Return the prefix of a level of isolation; skip the test where the system does not allow it."""
    command = [sys.executable, "-I", "-S", str(sandbox.LAUNCHER), level, str(os.getpid())]
    if subprocess.run([*command, sys.executable, "-c", "pass"], capture_output=True).returncode:
        pytest.skip(f"namespaces are not allowed here: {level}")
    return command


def test_the_strictest_level_is_used() -> None:
    command, name = sandbox.isolation()
    if not command:
        pytest.skip("namespaces are not allowed here")
    assert "namespace" in name
    assert command[4] in sandbox.LEVELS
    if command[4] != "view":
        assert subprocess.run([*prefix("view"), sys.executable, "-c", "pass"]).returncode != 0


@pytest.mark.parametrize("level", sandbox.LEVELS)
def test_a_network_namespace_has_no_network(image: tuple[Path, list[str]], level: str, tmp_path: Path) -> None:
    python, _ = sandbox.make_image(tmp_path / "env", refuse_sockets=False, packages=["numpy"])
    assert "Network is unreachable" in run(python, CONNECT, *prefix(level)).stderr


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """Return a folder in place of /kaggle, with a mount that is a link and holds a link, as in rehearsals."""
    (tmp_path / "kaggle/working").mkdir(parents=True)
    (tmp_path / "kaggle/input").mkdir()
    (tmp_path / "dist/set").mkdir(parents=True)
    (tmp_path / "records").mkdir()
    (tmp_path / "records/a.tfrec").write_text("records")
    (tmp_path / "records/private.txt").write_text("private")
    (tmp_path / "dist/set/a.tfrec").symlink_to(tmp_path / "records/a.tfrec")
    (tmp_path / "kaggle/input/set").symlink_to(tmp_path / "dist/set")
    return tmp_path / "kaggle"


LOOK = """
import json, os, pathlib
def attempt(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__ + " " + os.strerror(error.errno)
    return "possible"
kaggle = pathlib.Path(os.environ["GATEMASK_KAGGLE"])
root, home = kaggle.parent, pathlib.Path(os.environ["REAL_HOME"])
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines())
found = {
    "records": (kaggle / "input/set/a.tfrec").read_text(),
    "project": sorted(path.name for path in root.iterdir()),
    "neighbor": attempt((root / "records/private.txt").read_text),
    "home": attempt((home / "of-the-user.txt").read_text),
    "etc": attempt(pathlib.Path("/etc/shadow").read_bytes),
    "processes": sorted(name for name in os.listdir("/proc") if name.isdigit()),
    "capabilities": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": status["NoNewPrivs"],
    "user": os.getuid(),
    "input": attempt((kaggle / "input/new").touch),
    "system": attempt(pathlib.Path("/usr/new").touch),
    "settings": attempt(lambda: open("/proc/sys/kernel/core_pattern", "a")),
    "leave": attempt(lambda: os.chroot("/")),
    "folder": os.getcwd(),
}
(kaggle / "working/found.json").write_text(json.dumps(found))
(pathlib.Path(os.environ["TMPDIR"]) / "x").touch()
(pathlib.Path("/tmp") / "x").touch()
"""


def test_a_kernel_sees_only_what_it_needs(
    image: tuple[Path, list[str]], kaggle: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "of-the-user.txt").write_text("private")
    script = kaggle.parent / "script.py"
    script.write_text(LOOK)
    command = [*prefix("view"), str(image[0]), str(script)]
    code = sandbox.run(command, kaggle, kaggle.parent, 60, REAL_HOME=str(home))
    assert code == 0, (kaggle.parent / "log.txt").read_text()
    found = json.loads((kaggle / "working/found.json").read_text())
    assert found.pop("records") == "records", "links in mounts can be followed"
    assert set(found.pop("project")) == {"dist", "kaggle", "records", "script.py", "tmp"}
    hidden = "FileNotFoundError No such file or directory"
    assert [found.pop(name) for name in ("neighbor", "home", "etc")] == [hidden] * 3
    assert found.pop("processes") == ["1", "2"]
    assert found.pop("capabilities") == [0] * 5
    assert found.pop("no_new_privileges") == "1"
    assert found.pop("user") == os.getuid()
    read_only = "OSError Read-only file system"
    assert [found.pop(name) for name in ("input", "system", "settings")] == [read_only] * 3
    assert found.pop("leave").startswith("PermissionError")
    assert found.pop("folder") == str(kaggle / "working")
    assert found == {}
    assert not (kaggle.parent / "tmp").exists(), "removed at the end"


def test_folders_that_are_reached_through_links(kaggle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Such as a home folder on another disk, or an environment that is a link."""
    link = tmp_path_factory.mktemp("link") / "project"
    link.symlink_to(kaggle.parent)
    (link / "kaggle/input/again").symlink_to(link / "records/a.tfrec")
    (link / "packages").mkdir()
    (link / "packages/module.py").write_text("VALUE = 7")
    python = link / "environment/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(link / "environment")], check=True)
    site = next(link.glob("environment/lib/python*/site-packages"))
    (site / "module.py").symlink_to(link / "packages/module.py")
    code = "import module, pathlib, os; pathlib.Path('here').touch(); print(module.VALUE)"
    code += "; print((pathlib.Path(os.environ['GATEMASK_KAGGLE']) / 'input/again').read_text())"
    assert sandbox.run([*prefix("view"), str(python), "-c", code], link / "kaggle", link, 60) == 0
    assert (link / "log.txt").read_text().split() == ["7", "records"]
    assert (link / "kaggle/working/here").exists()


@pytest.mark.parametrize("level", [*sandbox.LEVELS, "plain"])
@pytest.mark.parametrize(("end", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137), ("1 / 0", 1)])
def test_exit_codes_arrive(level: str, end: str, code: int) -> None:
    done = subprocess.run(
        [*prefix(level), sys.executable, "-S", "-c", f"import os, sys; {end}"], stderr=subprocess.PIPE
    )
    assert done.returncode == code


REHEARSAL = """
import sys
from pathlib import Path
from gatemask.kaggle.image import sandbox
prefix = [sys.executable, "-I", "-S", str(sandbox.LAUNCHER), sys.argv[1], str(sandbox.os.getpid())]
folder = Path(sys.argv[2])
sandbox.run([*(prefix if sys.argv[1] != "none" else []), sys.executable, "-S", "-c", sys.argv[3]], folder, folder, 600)
"""
KERNEL = """
import fcntl, os, pathlib, time
working = pathlib.Path(os.environ["GATEMASK_KAGGLE"], "working")
os.fork()  # a kernel with a process of its own
lock = open(working / f"{os.getpid()}.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
(working / f"{os.getpid()}.locked").touch()
while True:
    time.sleep(10)
"""


@pytest.mark.parametrize("level", [*sandbox.LEVELS, "none"])
def test_a_killed_rehearsal_takes_its_kernel_along(level: str, kaggle: Path) -> None:
    if level != "none":
        prefix(level)
    rehearsal = subprocess.Popen([sys.executable, "-c", REHEARSAL, level, str(kaggle), KERNEL])
    while len(list(kaggle.glob("working/*.locked"))) < 2:
        assert rehearsal.poll() is None
        time.sleep(0.05)
    rehearsal.kill()
    rehearsal.wait()
    for path in kaggle.glob("working/*.lock"):
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # granted when the kernel's process has ended
