"""Hostile, damaged and nested zips: rejected before anything is written, or unpacked completely."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gatemask.errors import GatemaskError
from gatemask.kaggle.download import unpack as module
from gatemask.kaggle.download.unpack import DamagedFileError, unpack_zip


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], packed: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, content in members:
            archive.writestr(name, content, packed)
    return buffer.getvalue()


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (mode | 0o644) << 16
    return info


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Callable[[bytes], dict[str, bytes]]:
    def go(content: bytes) -> dict[str, bytes]:
        (tmp_path / "comp.zip").write_bytes(content)
        unpack_zip(tmp_path / "comp.zip", tmp_path / "out")
        return files(tmp_path / "out")

    return go


Run = Callable[[bytes], dict[str, bytes]]

HOSTILE: list[tuple[str, list[tuple[str | zipfile.ZipInfo, bytes]]]] = [
    ("absolute path", [("/etc/evil", b"x")]),
    ("out of the folder", [("a/../../evil", b"x")]),
    ("drive letter", [("C:evil", b"x")]),
    ("backslash", [("..\\evil", b"x")]),
    ("control character", [("a\nb", b"x")]),
    ("symbolic link", [(special("link", stat.S_IFLNK), b"/etc")]),
    ("special file", [(special("disk", stat.S_IFBLK), b"")]),
    ("special file", [(special("pipe", stat.S_IFIFO), b"")]),
    ("path of another member", [("Train/a.png", b"1"), ("train/A.PNG", b"2")]),
    ("path of another member", [("a/b", b"1"), ("a", b"2")]),
    ("path of another member", [("A", b"1"), ("a/b", b"2")]),
    ("path of another member", [("stra\u00dfe", b"1"), ("STRASSE", b"2")]),
]
NAMES = [str(getattr(members[-1][0], "filename", members[-1][0])) for _, members in HOSTILE]


@pytest.mark.parametrize(("reason", "members"), HOSTILE, ids=NAMES)
def test_a_hostile_member_is_named_and_nothing_is_written(reason: str, members: list, run: Run, tmp_path: Path) -> None:
    with pytest.raises(GatemaskError, match=reason) as caught:
        run(zipped(("good.csv", b"1"), *members))
    assert repr(getattr(members[-1][0], "filename", members[-1][0])) in str(caught.value)
    assert not isinstance(caught.value, DamagedFileError)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["comp.zip"]


@pytest.mark.parametrize(("reason", "members"), HOSTILE, ids=NAMES)
def test_a_zip_inside_is_checked_in_the_same_way(reason: str, members: list, run: Run, tmp_path: Path) -> None:
    with pytest.raises(GatemaskError, match=f"(?s)train.zip: .*{reason}"):
        run(zipped(("train.zip", zipped(*members)), ("good.csv", b"1")))
    assert set(files(tmp_path / "out")) == {"good.csv", "train.zip"}  # a temporary folder that the caller removes


def test_a_name_truncated_by_a_nul_is_rejected(run: Run) -> None:
    with pytest.raises(GatemaskError, match="control character"):
        run(zipped(("good.csvXevil", b"x")).replace(b"good.csvX", b"good.csv\0"))


def test_an_encrypted_member_is_rejected_and_an_encrypted_zip_inside_is_kept(run: Run) -> None:
    locked = bytearray(zipped(("secret", b"x" * 50)))
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(GatemaskError, match="password"):
        run(bytes(locked))
    assert set(run(zipped(("old.zip", bytes(locked)), ("a.csv", b"1")))) == {"old.zip", "a.csv"}


def test_zips_inside_are_unpacked_beside_or_in_a_folder_of_their_name(run: Run) -> None:
    inner = zipped(("deep.zip", zipped(("x", b"x"))), ("b.png", b"b"))
    unpacked = run(
        zipped(
            ("data/train.zip", zipped(("train/a.png", b"a"), ("train/sub/", b""), ("train/sub/c", b"c"))),
            ("data/test.ZIP", inner),
            ("labels.csv.zip", zipped(("labels.csv", b"id"))),
            ("__MACOSX/._train.zip", b"not a zip"),
            ("empty.zip", zipped()),
        )
    )
    deep = unpacked.pop("data/test/deep.zip")  # only one level is unpacked
    assert zipfile.ZipFile(io.BytesIO(deep)).namelist() == ["x"]
    assert unpacked == {
        "data/train/a.png": b"a",
        "data/train/sub/c": b"c",
        "data/test/b.png": b"b",
        "labels.csv": b"id",
        "__MACOSX/._train.zip": b"not a zip",
    }


def test_a_zip_inside_may_not_replace_a_file_beside_it(run: Run) -> None:
    with pytest.raises(GatemaskError, match="path of another member"):
        run(zipped(("train/A.png", b"1"), ("train.zip", zipped(("train/a.png", b"2")))))


def test_harmless_oddities_are_accepted(run: Run) -> None:
    dots = run(zipped(("./a.csv", b"1"), ("sub/", b""), ("sub//b..c", b"2"), ("\u00fc x.csv", b"")))
    assert dots == {"a.csv": b"1", "sub/b..c": b"2", "\u00fc x.csv": b""}


def test_an_archive_that_declares_too_much_is_rejected(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = zipped(("zeros", bytes(5_000_000)))
    assert len(content) < 10_000
    monkeypatch.setattr(module, "MAX_BYTES", 4_000_000)
    with pytest.raises(GatemaskError, match="the limit is"):
        run(content)
    assert not (tmp_path / "out").exists()


def test_a_member_never_grows_past_its_declared_size(run: Run, tmp_path: Path) -> None:
    content = bytearray(zipped(("zeros", bytes(5_000_000))))
    central = content.index(b"PK\x01\x02")
    assert struct.unpack_from("<I", content, central + 24) == (5_000_000,)
    struct.pack_into("<I", content, central + 24, 1000)
    with pytest.raises(DamagedFileError, match="CRC"):
        run(bytes(content))
    assert (tmp_path / "out/zeros").stat().st_size <= 1000


def test_a_member_shorter_than_declared_is_damaged(run: Run) -> None:
    content = bytearray(zipped(("a", b"abc"), packed=zipfile.ZIP_STORED))
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 2000)
    with pytest.raises(DamagedFileError, match="'a'"):
        run(bytes(content))


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_changed_bytes_are_detected(packed: int, run: Run) -> None:
    content = bytearray(zipped(("some/name.csv", bytes(range(256)) * 20), packed=packed))
    for position in range(70, 110):
        content[position] ^= 0xFF
    with pytest.raises(DamagedFileError, match=r"name\.csv"):
        run(bytes(content))


def test_half_a_zip_does_not_open(run: Run) -> None:
    content = zipped(("a", b"1" * 9), ("b", b"2" * 9))
    with pytest.raises(DamagedFileError, match="cannot be opened"):
        run(content[: len(content) // 2])


def test_a_full_disk_is_reported_before_anything_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(GatemaskError, match=r"(?s)disk space.*1 MB free.*5 MB"):
        run(zipped(("zeros", bytes(5_000_000))))
    assert not (tmp_path / "out").exists()


def test_a_zip_inside_cannot_lead_out_by_its_own_name(run: Run, tmp_path: Path) -> None:
    unpacked = run(zipped(("...zip", zipped(("x", b"1"))), ("a.csv", b"2")))
    assert sorted(unpacked) == ["...zip", "a.csv"]
    assert not list(tmp_path.rglob("x"))
