"""CSV files as people publish them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatemask.data.tables import read_table
from gatemask.errors import GatemaskError


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"id,mask\na,1 2\n", [["a", "1 2"]]),
        (b"\xef\xbb\xbfid, mask\r\n a , 1 2 \r\n", [["a", "1 2"]]),
        (b"id,mask\n\n,\na,\n", [["a", ""]]),
        (b'id,mask\n"a,b","1 2"\n', [["a,b", "1 2"]]),
    ],
    ids=["plain", "BOM, CRLF, blanks", "blank lines", "quotes"],
)
def test_tables_with_common_quirks(tmp_path: Path, content: bytes, rows: list[list[str]]) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    table = read_table(tmp_path / "t.csv", ["id", "mask"])
    assert table.header == ["id", "mask"]
    assert table.rows == rows


def test_without_a_header_columns_have_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,1 2\nb,-1\n")
    table = read_table(tmp_path / "t.csv", [0, 1], header=False)
    assert table.column(0) == ["a", "b"]
    assert table.where(1).endswith("row 2")


def test_a_cell_may_exceed_the_limit_of_csv(tmp_path: Path) -> None:
    long = " ".join("7 1" for _ in range(60_000))
    (tmp_path / "t.csv").write_text(f"id,mask\na,{long}\n")
    assert read_table(tmp_path / "t.csv").column("mask") == [long]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"id,mask\na\n", r"another number of cells[\s\S]*row 2[\s\S]*cut short"),
        (b"id,mask\na,1,2\n", "another number of cells"),
        (b"id;mask\na;1\n", r"lacks the column 'id'[\s\S]*id;mask"),
        (b"Id,mask\na,1\n", "Did you mean 'Id'"),
        (b"id,id,mask\na,b,1\n", "'id' is repeated"),
        ("id,mask\nä,1\n".encode("latin-1"), "cannot be read"),
        (b'id,mask\n"a,1\n', "cannot be read"),
        (b"id,mask\na\0,1\n", r"cannot be read[\s\S]*row 2 holds bytes that are not text"),
        (b"PK\3\4" + bytes(50), "bytes that are not text"),
    ],
)
def test_malformed_tables_are_rejected(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(GatemaskError, match=words):
        read_table(tmp_path / "t.csv", ["id", "mask"])


def test_a_repeated_column_is_rejected_however_it_was_found(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,mask,mask,,\na,1 2,3 4,x,y\n")
    table = read_table(tmp_path / "t.csv")
    assert table.column("id") == ["a"], "others may be repeated, such as blank names"
    assert table.column(2) == ["3 4"]
    with pytest.raises(GatemaskError, match="The column 'mask' is repeated"):
        table.column("mask")
