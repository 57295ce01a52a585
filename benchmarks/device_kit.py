"""Pack the device benchmark for a machine without a network (`make device-kit`).

    dist/device-kit-3.12/
        run.sh            installs the wheels and runs the benchmark
        wheels/           gatemask and the packages it needs to train, and segmentation-models-pytorch
        benchmarks/       device.py and its modules
        python-version    that the wheels are for
        SHA256SUMS        of all files; run.sh checks it
    dist/device-kit-3.12.tar

NumPy, JAX, PyTorch, torchvision and timm come from the machine. Versions are those of requirements.txt, or else those
installed here, with which the tests ran. `--without` leaves out what the machine has anyway, in any version.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, sha256, write_text

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [
    # networks
    *("keras", "segmentation-models", "efficientnet", "image-classifiers", "Keras-Applications", "h5py"),
    # required by Keras, besides JAX's own requirements
    *("absl-py", "namex", "optree", "packaging", "typing_extensions"),
    # input
    *("opencv-python-headless", "google-crc32c", "pandas", "python-dateutil", "six", "pillow", "tifffile", "pydicom"),
    # configuration and messages
    *("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "PyYAML"),
    *("rich", "Pygments", "markdown-it-py", "mdurl"),
    # PyTorch's side
    *("segmentation-models-pytorch", "tqdm"),
]
# Packages that nothing else here installs.
PINNED = {"segmentation-models-pytorch": "0.6.0"}
PLATFORMS = ["manylinux2014_x86_64", *(f"manylinux_2_{n}_x86_64" for n in (17, 24, 26, 27, 28))]
SCRIPTS = ["device.py", "device_child.py", "device_jax.py", "device_plan.py", "device_process.py", "device_rows.py"]
SCRIPTS += ["device_torch.py", "device_torch_networks.py", "device_xrays.py"]
LIMIT = 64 * 2**20  # bytes; what some rented machines accept


def pinned_versions(requirements: str) -> dict[str, str]:
    """Return the versions of a requirements file, by normalized name."""
    found = re.findall(r"^([\w.-]+)==(\S+)", requirements, re.MULTILINE)
    return {normalized(name): pinned for name, pinned in found}


def normalized(name: str) -> str:
    """Return the name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(without: Sequence[str]) -> list[str]:
    """Return name and version of each package of the kit.

    Args:
        without: Packages to leave out.

    Raises:
        GatemaskError: A package to leave out does not belong to the kit, or a version is unknown.
    """
    left_out, known = {normalized(name) for name in without}, {normalized(name) for name in PACKAGES}
    if unknown := left_out - known:
        raise GatemaskError(
            "The kit has no such package.",
            where="--without",
            received=", ".join(sorted(unknown)),
            expected=", ".join(sorted(known)),
        )
    pinned = pinned_versions((ROOT / "requirements.txt").read_text()) | PINNED
    lines = []
    for name in PACKAGES:
        if normalized(name) in left_out:
            continue
        try:
            lines.append(f"{name}=={pinned.get(normalized(name)) or version(name)}")
        except PackageNotFoundError:
            raise GatemaskError("A package of the kit is not installed.", received=name, do="Run make setup.") from None
    return lines


def pack(python: str, without: Sequence[str], folder: Path) -> Path:
    """Write the kit and its archive, and return the archive.

    Args:
        python: Python version of the machine, such as "3.12".
        without: Packages to leave out.
        folder: Folder of the kit; replaced if it exists.

    Raises:
        GatemaskError: A wheel could not be fetched or built.
    """
    wanted = requirements(without)
    partial = fresh_folder(folder.with_name(f".{folder.name}"))
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    target = ["--implementation=cp", "--only-binary=:all:", f"--python-version={python}", *platforms]
    _pip("download", "--no-deps", *target, f"--dest={partial / 'wheels'}", *wanted)
    _pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={partial / 'wheels'}", str(ROOT))
    (partial / "benchmarks").mkdir()
    for name in SCRIPTS:
        shutil.copy(ROOT / "benchmarks" / name, partial / "benchmarks" / name)
    shutil.copy(ROOT / "benchmarks" / "device_run.sh", partial / "run.sh")
    write_text(partial / "python-version", f"{python}\n")
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    sums = "".join(f"{sha256(path)}  {path.relative_to(partial)}\n" for path in files)
    write_text(partial / "SHA256SUMS", sums)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    archive = folder.with_name(f"{folder.name}.tar")
    unfinished = archive.with_suffix(".tar.partial")
    with tarfile.open(unfinished, "w") as tar:
        tar.add(folder, arcname=folder.name)
    return unfinished.replace(archive)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
        raise GatemaskError(
            "A package of the kit could not be fetched or built.",
            where=f"pip {arguments[0]}",
            received=lines[-1].removeprefix("ERROR: ") if lines else f"exit code {done.returncode}",
            do="Check the connection, or pass a Python version for which the packages have wheels.",
        )


def main(arguments: Sequence[str]) -> int:
    """Pack the kit and report its size; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", help="Python version of the machine; default: 3.12")
    parser.add_argument("--without", default="", help="packages to leave out, separated by commas")
    parser.add_argument("--folder", type=Path, help="folder of the kit; default: dist/device-kit-PYTHON")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"3\.\d+", options.python):
        parser.error(f"--python: expected a version such as 3.12, not {options.python}")
    folder = options.folder or ROOT / "dist" / f"device-kit-{options.python}"
    try:
        archive = pack(options.python, [name for name in options.without.split(",") if name], folder)
    except GatemaskError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    largest = sorted((folder / "wheels").iterdir(), key=lambda wheel: -wheel.stat().st_size)
    size = archive.stat().st_size
    print(f"{archive}: {size / 2**20:.1f} MiB, {len(largest)} wheels for Python {options.python}")
    if size > LIMIT:
        names = ", ".join(f"{wheel.name.split('-')[0]} {wheel.stat().st_size / 2**20:.1f}" for wheel in largest[:4])
        print(f"more than {LIMIT / 2**20:.0f} MiB; the largest wheels, in MiB: {names}. --without leaves some out.")
    print(f"On the machine: bash {folder.name}/run.sh --seconds 400")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
