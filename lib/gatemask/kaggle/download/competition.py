"""`gatemask data download`: a competition's files, fetched with Kaggle's own command, verified and unpacked.

data/<comp>/download/<slug>/     the zip while it is on its way; gone at the end
data/<comp>/download-files.json  every file with its size; says that the raw folder is this command's work
data/<comp>/download.json        written last
"""

from __future__ import annotations

import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gatemask.config import Competition
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, is_current, locked, read_json, stamped_result, write_json, write_stamp
from gatemask.kaggle.client.cli import printable
from gatemask.kaggle.download.file_download import fetch
from gatemask.kaggle.download.unpack import DamagedError, unpack
from gatemask.project import Project

BUSY = "Another download of this competition is running, or a kaggle command that it left."


def download(project: Project, comp: Competition, data: Path | None = None, force: bool = False) -> dict[str, Any]:
    """Fetch and unpack the files of a competition. Killed at any moment and run again, it goes on.

    Args:
        project: where things lie.
        comp: names the competition on Kaggle, and the raw folder.
        data: the folder for the files, if not the one in competition.yaml.
        force: do it again though it is done, and over files that stand there: those of the same name are
            replaced, others are kept.

    Returns:
        competition, files, megabytes, folder.
    """
    slug = _slug(comp)
    target = _raw_folder(project, comp) if data is None else data.resolve()
    stamp, record, work = (project.data / name for name in ("download.json", "download-files.json", "download"))
    fresh = target.with_name(f".{target.name}.gatemask-download")
    made_from = {"competition": slug, "folder": str(target)}
    with _told(target), locked(project.data / ".download-lock", BUSY) as lock, _removed_after(fresh):
        # Names and sizes say that the files stand; ten gigabytes are not hashed again on every call.
        if not force and is_current(stamp, made_from) and _differing(record, target) == (0, 0):
            return {"current": True, **stamped_result(stamp)}
        started = time.monotonic()
        _check_target(target, record, made_from, force)
        _fetch_and_unpack(slug, work / slug, fresh, lock)
        files = {p.relative_to(fresh).as_posix(): p.stat().st_size for p in sorted(fresh.rglob("*")) if p.is_file()}
        stamp.unlink(missing_ok=True)
        write_json(record, {**made_from, "moving": True, "files": files})
        _move(fresh, target)
        write_json(record, {**made_from, "moving": False, "files": files})
        size = round(sum(files.values()) / 1e6, 1)
        result = {"competition": slug, "files": len(files), "megabytes": size, "folder": str(target)}
        written = write_stamp(stamp, made_from, result, [record], started)
        shutil.rmtree(work, ignore_errors=True)
        return written


def _slug(comp: Competition) -> str:
    slug = comp.kaggle.competition
    if slug is None or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", slug):
        raise GatemaskError(
            "competition.yaml does not name the competition on Kaggle.",
            where=f"experiments/{comp.name}/competition.yaml, kaggle.competition",
            received=slug or "nothing",
            expected="the last part of https://www.kaggle.com/competitions/NAME",
            do="Write kaggle: {competition: NAME} there.",
        )
    return slug


def _raw_folder(project: Project, comp: Competition) -> Path:
    from gatemask.data.manifest import default_raw

    return default_raw(project, comp).resolve()


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """What the disk refuses, as an error for the user."""
    try:
        yield
    except OSError as error:
        raise GatemaskError(
            "The files cannot be written.",
            where=error.filename2 or error.filename or target,
            received=error.strerror or error,
            do="Make room or mend the permissions and run it again, or name another folder with --data.",
        ) from None


@contextmanager
def _removed_after(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _differing(record: Path, target: Path) -> tuple[int, int]:
    """How many recorded files are missing from the folder, and how many have another size."""
    missing = changed = 0
    for name, size in read_json(record)["files"].items():
        try:
            changed += (target / name).stat().st_size != size
        except (FileNotFoundError, NotADirectoryError):
            missing += 1
    return missing, changed


def _check_target(target: Path, record: Path, made_from: dict[str, Any], force: bool) -> None:
    """Refuse a folder with files that are not this command's, or that were changed since."""
    if target.exists() and not target.is_dir():
        raise GatemaskError("The raw folder is a file.", where=target, do="Name another folder with --data.")
    if force or not target.exists() or not any(target.iterdir()):
        return
    known = read_json(record) if record.exists() else {}
    ours = all(known.get(key) == value for key, value in made_from.items())
    # Killed while files were moved in, old and new ones stand side by side: then sizes say nothing.
    if ours and (known["moving"] or _differing(record, target)[1] == 0):
        return
    raise GatemaskError(
        "There are files where the competition should go.",
        where=target,
        expected="no folder, an empty one, or one that this command filled and nobody changed",
        do="Name another folder with --data, or take --force: files of the same name are replaced, others are kept.",
    )


def _fetch_and_unpack(slug: str, work: Path, fresh: Path, lock: int) -> None:
    """Fetch, and unpack beside the final folder. What is damaged is fetched once more, from the start."""
    for tries_left in (1, 0):
        file = fetch(slug, work, lock)
        try:
            _lay_out(file, fresh)
            return
        except DamagedError as error:
            # Often not Kaggle's fault: a file from an earlier call that the command took for whole, or went on with.
            shutil.rmtree(work)
            if not tries_left:
                raise
            say(f"{error.what} Fetching it once more, from the start.")


def _lay_out(file: Path, fresh: Path) -> None:
    """The files of the competition, in a new folder beside the final one."""
    if zipfile.is_zipfile(file):
        unpack(file, fresh)
        return
    with file.open("rb") as opened:
        head = opened.read(400)
    page = re.match(rb'\s*(<|\{\s*"(code|error|message)"|$)', head)
    if page or file.suffix in ("", ".zip"):
        raise DamagedError(
            "Kaggle sent something else than the competition's files, or not all of them.",
            where=file.name,
            received=f"{file.stat().st_size} bytes: {printable(head.decode('utf-8', 'replace'))[:120]}",
            expected="a zip, or one plain file",
            do="Run it again later; if it stays so, look at the competition's data page.",
        )
    shutil.copyfile(file, fresh_folder(fresh) / file.name)


def _move(fresh: Path, target: Path) -> None:
    """Put the new folder in the target's place in one step, or its files one by one among those that are kept."""
    if not target.exists() or not any(target.iterdir()):
        fresh.rename(target)
        return
    for path in sorted(fresh.rglob("*")):
        final = target / path.relative_to(fresh)
        if path.is_dir():
            final.mkdir(exist_ok=True)
        else:
            path.replace(final)
