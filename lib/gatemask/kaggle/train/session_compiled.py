"""What JAX compiled in a session: one file in its output, unpacked in the next session of the experiment.

<kaggle>/working/.compiled/              the project's data/.compiled during a session, at the same path in each
<kaggle>/working/gatemask-compiled.bin   its files, in the output of a session that left folds unfinished

It only saves time: whatever is wrong with it, the next session compiles again. Names of its entries include the
versions of JAX and its libraries, so another image ignores them.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from gatemask.console import say
from gatemask.files import sha256

FOLDER, ARCHIVE = ".compiled", "gatemask-compiled.bin"  # not .zip: Kaggle unpacks archives
LIMIT_BYTES = 200_000_000  # of the archive, which is fetched with the runs


def pack_compiled(working: Path, is_needed: bool) -> str | None:
    """Replace the folder of compiled functions by an archive.

    Args:
        working: Folder that Kaggle keeps.
        is_needed: Whether another session will continue this one. Otherwise there will be no archive.

    Returns:
        SHA-256 of the archive; None without one.
    """
    folder, archive = working / FOLDER, working / ARCHIVE
    try:
        files = sorted(_files(folder), key=lambda path: path.stat().st_mtime, reverse=True) if is_needed else []
        size = 0
        with zipfile.ZipFile(archive, "w") as packed:  # entries are compressed already
            for path in files:
                size += path.stat().st_size
                if size > LIMIT_BYTES:
                    break
                packed.write(path, path.relative_to(folder))
            is_empty = not packed.namelist()
        shutil.rmtree(folder, ignore_errors=True)
        if not is_empty:
            return sha256(archive)
    except (OSError, ValueError) as error:  # a full disk; a date before 1980
        say(f"Compiled functions are not kept: {error}")
    archive.unlink(missing_ok=True)
    return None


def unpack_compiled(mounted: Path, digest: str | None, compiled: Path) -> None:
    """Unpack the archive that an earlier session left.

    Args:
        mounted: Folder of the session's output.
        digest: SHA-256 of the archive; None if the session left none.
        compiled: The project's folder of compiled functions.
    """
    archive = mounted / ARCHIVE
    try:
        if digest is None or sha256(archive) != digest:
            return
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(compiled)  # removes ".." and leading slashes from names
            say(f"{len(packed.namelist())} compiled functions of an earlier session, from {mounted}")
    except (OSError, zipfile.BadZipFile) as error:
        say(f"Compiled functions of an earlier session cannot be read: {error}")


def _files(folder: Path) -> list[Path]:
    return [Path(top) / name for top, _, names in os.walk(folder) for name in names]
