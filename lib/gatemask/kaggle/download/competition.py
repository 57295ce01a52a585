"""`gatemask data download`: fetch a competition's files with the kaggle command, verify and unpack them.

data/<comp>/download/<slug>/     the zip while it is fetched; removed at the end
data/<comp>/download-files.json  all files with their sizes; shows that this command filled the raw folder
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

from gatemask.config import Competition
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import fresh_folder, locked, write_json
from gatemask.kaggle.client.cli import printable
from gatemask.kaggle.download.file_download import fetch_competition_file
from gatemask.kaggle.download.unpack import DamagedFileError, unpack_zip
from gatemask.project import Project
from gatemask.results.download import DownloadedFiles, DownloadResult
from gatemask.stage import Stage, Stamp, load_document
from gatemask.storage import storage_errors

BUSY = "Another download of this competition, or a kaggle command that it left, is running."


def download_competition(
    project: Project, comp: Competition, data: Path | None = None, force: bool = False
) -> DownloadResult:
    """Fetch and unpack the files of a competition. A command that was killed is run again and resumes.

    Args:
        project: Folders of the competition.
        comp: Competition, for its name on Kaggle and the raw folder.
        data: Folder for the files. Default: the one in competition.yaml.
        force: Download again, also into a folder with other files: files of the same name are replaced, others are
            kept. Default: False.

    Raises:
        GatemaskError: The folder holds other files, Kaggle refuses, or the disk is full.
    """
    slug = _slug(comp)
    target = _raw_folder(project, comp) if data is None else data.resolve()
    record, work = project.data / "download-files.json", project.data / "download"
    fresh = target.with_name(f".{target.name}.gatemask-download")
    stage = _stage(project, slug, target)
    # Not `stage.run`: the kaggle command must inherit the lock, in case it outlives this process.
    with storage_errors(target), locked(project.data / ".download-lock", BUSY) as lock, _removed_after(fresh):
        # Names and sizes are compared; ten gigabytes are not hashed again on every call.
        if not force and (result := stage.current()) and _count_differences(_read_record(record), target) == (0, 0):
            return result.model_copy(update={"folder": str(target)})
        started = time.monotonic()
        _check_target(project, target, record, slug, force)
        _fetch_and_unpack(slug, work / slug, fresh, lock)
        files = {p.relative_to(fresh).as_posix(): p.stat().st_size for p in sorted(fresh.rglob("*")) if p.is_file()}
        stage.stamp.unlink(missing_ok=True)
        downloaded = DownloadedFiles(competition=slug, folder=project.relative(target), moving=True, files=files)
        write_json(record, downloaded.as_dict())
        _move(fresh, target)
        write_json(record, downloaded.model_copy(update={"moving": False}).as_dict())
        megabytes = round(sum(files.values()) / 1e6, 1)
        result = DownloadResult(competition=slug, files=len(files), megabytes=megabytes, folder=str(target))
        result = stage.finish(result, [record], started)
        shutil.rmtree(work, ignore_errors=True)
        return result


def _slug(comp: Competition) -> str:
    slug = comp.kaggle.competition
    if slug is None or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", slug):
        raise GatemaskError(
            "competition.yaml does not name the competition on Kaggle.",
            where=f"experiments/{comp.name}/competition.yaml, kaggle.competition",
            received=slug or "nothing",
            expected="the last part of https://www.kaggle.com/competitions/NAME",
            do="Add kaggle: {competition: NAME} to competition.yaml.",
        )
    return slug


def _stage(project: Project, slug: str, target: Path) -> Stage[DownloadResult]:
    stamp, folder = project.data / "download.json", project.relative(target)
    if stamp.exists() and Stamp.load(stamp).made_from.get("folder") == str(target):  # as earlier versions wrote it
        folder = str(target)
    return Stage("data download", stamp, {"competition": slug, "folder": folder}, DownloadResult)


def _raw_folder(project: Project, comp: Competition) -> Path:
    from gatemask.data.raw_folder import default_raw

    return default_raw(project, comp).resolve()


@contextmanager
def _removed_after(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_record(path: Path) -> DownloadedFiles | None:
    return load_document(DownloadedFiles, path) if path.exists() else None


def _count_differences(downloaded: DownloadedFiles | None, target: Path) -> tuple[int, int]:
    """Return how many recorded files are missing from the folder, and how many have another size."""
    missing = changed = 0
    for name, size in downloaded.files.items() if downloaded else ():
        try:
            changed += (target / name).stat().st_size != size
        except (FileNotFoundError, NotADirectoryError):
            missing += 1
    return missing, changed


def _check_target(project: Project, target: Path, record: Path, slug: str, force: bool) -> None:
    """Reject a folder with files that this command did not write, or that have changed since."""
    if target.exists() and not target.is_dir():
        raise GatemaskError("The raw folder is a file.", where=target, do="Name another folder with --data.")
    if force or not target.exists() or not any(target.iterdir()):
        return
    downloaded = _read_record(record)
    # After a kill while files were moved, old and new ones are mixed, and their sizes mean nothing.
    if (
        downloaded is not None
        and (downloaded.competition, project.root / downloaded.folder) == (slug, target)
        and (downloaded.moving or _count_differences(downloaded, target)[1] == 0)
    ):
        return
    raise GatemaskError(
        "The raw folder already contains other files.",
        where=target,
        expected="no folder, an empty one, or one that this command filled and that has not changed since",
        do="Name another folder with --data, or add --force: files of the same name are replaced, others are kept.",
    )


def _fetch_and_unpack(slug: str, work: Path, fresh: Path, lock: int) -> None:
    """Fetch, and unpack next to the final folder. A damaged file is fetched once more, from the start."""
    for tries_left in (1, 0):
        file = fetch_competition_file(slug, work, lock)
        try:
            _unpack_or_copy(file, fresh)
            return
        except DamagedFileError as error:
            # Often left by an earlier call: the kaggle command took the file for complete, or resumed it.
            shutil.rmtree(work)
            if not tries_left:
                raise
            say(f"{error.what} Fetching it again, from the start.")


def _unpack_or_copy(file: Path, fresh: Path) -> None:
    """Write the files of the competition into a new folder next to the final one."""
    if zipfile.is_zipfile(file):
        unpack_zip(file, fresh)
        return
    with file.open("rb") as opened:
        head = opened.read(400)
    page = re.match(rb'\s*(<|\{\s*"(code|error|message)"|$)', head)
    if page or file.suffix in ("", ".zip"):
        raise DamagedFileError(
            "Kaggle did not send the competition's files, or not all of them.",
            where=file.name,
            received=f"{file.stat().st_size} bytes: {printable(head.decode('utf-8', 'replace'))[:120]}",
            expected="a zip, or one plain file",
            do="Run it again later; if that does not help, see the competition's data page.",
        )
    shutil.copyfile(file, fresh_folder(fresh) / file.name)


def _move(fresh: Path, target: Path) -> None:
    """Rename the new folder to the target, or move its files one by one into a target that is kept."""
    if not target.exists() or not any(target.iterdir()):
        fresh.rename(target)
        return
    for path in sorted(fresh.rglob("*")):
        final = target / path.relative_to(fresh)
        if path.is_dir():
            final.mkdir(exist_ok=True)
        else:
            path.replace(final)
