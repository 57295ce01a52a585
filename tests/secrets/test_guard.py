"""Every byte that leaves is searched: at any position, in archives of archives, in the usual encodings."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gatemask.errors import GatemaskError
from gatemask.secrets import archives, guard, search
from gatemask.secrets.guard import refuse_secrets, refuse_secrets_in
from gatemask.secrets.search import PatternSearch

SECRET = "vT9-plantedQ4x7mZ"


@pytest.fixture(autouse=True)
def one_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "known_secrets", lambda root: {SECRET: "DB_PASS", "another-0123456789": "OTHER"})


def refused(data: bytes | Path, name: str = "file") -> GatemaskError:
    with pytest.raises(GatemaskError, match="A secret would be uploaded") as error:
        refuse_secrets({"harmless": b"nothing here", name: data}, Path())
    assert SECRET not in str(error.value)
    assert error.value.details["received"] == "the value of DB_PASS"
    return error.value


def zipped(data: bytes, name: str = "a/b.py", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("first.txt", "harmless")
        archive.writestr(name, data)
    return file.getvalue()


def tarred(data: bytes, mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in (("first.txt", b"harmless"), ("a/b.py", data)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: data,
    "zip": zipped,
    "stored zip": lambda data: zipped(data, method=zipfile.ZIP_STORED),
    "bzip2 in zip": lambda data: zipped(data, method=zipfile.ZIP_BZIP2),
    "zip after a script": lambda data: b"#!/bin/sh\n" * 99 + zipped(data),
    "gz": gzip.compress,
    "two gz": lambda data: gzip.compress(b"harmless") + gzip.compress(data),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "tar": lambda data: tarred(data, "w"),
    "tar.gz": lambda data: tarred(data, "w:gz"),
    "tar.bz2": lambda data: tarred(data, "w:bz2"),
    "tar.xz": lambda data: tarred(data, "w:xz"),
    "wheel in tar.gz in zip": lambda data: zipped(tarred(zipped(data), "w:gz")),
}
CONTENT = b"import os\n" * 999 + f'KEY = "{SECRET}"\n'.encode() + b"print()\n" * 999


@pytest.mark.parametrize("packer", PACKERS)
def test_archives(packer: str, tmp_path: Path) -> None:
    data = PACKERS[packer](CONTENT)
    where = str(refused(data, "x.bin").details["where"])
    assert where.startswith("x.bin")
    assert ("b.py" in where) == ("zip" in packer or "tar" in packer)
    (tmp_path / "file").write_bytes(data)
    refused(tmp_path / "file")
    refuse_secrets({"file": PACKERS[packer](CONTENT.replace(SECRET.encode(), b"harmless"))}, Path())


def test_large_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "IN_MEMORY", 1000)
    refused(zipped(CONTENT))


ENCODED: dict[str, bytes] = {
    "utf-16": SECRET.encode("utf-16"),
    "base64": base64.b64encode(SECRET.encode()),
    "base64, second position": base64.b64encode(b"u" + SECRET.encode() + b"x"),
    "base64, third position": base64.b64encode(b"me" + SECRET.encode() + b"xyz"),
    "url-safe base64": base64.urlsafe_b64encode(b"??>" + SECRET.encode()),
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_encodings(encoding: str) -> None:
    refused(b"before " + ENCODED[encoding] + b" after")


def test_secrets_with_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "known_secrets", lambda root: {'p@ss"w/0rd-ü': "DB_PASS"})
    for text in ("p%40ss%22w%2F0rd-%C3%BC", 'p@ss\\"w/0rd-\\u00fc', 'p@ss"w/0rd-ü'):
        refused(text.encode())


def test_names_of_files() -> None:
    refused(b"harmless", f"{SECRET}.txt")
    refused(zipped(b"harmless", name=f"{SECRET}.txt"))


@pytest.mark.parametrize("block", [1, 16, 17, 18, 1000])
def test_any_position_in_any_block(block: int) -> None:
    """Patterns and their surroundings are random bytes, so words that look like the pattern's occur too."""
    rng = np.random.default_rng(0)
    patterns = {rng.bytes(8).hex(): f"{n}" for n in range(20)}
    finder = PatternSearch(patterns)
    for position in range(40):
        noise = rng.bytes(100)
        assert finder.find([noise]) is None
        pattern = list(patterns)[position % 20]
        data = noise[:position] + pattern.encode() + noise[position:]
        blocks = [data[start : start + block] for start in range(0, len(data), block)]
        assert finder.find(blocks) == patterns[pattern]
        cut = data.replace(pattern.encode(), pattern[:-1].encode())
        assert finder.find([cut]) is None


def test_the_last_bytes_of_a_file_count() -> None:
    refused(b"x" * (search.BLOCK - 3) + SECRET.encode())
    refused(SECRET.encode())
    refuse_secrets({"file": SECRET[:-1].encode()}, Path())
    refuse_secrets({"empty": b""}, Path())


def encrypted(data: bytes) -> bytes:
    locked = bytearray(zipped(data))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := locked.find(signature, start + 1)) >= 0:
            locked[start + offset] |= 1
    return bytes(locked)


UNREADABLE: dict[str, bytes] = {
    "truncated gz": gzip.compress(CONTENT * 99)[:-40],
    "damaged gz": b"\x1f\x8b\x08" + b"\xff" * 100,
    "encrypted zip": encrypted(b"harmless"),
    "7z": b"7z\xbc\xaf\x27\x1c" + b"0" * 100,
    "rar": b"Rar!\x1a\x07\x01" + b"0" * 100,
    "zstd": b"\x28\xb5\x2f\xfd" + b"0" * 100,
    "truncated xz": lzma.compress(b"harmless" * 99)[:-20],
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_searched_does_not_leave(kind: str) -> None:
    for data in (UNREADABLE[kind], zipped(UNREADABLE[kind])):
        with pytest.raises(GatemaskError, match="cannot be searched"):
            refuse_secrets({"file": data}, Path())


def test_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST", 1 << 20)
    with pytest.raises(GatemaskError, match="when unpacked"):
        refuse_secrets({"file": gzip.compress(b"0" * (2 << 20))}, Path())
    data = b"harmless"
    for _ in range(archives.DEEPEST + 1):
        data = gzip.compress(data)
    with pytest.raises(GatemaskError, match="archives in each other"):
        refuse_secrets({"file": data}, Path())


def test_folders(tmp_path: Path) -> None:
    for name in ("dataset", "kernel"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "same.txt").write_text("harmless")
    refuse_secrets_in([tmp_path / "dataset", tmp_path / "kernel"], tmp_path)
    (tmp_path / "elsewhere").write_text(SECRET)
    (tmp_path / "dataset/inner/link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GatemaskError, match=r"dataset/inner/link"):
        refuse_secrets_in([tmp_path / "dataset", tmp_path / "kernel"], tmp_path)
