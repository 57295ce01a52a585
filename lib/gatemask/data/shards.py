"""Examples in the shards of the records: found when a training starts, read when they are needed.

Memory stays flat however many images there are; what was read before comes from the system's cache of the disk.
"""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gatemask.data import tfrecord
from gatemask.data.example import Example
from gatemask.data.tfrecord import Span
from gatemask.errors import GatemaskError
from gatemask.masks.tiling import Origin
from gatemask.storage import storage_errors


class Identity(NamedTuple):
    """What identifies the state of a file; fields as in `os.stat_result`."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, file: int) -> Identity:
        """Return the identity of an open file."""
        stat = os.fstat(file)
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class Shard:
    """A file of records, kept open: files that replace it do not change what a running training reads.

    It can be sent to another process, which opens the same file while this one has it open.

    Args:
        path: TFRecord file.

    Attributes:
        content_hash: SHA-256 of the file, once `examples` has read it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content_hash = ""
        with storage_errors(path):
            self._keep(_open(path))

    def _keep(self, file: int) -> None:
        self._file = file
        weakref.finalize(self, os.close, file)

    def __reduce__(self) -> tuple[object, ...]:
        return _open_same, (self.path, self.content_hash, os.getpid(), self._file, Identity.of(self._file))

    def examples(self, expected_hash: str | None) -> Iterator[StoredExample]:
        """Yield the examples of the file, whose contents are read once and not kept.

        Args:
            expected_hash: SHA-256 of the file that was written; None if it is unknown.

        Raises:
            GatemaskError: The file is cut short, or not the one that was written.
        """
        content = self.read(Span(0, os.fstat(self._file).st_size))
        self.content_hash = hashlib.sha256(content).hexdigest()
        if expected_hash not in (None, self.content_hash):
            raise damaged(self.path, f"{len(content)} bytes with another hash", "the file with the hash in index.json")
        try:
            for frame in tfrecord.frames(content):
                yield self._example(content, frame)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise damaged(self.path, str(error) or type(error).__name__, "records of gatemask") from None

    def read(self, span: Span) -> bytes:
        """Return a range of the file.

        Raises:
            GatemaskError: The disk fails, or the file became shorter.
        """
        with storage_errors(self.path):
            data = os.pread(self._file, span.stop - span.start, span.start)
            while len(data) < span.stop - span.start:  # one call reads 2 GB at most
                more = os.pread(self._file, span.stop - span.start - len(data), span.start + len(data))
                if not more:
                    raise damaged(self.path, f"its end before byte {span.stop}", "the file that was open")
                data += more
        return data

    def _example(self, content: bytes, frame: Span) -> StoredExample:
        features = tfrecord.parse(content, frame)
        image_id, image, mask = (features[name] for name in ("image_id", "image", "mask"))
        label, origin = features["label"], features.get("origin")
        if not (isinstance(image_id, Span) and isinstance(image, Span) and isinstance(mask, Span)):
            raise TypeError("image_id, image and mask must be bytes")
        if isinstance(label, Span) or isinstance(origin, Span):
            raise TypeError("label and origin must be integers")
        name = content[image_id.start : image_id.stop].decode()
        return StoredExample(self, name, image, mask, label[0], None if origin is None else Origin(*origin))


class StoredExample:
    """An example in a shard. `image` and `mask` read the file.

    Args:
        shard: Its file.
        image_id: Id of the image.
        image: Position of the image's bytes.
        mask: Position of the mask's bytes.
        label: Label, as in `Example`.
        origin: Position of a tile, as in `Example`.
    """

    __slots__ = ("_image", "_mask", "_shard", "image_id", "label", "origin")

    def __init__(self, shard: Shard, image_id: str, image: Span, mask: Span, label: int, origin: Origin | None) -> None:
        self._shard, self._image, self._mask = shard, image, mask
        self.image_id, self.label, self.origin = image_id, label, origin

    def __reduce__(self) -> tuple[object, ...]:
        return StoredExample, (self._shard, self.image_id, self._image, self._mask, self.label, self.origin)

    @property
    def image(self) -> bytes:
        return self._shard.read(self._image)

    @property
    def mask(self) -> bytes:
        return self._shard.read(self._mask)

    @property
    def key(self) -> object:
        """What identifies image and mask by their contents."""
        return self._shard.content_hash, self._image.start

    def load(self) -> Example:
        """Return the example with its bytes."""
        return Example(self.image_id, self.image, self.mask, self.label, self.origin)


def damaged(shard: Path, received: str, expected: str) -> GatemaskError:
    """Return the error for a shard that does not hold what was written."""
    return GatemaskError(
        "A shard of the records is damaged.",
        where=shard,
        received=received,
        expected=expected,
        do="Run gatemask records make: damaged shards are made again, all others are kept.",
    )


def _open_same(path: Path, content_hash: str, process: int, number: int, identity: Identity) -> Shard:
    """Return the shard that another process has open.

    Args:
        path: TFRecord file.
        content_hash: SHA-256 of the file.
        process: Id of that process.
        number: File descriptor in that process. Through it, the file is found even if another one has its path now.
        identity: Identity of the file.

    Raises:
        GatemaskError: The file was replaced, changed or removed.
    """
    for place in (Path(f"/proc/{process}/fd/{number}"), path):
        with suppress(OSError):
            file = _open(place)
            if Identity.of(file) == identity:
                shard = Shard.__new__(Shard)
                shard.path, shard.content_hash = path, content_hash
                shard._keep(file)
                return shard
            os.close(file)
    raise GatemaskError(
        "A shard of the records was replaced while it was in use.",
        where=path,
        received="another file, or none",
        expected=f"the file of {identity.size} bytes that was opened when the training started",
        do="Run the same command again: the training resumes from its last state.",
    )


def _open(path: Path) -> int:
    """Open a file for reading; if too many are open, raise this process's limit as far as the system allows."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if error.errno != errno.EMFILE or soft == hard:
            raise
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
