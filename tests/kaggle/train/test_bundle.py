"""Tests of the training kernel as it is pushed: complete, small, reproducible, and free of secrets."""

from __future__ import annotations

import base64
import gzip
import io
import json
import lzma
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slugify import slugify

from gatemask.config import load_competition, load_experiment
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, sha256
from gatemask.kaggle.client import account, cli
from gatemask.kaggle.client.datasets import Dataset, ensure_uploaded
from gatemask.kaggle.client.slugs import kaggle_slug
from gatemask.kaggle.image.machines import machine_for
from gatemask.kaggle.submit.package import dataset_slug
from gatemask.kaggle.train import bundle, commands
from gatemask.kaggle.train.dispatch import PushOptions
from gatemask.project import Project, experiment_files
from gatemask.results.kaggle_training import SessionRequest
from tests.conftest import ROOT
from tests.kaggle.cloud import Cloud, serve
from tests.kaggle.warm import starter

pytestmark = pytest.mark.integration

SESSION = SessionRequest(
    push="0123456789ab",
    ref="me/gatemask-phantom-unet-b0-f0",
    comp="phantom",
    quick=False,
    experiment="unet_b0",
    folds=(0,),
    machine="TpuV5E8",
    hours=9.0,
    commit="c0ffee",
    datasets={"records": "1" * 16},
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with as many images in its folds as SIIM-ACR."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "experiments", root / "experiments")
    (root / "folds").mkdir()
    for comp in ("phantom", "siim-acr", "nuclei"):
        rows = (f"1.2.276.0.7230010.3.1.4.8323329.{n * 7919 % 15000}.{n * 104729 % 10**10}" for n in range(12_047))
        text = "".join(f"{name},{n % 5},{n * 31 % 6171:08d},{n % 9}\n" for n, name in enumerate(rows))
        (root / f"folds/{comp}.csv").write_text("image_id,fold,group,stratum\n" + text)
    return root


def compress_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compress payloads in a fraction of a second. They are larger, and hold the same."""
    fast = SimpleNamespace(compress=lambda content, preset: lzma.compress(content, preset=1))
    monkeypatch.setattr(bundle, "lzma", fast)


def unpacked(script: str) -> dict[str, bytes]:
    """Return the files in a pushed script."""
    data = base64.b85decode(re.search(r'^PAYLOAD = "(.*)"$', script, re.MULTILINE)[1])  # type: ignore[index]
    with zipfile.ZipFile(io.BytesIO(lzma.decompress(data))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("path", experiment_files(ROOT))
def test_shipped_experiment_fits_into_one_script_unchanged(
    root: Path, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress_fast(monkeypatch)  # a script that fits with it fits with the real one
    folder = (root / path).parent
    comp, exp = load_competition(folder), load_experiment(root / path)
    project, wanted = Project(root, comp.name), machine_for(comp, exp)
    request = SESSION.model_copy(update={"comp": comp.name, "experiment": exp.name, "machine": wanted.name})
    data = bundle.build_payload(project, comp, exp, request)
    assert bundle.write_kernel(tmp_path / "kernel", data, request), "too large for one script"
    script = (tmp_path / "kernel/train.py").read_text()
    assert len(script.encode()) < 1_000_000

    files = unpacked(script)
    for name, content in files.items():
        if not name.startswith("lib/"):
            place = tmp_path / "unpacked" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    in_kernel = load_experiment(tmp_path / "unpacked" / f"experiments/{comp.name}/{exp.name}.yaml")
    assert fingerprint(in_kernel.settings) == fingerprint(exp.settings), "the kernel would train another run"
    assert in_kernel.runtime.accelerator == wanted.kind, "the kernel would accept another machine"
    kept = {"quick"}
    assert load_competition(tmp_path / "unpacked/experiments" / comp.name).model_dump(exclude=kept) == comp.model_dump(
        exclude=kept
    )
    assert json.loads(files["session.json"])["commit"] == "c0ffee"
    assert files[f"folds/{comp.name}.csv"] == project.folds.read_bytes()


def test_payload_is_reproducible(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compress_fast(monkeypatch)
    project, folder = Project(root, "phantom"), root / "experiments/phantom"
    comp, exp = load_competition(folder), load_experiment(folder / "unet_b0.yaml")
    assert bundle.build_payload(project, comp, exp, SESSION) == bundle.build_payload(project, comp, exp, SESSION)


def test_metadata_set_every_key(tmp_path: Path) -> None:
    datasets, kernels = ["me/gatemask-wheels"], ["me/gatemask-phantom-unet-b0-f0"]
    bundle.write_kernel(tmp_path / "kernel", b"data", SESSION, datasets, kernels)
    written = json.loads((tmp_path / "kernel/kernel-metadata.json").read_text())
    assert {key: written[key] for key in ("enable_tpu", "enable_gpu", "enable_internet", "is_private")} == {
        "enable_tpu": True,
        "enable_gpu": False,
        "enable_internet": True,
        "is_private": True,
    }
    assert written["machine_shape"] == "TpuV5E8"
    assert written["id"] == "me/" + slugify(written["title"])
    assert written["dataset_sources"] == datasets
    assert written["kernel_sources"] == kernels
    assert "docker_image" not in written, "with one, Kaggle runs the CPU's image on the TPU's machine"


@pytest.mark.parametrize(
    "parts", [("phantom", "unet_b0", "f0"), ("a-competition-of-a-very-long-name", "unetpp_b4_480.late", "f0-1-2-3-4")]
)
def test_slugs_match_their_titles_on_kaggle(parts: tuple[str, ...]) -> None:
    slug = kaggle_slug(*parts)
    assert slug == slugify(slug.replace("-", " "))
    assert 6 <= len(slug) <= 50
    assert slug != kaggle_slug(*parts[:-1], "f1")


def test_long_competitions_get_datasets_of_their_own(tmp_path: Path) -> None:
    names = ["a" * 60, "a" * 60 + "b", "a" * 39]
    slugs = [dataset_slug(Project(tmp_path, name, quick)) for name in names for quick in (False, True)]
    assert len(set(slugs)) == len(slugs)
    assert all(len(f"{slug}-inference") <= 50 for slug in slugs)


def test_another_payload_ends_the_kernel_at_once(tmp_path: Path) -> None:
    bundle.write_kernel(tmp_path / "kernel", lzma.compress(b"data"), SESSION)
    script = tmp_path / "kernel/train.py"
    script.write_text(script.read_text().replace('SHA256 = "', 'SHA256 = "0'))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "push 0123456789ab: no payload with SHA-256" in done.stderr


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_uncommitted_files_are_not_pushed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "SOURCE", root)  # the source tree of the tests may have changes
    project = Project(root, "phantom")
    with pytest.raises(GatemaskError, match="no commit"):
        account.clean_commit(project, allow_dirty=False)
    assert account.clean_commit(project, allow_dirty=True) is None
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "all")
    commit = account.clean_commit(project, allow_dirty=False)
    assert commit
    assert re.fullmatch("[0-9a-f]{40}", commit)

    (root / "notes.txt").write_text("not part of any kernel")
    assert account.clean_commit(project, allow_dirty=False) == commit
    (root / "experiments/phantom/new.yaml").write_text("extends: unet_b0.yaml\n")
    with pytest.raises(GatemaskError, match=r"new\.yaml"):
        account.clean_commit(project, allow_dirty=False)
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "new")
    (root / "folds/phantom.csv").write_text("image_id,fold,group,stratum\n")
    with pytest.raises(GatemaskError, match=r"folds/phantom\.csv"):
        account.clean_commit(project, allow_dirty=False)
    assert str(account.clean_commit(project, allow_dirty=True)).endswith("+dirty")


# --- secrets --------------------------------------------------------------------------------------------------------

PLANTED = {
    "WANDB_API_KEY": "wandbwandb0123456789wandbwandb0123456789",
    "KAGGLE_API_TOKEN": "KGAT_planted0123456789",
    "OF_DOTENV_TOKEN": "dotenv-planted-0123456789",
}


@pytest.fixture
def planted(
    phantom_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_kaggle: Path
) -> Iterator[tuple[Project, Cloud, list[bytes]]]:
    """A project on a machine full of secrets, an empty Kaggle, and the secrets."""
    root = tmp_path / "project"
    shutil.copytree(phantom_records, root, ignore=shutil.ignore_patterns("runs", "dist"))
    # The command prefers the token in the home folder to the pair in the environment.
    cloud = Cloud(tmp_path / "cloud", runner=lambda _: 0, token=PLANTED["KAGGLE_API_TOKEN"])
    with serve(cloud):
        environment = cloud.environment(tmp_path / "home")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WANDB_API_KEY", PLANTED["WANDB_API_KEY"])
        (root / ".env").write_text(f"OF_DOTENV_TOKEN={PLANTED['OF_DOTENV_TOKEN']}\n")
        (tmp_path / "home/.kaggle").mkdir(parents=True)
        (tmp_path / "home/.kaggle/access_token").write_text(PLANTED["KAGGLE_API_TOKEN"])
        monkeypatch.setattr(cli, "PAUSES", (0.1,))
        monkeypatch.setattr(cli, "start", starter(warm_kaggle))
        compress_fast(monkeypatch)
        yield Project(root, "phantom", quick=True), cloud, [value.encode() for value in PLANTED.values()]


def contents(data: bytes) -> Iterator[bytes]:
    """Yield the bytes, and what is packed in them."""
    yield data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    if b'\nPAYLOAD = "' in data:
        yield from unpacked(data.decode()).values()


def test_no_uploaded_or_written_file_holds_a_secret(
    planted: tuple[Project, Cloud, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, cloud, secrets = planted
    monkeypatch.setenv("KAGGLE_KEY_OF_ANOTHER", "another-planted-0123456789")
    secrets.append(b"another-planted-0123456789")
    comp = load_competition(project.experiments, quick=True, overrides=["kaggle.accelerator=none"])
    exp = load_experiment(project.experiments / "unet_b0.yaml", quick=True)
    commands.push_experiment(project, comp, exp, [0, 1], PushOptions(allow_dirty=True, poll_s=0.05))
    uploaded = [(name, data) for name, data in cloud.uploaded() if name != "IntrospectToken"]  # which signs in
    assert any(name.endswith(".tfrec") for name, _ in uploaded)
    written = [path for name in ("dist", "runs") for path in (project.root / name).rglob("*") if path.is_file()]
    assert len(written) > 10
    searched = [*uploaded, *((str(path), path.read_bytes()) for path in written)]
    for name, data in searched:
        for part in contents(data):
            assert not any(secret in part for secret in secrets), f"a secret in {name}"
    assert any(b"def payload" in part for _, data in searched for part in contents(data)), "archives were not searched"


@pytest.mark.parametrize("name", ["notes.txt", "a.whl", "a.tfrec", "a.tar.gz", "a.yaml"])
def test_secret_in_a_dataset_is_rejected_before_the_upload(
    planted: tuple[Project, Cloud, list[bytes]], tmp_path: Path, name: str
) -> None:
    project, cloud, secrets = planted
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("module.py", secrets[2])
    packers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".whl": lambda _: packed.getvalue()}
    path = tmp_path / name
    path.write_bytes(packers.get(path.suffix, lambda secret: b"data: " + secret)(secrets[2]))
    dataset = Dataset("extra", "gatemask-extra", {name: path}, {name: sha256(path)})
    with pytest.raises(GatemaskError, match="A secret would be uploaded") as rejected:
        ensure_uploaded(project, dataset, "someone", 0.05)
    assert name in str(rejected.value.details["where"])
    assert not cloud.datasets


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            ("records", "x", kaggle_slug("x", "records", "512")),
            ("submission", "x-records-512", "gatemask-x-records-512"),
        ),
        pytest.param(
            ("weights", "x/a-b", kaggle_slug("x", "a-b", "start")),
            ("weights", "x/a_b", kaggle_slug("x", "a_b", "start")),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("submission", "x-y", kaggle_slug("x-y")),
            ("submission", "x--y", kaggle_slug("x--y")),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_datasets_of_one_name_are_rejected(
    planted: tuple[Project, Cloud, list[bytes]], tmp_path: Path, first: Any, second: Any
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"data")

    def upload(kind: str, owner: str, parts: tuple[str, ...]) -> int:
        dataset = Dataset(kind, kaggle_slug(*parts), {path.name: path}, {path.name: sha256(path)}, owner=owner)
        return ensure_uploaded(planted[0], dataset, "someone", 0.05)

    assert upload(*first) == upload(*first) == 1
    path.write_bytes(b"other data")
    with pytest.raises(GatemaskError, match="names that Kaggle cannot tell apart") as rejected:
        upload(*second)
    assert f"{first[0]} of {first[1]}, uploaded before, and {second[0]} of {second[1]}" in str(rejected.value)
    assert upload(*first) == 2


@pytest.mark.parametrize("name", PLANTED)
def test_secret_in_a_yaml_is_rejected_before_any_push(planted: tuple[Project, Cloud, list[bytes]], name: str) -> None:
    project, cloud, _ = planted
    comp = load_competition(project.experiments, quick=True, overrides=["kaggle.accelerator=none"])
    exp = load_experiment(
        project.experiments / "unet_b0.yaml", quick=True, overrides=[f"tracking.project={PLANTED[name]}"]
    )
    with pytest.raises(GatemaskError, match="A secret would be uploaded") as rejected:
        commands.push_experiment(project, comp, exp, [0], PushOptions(allow_dirty=True, poll_s=0.05))
    assert PLANTED[name] not in str(rejected.value)
    assert not cloud.kernels
    assert not cloud.datasets
