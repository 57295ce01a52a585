"""The objects of a remote, by their path relative to its folder: listed, read, written, created if they do not exist.

Each object is written whole or not at all. On S3 and Google Cloud Storage, the service does this; in a folder that
machines share, files get their name after they are written.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatemask.errors import GatemaskError
from gatemask.files import copy_file, write_bytes
from gatemask.remote.address import open_filesystem
from gatemask.storage import storage_error

if TYPE_CHECKING:
    pass

MIB = 1 << 20
PART_SIZES = (50 * MIB, 8 * MIB, 5 * MIB, 16 * MIB, 64 * MIB)  # of s3fs, and of other programs
AT_ONCE = 32  # files per call; s3fs and gcsfs transfer them concurrently


@dataclass(frozen=True)
class Object:
    """A listed object.

    Args:
        size: Its size, in bytes.
        tag: Changes whenever the object is written: the ETag, where there is one.
        modified_ns: When it was written, in nanoseconds since 1970, by the clock of the remote.
        md5: MD5 of the content, as hexadecimal digits; "" if the remote does not report it.
    """

    size: int
    tag: str
    modified_ns: int
    md5: str = ""


class RemoteError(GatemaskError):
    """The remote cannot be reached, or refuses a request."""


class Objects:
    """The objects below the folder of a remote.

    Args:
        url: Address of the folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        with self._faults("open"):
            self._fs, self._base = open_filesystem(url)
        self._is_local = type(self._fs).__name__ == "LocalFileSystem"

    def list(self, folder: str, depth: int | None = None) -> dict[str, Object]:
        """Return the objects below a folder, by path; none if it does not exist. Hidden ones are left out.

        Args:
            folder: Path of the folder.
            depth: Levels of folders to list; 1 lists the files of the folder itself. Default: all.
        """
        with self._faults("list", folder):
            try:
                found = self._fs.find(self._path(folder), maxdepth=depth, detail=True)
            except FileNotFoundError:
                return {}
        listed = {self._key(path): _object(info) for path, info in found.items() if info.get("type") == "file"}
        start = folder.count("/") + 1
        return {key: each for key, each in listed.items() if not is_hidden(key.split("/")[start:])}

    def read(self, key: str) -> bytes | None:
        """Return the content of an object; None if it does not exist."""
        with self._faults("read", key):
            try:
                content: bytes = self._fs.cat_file(self._path(key))
            except FileNotFoundError:
                return None
            return content

    def write(self, key: str, content: bytes) -> None:
        """Write an object, in place of the one that exists."""
        with self._faults("write", key):
            if self._is_local:
                write_bytes(Path(self._path(key)), content)
            else:
                self._fs.pipe_file(self._path(key), content)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object if it does not exist, as one act of the remote, and return whether it was written.

        On S3 this is a conditional write (If-None-Match), on Google Cloud Storage one with ifGenerationMatch.
        """
        with self._faults("create", key):
            if self._is_local:
                return _link_new(Path(self._path(key)), content)
            try:
                self._fs.pipe_file(self._path(key), content, mode="create")
            except FileExistsError:
                return False
            except Exception as error:
                if _is_refused_condition(error):
                    return False
                raise
            return True

    def upload(self, files: Mapping[str, Path]) -> None:
        """Write files to the remote, several at a time.

        Args:
            files: Local file of each object, by the object's path.
        """
        for keys in _batches(list(files)):
            with self._faults("write", keys[0]):
                if self._is_local:
                    for key in keys:
                        copy_file(files[key], Path(self._path(key)))
                else:
                    self._fs.put([str(files[key]) for key in keys], [self._path(key) for key in keys])

    def download(self, files: Mapping[str, Path]) -> None:
        """Write objects to local files, several at a time. A file gets its name after it is complete.

        Args:
            files: Local file of each object, by the object's path.
        """
        for keys in _batches(list(files)):
            temporary = {key: files[key].with_name(f".tmp-{os.getpid()}-remote-{files[key].name}") for key in keys}
            try:
                with self._faults("read", keys[0]):
                    for path in temporary.values():
                        path.parent.mkdir(parents=True, exist_ok=True)
                    self._fs.get([self._path(key) for key in keys], [str(temporary[key]) for key in keys])
                    for key in keys:
                        temporary[key].replace(files[key])
            finally:
                for path in temporary.values():
                    path.unlink(missing_ok=True)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that do not exist are passed over."""
        for key in keys:
            with self._faults("delete", key), suppress(FileNotFoundError):
                self._fs.rm_file(self._path(key))

    def holds(self, key: str, known: Object, path: Path) -> bool:
        """Return whether an object has the content of a local file, without downloading it where the remote has hashes.

        Args:
            key: Path of the object.
            known: The object as listed.
            path: Local file.
        """
        if path.stat().st_size != known.size:
            return False
        if known.md5:
            return _md5(path) == known.md5
        if "-" in known.tag and _etag_parts(known.tag):
            return known.tag in _multipart_tags(path, known)
        if not self._reads_fast:
            return False
        return self.read(key) == path.read_bytes()

    @cached_property
    def _reads_fast(self) -> bool:
        return self._is_local or type(self._fs).__name__ == "MemoryFileSystem"

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}"

    def _key(self, path: str) -> str:
        return path.removeprefix(self._base).lstrip("/")

    @contextmanager
    def _faults(self, act: str, key: str = "") -> Iterator[None]:
        """Raise whatever a file system raises as an error in words."""
        try:
            yield
        except GatemaskError:
            raise
        except Exception as error:
            fault = storage_error(error)
            if fault is not None and (self.__dict__.get("_is_local") or act == "read"):
                raise fault from error
            raise RemoteError(
                f"The remote did not {act} a file." if key else "The remote cannot be opened.",
                where=f"{self.url}/{key}" if key else self.url,
                received=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                do="Check the network and the credentials, then run the same command again: what was finished is kept.",
            ) from error


def is_hidden(parts: Sequence[str]) -> bool:
    """Return whether a path below a folder has a part that starts with a dot: locks, caches, temporary files."""
    return any(part.startswith(".") for part in parts)


def _object(info: Mapping[str, Any]) -> Object:
    modified = next((info[name] for name in ("LastModified", "updated", "mtime", "created") if info.get(name)), 0)
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
    tag = next((str(info[name]) for name in ("ETag", "etag", "generation") if info.get(name)), None)
    size, tag = int(info["size"]), (tag or f"{seconds}").strip('"')
    md5 = base64.b64decode(info["md5Hash"]).hex() if info.get("md5Hash") else ""
    if "ETag" in info and len(tag) == 32:  # of an object that was written in one part
        md5 = tag
    return Object(size, tag, round(seconds * 1e9), md5)


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), AT_ONCE):
        yield keys[start : start + AT_ONCE]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _etag_parts(tag: str) -> int:
    digits = tag.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _multipart_tags(path: Path, known: Object) -> Iterator[str]:
    """Yield the ETags that S3 gives to this file, by the size of its parts."""
    parts = _etag_parts(known.tag)
    for size in PART_SIZES:
        if math.ceil(known.size / size) != parts:
            continue
        digests = b""
        with path.open("rb") as file:
            while chunk := file.read(size):
                digests += hashlib.md5(chunk).digest()
        yield f"{hashlib.md5(digests).hexdigest()}-{parts}"


def _link_new(path: Path, content: bytes) -> bool:
    """Create a file with its content, unless it exists: the name is given by a link, which never replaces a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _is_refused_condition(error: Exception) -> bool:
    """Return whether S3 or Google Cloud Storage refused a write because the object exists."""
    text = f"{type(error).__name__} {error}"
    return any(word in text for word in ("PreconditionFailed", "ConditionalRequestConflict", " 412", "conditionNotMet"))
