"""Each check of the doctor with both outcomes, and the command itself. Kaggle is a local stand-in, or unreachable."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gatemask import doctor
from gatemask.cli import main
from gatemask.doctor import KaggleAccount
from gatemask.errors import GatemaskError
from gatemask.kaggle.client import account as kaggle_account
from gatemask.kaggle.client import cli
from gatemask.kaggle.client.api import Quota
from gatemask.kaggle.client.cli import KaggleError
from gatemask.kaggle.image import wheels
from gatemask.results.doctor import Finding
from gatemask.shipped import SOURCE
from tests.conftest import environment, gatemask
from tests.kaggle.cloud import KEY, OWNER, Cloud, Fault, serve
from tests.kaggle.warm import starter

KAGGLE = ["KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"]
NO_CREDENTIALS = KaggleAccount(credentials=False)
ACCOUNT = KaggleAccount(True, OWNER, {"TPU": Quota(0, 20, ""), "GPU": Quota(0, 30, "")})


def failed(kind: str) -> KaggleAccount:
    return KaggleAccount(True, error=KaggleError("It did not work.", kind=kind, do="Try again."))


def state(finding: Finding, *words: str) -> str:
    """Check the words of a finding, and that it has advice unless it is ok. Return its state."""
    text = f"{finding.found} {finding.do}"
    for word in words:
        assert word in text
    assert (finding.do is None) == (finding.state == "ok")
    return finding.state


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder without credentials. All external connections go to a closed port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, closed)
    for name in [*KAGGLE, "NO_PROXY", "no_proxy", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def cloud(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """The stand-in for Kaggle, which the environment points to."""
    stand_in = Cloud(tmp_path / "cloud")
    with serve(stand_in):
        for name, value in stand_in.environment(home).items():
            monkeypatch.setenv(name, value)
        yield stand_in


@pytest.fixture
def warm_command(warm_kaggle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the kaggle command without the half second of its imports; the doctor's command starts it as usual."""
    monkeypatch.setattr(cli, "start", starter(warm_kaggle))


def write_key(folder: Path, mode: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "kaggle.json"
    path.write_text(json.dumps({"username": OWNER, "key": KEY}))
    path.chmod(mode)
    return path


# --- this machine -----------------------------------------------------------------------------------------------


def test_old_python_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(doctor.check_python(), sys.version.split()[0]) == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    assert state(doctor.check_python(), "3.10.4", "make setup PYTHON=python3.11") == "wrong"
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    assert state(doctor.check_python(), "3.14.0", "Python 3.11 to 3.13") == "wrong"


def test_installed_packages_are_compared_with_pins(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    pins = f"# comment\npytest=={metadata.version('pytest')}\nPyYAML=={metadata.version('PyYAML')}\n"
    file.write_text(pins)
    assert state(doctor.check_packages(file), "all 2") == "ok"
    file.write_text(f"{pins}numpy==0.1\n")
    assert state(doctor.check_packages(file), f"numpy {metadata.version('numpy')}, not 0.1") == "warn"
    file.write_text(f"{pins}numpy==0.1\nno-such-package==1.0\n")
    assert state(doctor.check_packages(file), "1 of 4 missing: no-such-package 1.0", "numpy", "make setup") == "wrong"


def test_installed_packages_are_compared_with_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(doctor.check_requirements(), "requirements are met") == "ok"
    requirements = ["numpy<1", "no-such-package>=2", "not-wanted>=1; extra == 'more'", "PyYAML>=5"]
    monkeypatch.setattr(metadata, "requires", lambda _: requirements)
    found = state(doctor.check_requirements(), f"numpy {metadata.version('numpy')}, not <1", "no-such-package missing")
    assert found == "wrong"


def test_tensorflow_is_needed_only_without_jax(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, installed = tmp_path / "requirements.txt", {"jax": "1.0"}
    file.write_text("jax==1.0\ntensorflow==2.0\ntf_keras==2.0\n")
    monkeypatch.setattr(doctor, "_version", installed.get)
    monkeypatch.setattr(metadata, "requires", lambda _: ["jax>=0.7", "tensorflow>=2.20"])
    assert state(doctor.check_packages(file), "without TensorFlow, networks run on JAX") == "warn"
    assert state(doctor.check_requirements(), "all 1 requirements are met") == "ok"
    installed |= {"tensorflow": "2.0", "tf_keras": "2.0"}
    assert state(doctor.check_packages(file), "all 3") == "ok"
    installed.clear()
    assert state(doctor.check_packages(file), "3 of 3 missing: jax 1.0, tensorflow 2.0, tf_keras 2.0") == "wrong"
    assert state(doctor.check_requirements(), "jax missing", "tensorflow missing") == "wrong"


def test_all_pins_of_the_project_are_parsed() -> None:
    lines = (SOURCE / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    finding = doctor.check_packages(SOURCE / "requirements.txt")
    assert finding.state != "ok" or f"all {len(pins)} " in finding.found
    assert len(pins) > 30


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.7.4.5", "wrong"),
        ("2.2.2", "wrong"),
        ("2.2.3", "ok"),
        ("2.2.4", "ok"),
        ("2.2.5", "ok"),
        ("2.10.0", "warn"),
        ("3.0", "warn"),
    ],
)
def test_versions_of_the_kaggle_command(monkeypatch: pytest.MonkeyPatch, version: str, expected: str) -> None:
    monkeypatch.setattr(metadata, "version", {"kaggle": version}.__getitem__)
    assert state(doctor.check_kaggle_command(), version) == expected


def test_missing_kaggle_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(doctor.check_kaggle_command(), metadata.version("kaggle")) == "ok"

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert state(doctor.check_kaggle_command(), "not installed", "make setup") == "wrong"


def test_missing_or_damaged_wheels_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = tmp_path / "wheels"
    copies.mkdir()
    for path in wheels.shipped():
        shutil.copy(path, copies)
    monkeypatch.setattr(wheels, "CACHE", copies)
    assert state(doctor.check_shipped_wheels(), "all 4") == "ok"
    damaged = next(copies.glob("efficientnet*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert state(doctor.check_shipped_wheels(), "efficientnet", "make setup") == "wrong"
    monkeypatch.setattr(wheels, "CACHE", tmp_path / "none")
    assert state(doctor.check_shipped_wheels(), "Keras-Applications, efficientnet, image-classifiers") == "wrong"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("free", "expected"), [(1.9, "wrong"), (2.1, "warn"), (9.9, "warn"), (10.1, "ok")])
def test_low_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, expected: str) -> None:
    measured: list[Path] = []

    def usage(path: Path) -> Any:
        measured.append(path)
        return SimpleNamespace(free=int(free * 1e9))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    folders = [tmp_path / "runs", tmp_path / "data" / "deep"]
    assert state(doctor.check_disk(folders), f"{free} GB free for {folders[0]}, {folders[1]}") == expected
    assert measured == [tmp_path]


def test_the_disk_with_least_space_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"/": 50e9, "/proc": 1e9}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[str(path)]))
    assert (
        state(doctor.check_disk([Path("/"), Path("/proc")]), "50.0 GB free for /;", "1.0 GB free for /proc") == "wrong"
    )


@pytest.fixture
def repository(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[..., None]]:
    """A folder that is both project and source tree, and a function that runs git in it."""
    root = tmp_path / "project"
    (root / "experiments" / "lungs").mkdir(parents=True)
    (root / "experiments" / "lungs" / "one.yaml").write_text("epochs: 1\n")
    monkeypatch.setattr(kaggle_account, "SOURCE", root)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))

    def git(*arguments: str) -> None:
        author = ["-c", "user.name=someone", "-c", "user.email=someone@localhost"]
        subprocess.run(["git", "-C", str(root), *author, *arguments], check=True, capture_output=True)

    return root, git


@pytest.mark.integration
def test_git_is_checked_like_a_push_does(repository: tuple[Path, Callable[..., None]]) -> None:
    root, git = repository
    assert state(doctor.check_git(root), "no commit", "git init") == "warn"
    git("init")
    assert state(doctor.check_git(root), "no commit") == "warn"
    git("add", ".")
    git("commit", "-m", "one")
    assert state(doctor.check_git(root), "commit ") == "ok"
    (root / "notes.txt").write_text("unrelated")
    assert state(doctor.check_git(root)) == "ok"
    new = root / "experiments" / "lungs" / "two.yaml"
    new.write_text("epochs: 2\n")
    assert state(doctor.check_git(root), "two.yaml", "Commit them") == "warn"
    new.unlink()
    (root / "experiments" / "lungs" / "one.yaml").write_text("epochs: 3\n")
    assert state(doctor.check_git(root), "one.yaml") == "warn"


@pytest.mark.integration
def test_missing_git_is_a_warning(
    repository: tuple[Path, Callable[..., None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state(doctor.check_git(repository[0])) == "warn"


def test_wandb_key_is_optional(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(doctor.check_wandb(), "no key") == "ok"
    netrc = home / ".netrc"
    netrc.write_text("machine example.org login me password not-to-be-shown\n")
    assert state(doctor.check_wandb(), "no key") == "ok"
    netrc.write_text("machine api.wandb.ai login user password not-to-be-shown\n")
    netrc.chmod(0o600)
    assert state(doctor.check_wandb(), str(netrc)) == "ok"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert state(doctor.check_wandb(), "no key") == "ok"
    netrc.write_text("not a netrc file")
    assert state(doctor.check_wandb(), "no key") == "ok"
    monkeypatch.setenv("WANDB_API_KEY", "not-to-be-shown")
    assert state(doctor.check_wandb(), "WANDB_API_KEY") == "ok"
    assert "not-to-be-shown" not in doctor.check_wandb().found


# --- the account ------------------------------------------------------------------------------------------------


def test_no_request_is_made_without_credentials(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KAGGLE:
        monkeypatch.delenv(name, raising=False)
    account = doctor.ask_kaggle()
    assert account == NO_CREDENTIALS
    assert not cloud.asked
    for way in ("kaggle.json", "KAGGLE_API_TOKEN", "KAGGLE_USERNAME and KAGGLE_KEY"):
        assert state(doctor.check_credentials(account), way) == "wrong"
    assert state(doctor.check_account_name(account), "credentials") == "warn"
    assert state(doctor.check_quota(account), "credentials") == "warn"


@pytest.mark.integration
@pytest.mark.usefixtures("warm_command")
def test_valid_account_is_reported_with_its_quota(cloud: Cloud) -> None:
    cloud.used["TPU"] = 7.5
    account = doctor.ask_kaggle()
    assert state(doctor.check_credentials(account), "accepted") == "ok"
    assert state(doctor.check_account_name(account), OWNER) == "ok"
    assert state(doctor.check_quota(account), "TPU 12.5 of 20 h", "GPU 30.0 of 30 h") == "ok"


@pytest.mark.integration
@pytest.mark.usefixtures("warm_command")
@pytest.mark.parametrize("way", ["file", "token"])
def test_all_kinds_of_credentials(cloud: Cloud, home: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    if way == "file":
        write_key(home / ".kaggle", 0o600)
    else:
        monkeypatch.setenv("KAGGLE_API_TOKEN", cloud.token)
    account = doctor.ask_kaggle()
    assert state(doctor.check_credentials(account)) == "ok"
    assert account.name == OWNER


@pytest.mark.integration
@pytest.mark.usefixtures("warm_command")
def test_rejected_credentials_are_wrong(cloud: Cloud) -> None:
    cloud.key_valid = False
    account = doctor.ask_kaggle()
    assert state(doctor.check_credentials(account), "rejected", "https://www.kaggle.com/settings") == "wrong"
    assert state(doctor.check_account_name(account), "credentials first") == "warn"
    assert state(doctor.check_quota(account), "credentials first") == "warn"


def test_key_readable_by_others_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_key(home / ".kaggle", 0o600)
    assert state(doctor.check_credentials(ACCOUNT)) == "ok"
    for mode in (0o640, 0o604):
        path.chmod(mode)
        assert state(doctor.check_credentials(ACCOUNT), f"chmod 600 {path}") == "warn"
    path.unlink()
    elsewhere = write_key(tmp_path / "named", 0o644)
    assert state(doctor.check_credentials(ACCOUNT)) == "ok"
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(elsewhere.parent))
    assert state(doctor.check_credentials(ACCOUNT), str(elsewhere)) == "warn"


@pytest.mark.integration
@pytest.mark.usefixtures("warm_command")
def test_used_up_quota_names_the_next_week(cloud: Cloud) -> None:
    cloud.used["TPU"] = 20.0
    finding = doctor.check_quota(doctor.ask_kaggle())
    assert state(finding, "TPU 0.0 of 20 h", "No TPU hours", "another machine", cloud.refresh[:10]) == "warn"
    cloud.used["GPU"] = 31.0
    assert (
        state(doctor.check_quota(doctor.ask_kaggle()), "GPU 0.0 of 30 h", "No GPU and TPU hours are left: Wait")
        == "warn"
    )


@pytest.mark.integration
@pytest.mark.usefixtures("warm_command")
def test_account_without_quota(cloud: Cloud) -> None:
    cloud.hours = {}
    account = doctor.ask_kaggle()
    assert account.quota == {}
    assert state(doctor.check_quota(account), "none reported") == "warn"


@pytest.mark.integration
@pytest.mark.usefixtures("warm_command")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("GetAcceleratorQuotaStatistics", 503, {"code": 503, "message": "unavailable"}, times=9), "5xx"),
        (Fault("GetAcceleratorQuotaStatistics", None, break_off=True, times=9), "cannot be reached"),
    ],
    ids=["server", "broken"],
)
def test_network_failure_is_a_warning_after_one_attempt(cloud: Cloud, fault: Fault, words: str) -> None:
    cloud.faults.append(fault)
    account = doctor.ask_kaggle()
    assert state(doctor.check_quota(account), words) == "warn"
    assert state(doctor.check_credentials(account), "not verified") == "ok"
    assert state(doctor.check_account_name(account)) == "warn"


@pytest.mark.integration
@pytest.mark.usefixtures("warm_command")
def test_hanging_network_times_out(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LIMIT_S", 4.0)
    cloud.faults.append(Fault("GetAcceleratorQuotaStatistics", None, hang_s=120, times=9))
    assert state(doctor.check_quota(doctor.ask_kaggle()), "cannot be reached") == "warn"
    assert cloud.methods().count("GetAcceleratorQuotaStatistics") <= 1


def test_owners_are_compared_with_the_account(make_root: Callable[[str], Path]) -> None:
    root = make_root("owners")
    assert state(doctor.check_owners(root, NO_CREDENTIALS), "no competition names") == "ok"
    path = root / "experiments/phantom/competition.yaml"
    text = path.read_text()
    assert "\nkaggle: {" in text
    path.write_text(text.replace("\nkaggle: {", f"\nkaggle: {{owner: {OWNER.title()}, "))
    assert state(doctor.check_owners(root, ACCOUNT), f"phantom: {OWNER.title()}") == "ok"
    assert state(doctor.check_owners(root, NO_CREDENTIALS), "not compared", "credentials") == "warn"
    assert state(doctor.check_owners(root, failed("network")), "Try again.") == "warn"
    path.write_text(text.replace("\nkaggle: {", "\nkaggle: {owner: another, "))
    finding = doctor.check_owners(root, ACCOUNT)
    assert state(finding, "phantom: another", f"account is {OWNER}", "experiments/phantom/competition.yaml") == "wrong"


def test_failing_check_is_a_finding(make_root: Callable[[str], Path]) -> None:
    root = make_root("broken")
    (root / "experiments/nuclei/competition.yaml").write_text("kagle: 3\n")
    assert (
        state(doctor.run_check(partial(doctor.check_owners, root, NO_CREDENTIALS)), "nuclei/competition.yaml", "kagle")
        == "wrong"
    )

    def check_disk() -> Finding:
        raise GatemaskError("It is broken.", where="somewhere", received="bits", do="Fix it.")

    message = "check failed: It is broken. Found bits. (somewhere)"
    assert doctor.run_check(check_disk) == Finding("disk", "wrong", message, "Fix it.")

    def check_git() -> Finding:
        raise PermissionError(13, "Permission denied")

    assert state(doctor.run_check(check_git), "Permission denied") == "wrong"


# --- the whole --------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_exit_code_0_if_nothing_is_wrong(
    cloud: Cloud,
    repository: tuple[Path, Callable[..., None]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, git = repository
    (root / "requirements.txt").write_text(f"numpy=={metadata.version('numpy')}\n")
    for arguments in (["init"], ["add", "."], ["commit", "-m", "one"]):
        git(*arguments)
    monkeypatch.setattr(doctor, "SOURCE", root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**11))
    monkeypatch.setenv("GATEMASK_ROOT", str(root))
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert [finding for finding in result["findings"] if finding["state"] != "ok"] == []
    assert (result["wrong"], result["warn"], ended.value.code) == (0, 0, 0)
    cloud.used["TPU"] = 20.0
    with pytest.raises(SystemExit) as ended:  # warnings do not count
        main(["doctor", "--json"])
    assert (json.loads(capsys.readouterr().out)["warn"], ended.value.code) == (1, 0)


@pytest.mark.integration
def test_exit_code_1_without_credentials(home: Path, make_root: Callable[[str], Path]) -> None:
    done = gatemask("doctor", root=make_root("doctor"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for words in ("ok    Python", "wrong credentials  none for Kaggle", "KAGGLE_API_TOKEN", "warn  git"):
        assert words in done.stderr


@pytest.mark.integration
def test_command_without_a_network(
    home: Path, make_root: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key(home / ".kaggle", 0o600)
    done = gatemask("doctor", "--json", root=make_root("doctor"))
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout + done.stderr
    result = json.loads(done.stdout)
    by_name = {finding["name"]: finding for finding in result["findings"]}
    assert "cannot be reached" in by_name["quota"]["found"]
    assert (by_name["quota"]["state"], by_name["credentials"]["state"]) == ("warn", "ok")
    assert done.returncode == int(result["wrong"] > 0)
    assert all(finding["do"] for finding in result["findings"] if finding["state"] != "ok")


@pytest.mark.integration
def test_command_outside_a_project(home: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "gatemask", "doctor"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Not a gatemask project" in done.stderr


@pytest.mark.integration
def test_command_imports_nothing_heavy(home: Path, make_root: Callable[[str], Path]) -> None:
    code = (
        "import sys\nfrom gatemask.cli import main\ntry: main(['doctor', '--json'])\nexcept SystemExit: pass\n"
        "heavy = set('tensorflow keras jax pandas numpy cv2 optuna numba wandb'.split()) & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(make_root("light")), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
