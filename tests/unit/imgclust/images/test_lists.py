"""`imgclust.images.lists`: one bad row costs one row."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import ImgclustError
from imgclust.images import lists
from imgclust.images.lists import csv_rows, parquet_rows
from imgclust.images.sources import items

ROWS = 300
BAD = 200


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"200,,x", "its 'url' is empty"),
        (b"200,  ,x", "its 'url' is empty"),
        (b"200", "its 'url' is empty"),
        (b"200,a.png," + b"y" * 140_000, "field larger than field limit"),
        (b'200,a.png,"x', "a quote is opened there"),
        (b'200,"a.png,x', "a quote is opened there"),
        (b'"200,a.png,x', "a quote is opened there"),
        (b"200,a.png,Jos\xe9", "its 'who' is not UTF-8"),
        (b"200,a.png,\xff\xfe\x00", "its 'who' is not UTF-8"),
    ],
)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_bad_row_of_a_csv_file_is_one_bad_row(
    tmp_path: Path, line: bytes, reason: str, newline: bytes, end: bytes
) -> None:
    """Whatever is wrong with it: all others are there, and it is listed with its number and the reason."""
    rows = [b"%d,a.png,x" % i for i in range(ROWS)]
    rows[BAD] = line
    (tmp_path / "l.csv").write_bytes(newline.join([b"id,url,who", *rows]) + end)
    found = list(items([tmp_path / "l.csv"]))
    assert [item.id for item in found if not item.problem] == [str(i) for i in range(ROWS) if i != BAD]
    (bad,) = (item for item in found if item.problem)
    assert bad.id == f"l.csv row {BAD + 1}"
    assert bad.problem.startswith(f"row {BAD + 1} of the list: {reason}")


def test_a_bad_last_row(tmp_path: Path) -> None:
    """A quote that stays open at the end of the file is seen too."""
    (tmp_path / "l.csv").write_text('url,who\na.png,x\nb.png,"y')
    assert [(i.id, bool(i.problem)) for i in items([tmp_path / "l.csv"])] == [
        ("a.png", False), ("l.csv row 2", True),
    ]  # fmt: skip


def test_an_open_quote_in_a_huge_file_takes_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading goes on with the next line as soon as the record is too long to be one."""
    monkeypatch.setattr(lists, "MAX_RECORD", 1000)
    rows = [f"{i}.png,x" for i in range(1000)]
    rows[1] = '1.png,"x'
    rows[500] = '500.png,y"'
    (tmp_path / "l.csv").write_text("\n".join(["url,who", *rows]))
    found = list(csv_rows(tmp_path / "l.csv"))
    assert [i for i, row in enumerate(found) if isinstance(row, str)] == [1]
    assert found[500] == {"url": "500.png", "who": 'y"'}


def test_what_lenient_readers_take_is_taken(tmp_path: Path) -> None:
    """Quotes within cells, cells over several lines, missing and additional cells, blank lines."""
    text = 'url,who\na.png,"Foo" Bar\nb.png,5" disk\n\nc.png,"two\nlines"\nd.png\ne.png,x,y\n'
    (tmp_path / "l.csv").write_text(text)
    assert list(csv_rows(tmp_path / "l.csv")) == [
        {"url": "a.png", "who": "Foo Bar"}, {"url": "b.png", "who": '5" disk'},
        {"url": "c.png", "who": "two\nlines"}, {"url": "d.png"}, {"url": "e.png", "who": "x"},
    ]  # fmt: skip


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\r\",'"), max_size=12)


@given(st.lists(st.tuples(CELLS.map(lambda s: s + "x"), CELLS)), st.sampled_from(["\n", "\r\n"]))
def test_what_a_csv_writer_writes_is_read(rows: list[tuple[str, str]], newline: str) -> None:
    """Whatever the cells hold."""
    file = io.StringIO()
    csv.writer(file, lineterminator=newline, quoting=csv.QUOTE_ALL).writerows([("url", "who"), *rows])
    records = lists._Records(io.StringIO(file.getvalue(), newline=""), ",")
    next(records)
    records.width = 2
    assert list(records) == [list(row) for row in rows]


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Nothing but our own error comes out."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"url\n" + data)
    for item in items([path]):
        assert item.problem or item.source
        item.id.encode()
    path.write_bytes(data)
    try:
        list(items([path]))
    except ImgclustError as error:
        assert str(error).isascii()


def test_excels_unicode_text(tmp_path: Path) -> None:
    """UTF-16 with its mark, as Excel writes TSV."""
    (tmp_path / "l.tsv").write_text("url\twho\na.png\tJosé\n", encoding="utf-16")
    assert list(csv_rows(tmp_path / "l.tsv")) == [{"url": "a.png", "who": "José"}]


def test_paths_that_are_not_utf8(tmp_path: Path) -> None:
    """A list may name them in their bytes, or as `imgclust predict` writes them."""
    (tmp_path / "l.csv").write_bytes(b"url\nM\xe4rz.png\nM\\udce4rz.png\n")
    first, second = items([tmp_path / "l.csv"])
    assert first.source == second.source == str(tmp_path / "M\udce4rz.png")
    assert first.id == second.id == "M\\udce4rz.png"


def test_bad_rows_of_a_parquet_file(tmp_path: Path) -> None:
    """No location, text that is not UTF-8, a damaged part: the others are there."""
    broken = pa.array([b"a", b"\xff", b"c"]).view(pa.binary()).cast(pa.string(), safe=False)
    table = pa.table({"url": ["1.png", "2.png", None], "who": broken})
    pq.write_table(table, tmp_path / "l.parquet")
    found = list(items([tmp_path / "l.parquet"]))
    assert [(item.id, bool(item.problem)) for item in found] == [
        ("1.png", False), ("l.parquet row 2", True), ("l.parquet row 3", True),
    ]  # fmt: skip
    big = pa.table({"url": [f"{i}.png" for i in range(300)]})
    pq.write_table(big, tmp_path / "m.parquet", row_group_size=100, compression=None, use_dictionary=False)
    at = pq.ParquetFile(tmp_path / "m.parquet").metadata.row_group(1).column(0).data_page_offset
    data = bytearray((tmp_path / "m.parquet").read_bytes())
    data[at : at + 40] = b"\xff" * 40
    (tmp_path / "m.parquet").write_bytes(data)
    rows = list(parquet_rows(tmp_path / "m.parquet"))
    assert sum(not isinstance(row, str) for row in rows) == 200
    (bad,) = (row for row in rows if isinstance(row, str))
    assert "100 rows cannot be read" in bad
