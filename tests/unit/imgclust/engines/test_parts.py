"""A folder of parts: what is whole is there, is not made again, and is of one run."""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgclust.engines.parts import FAILED, MANIFEST, Parts, digest_of
from imgclust.errors import ImgclustError

SCHEMA = pa.schema([("id", pa.string()), ("source", pa.string()), ("n", pa.int32())])
WRITTEN = pa.schema([*SCHEMA, ("code", pa.string()), ("message", pa.string())])
MADE_BY = {"model": "abc"}


def batch(*numbers: int) -> pa.RecordBatch:
    """Every seventh has failed."""
    rows = [
        {"id": f"={n}", "source": f"{n}.png", "n": n, "code": "" if n % 7 else "not-found", "message": "gone"}
        for n in numbers
    ]
    return pa.RecordBatch.from_pylist(rows, schema=WRITTEN)


def write_all(folder: Path, parts: list[list[int]], made_by: dict[str, str] = MADE_BY) -> Parts:
    with Parts(folder, made_by) as out:
        for numbers in parts:
            given = [batch(*numbers)]
            if not out.is_done(digest_of(given)):
                for _ in out.write(digest_of(given), given, SCHEMA):
                    pass
        out.finish({"python": "3"})
    return out


def numbers_in(folder: Path) -> list[int]:
    return [n for path in sorted(folder.glob("part-*.parquet")) for n in pq.read_table(path)["n"].to_pylist()]


def test_rows_failures_and_manifest(tmp_path: Path) -> None:
    """Rows are in the parts, failures in one list, and the manifest says what made them."""
    parts = write_all(tmp_path, [[1, 2, 7], [14, 21], [3]])
    assert numbers_in(tmp_path) == [1, 2, 3]
    with (tmp_path / FAILED).open(newline="") as file:
        failures = list(csv.DictReader(file))
    assert [row["id"] for row in failures] == ["'=7", "'=14", "'=21"]
    assert {row["code"] for row in failures} == {"not-found"}
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest == {
        "made_by": MADE_BY, "complete": True, "parts": 3, "rows": 3, "failed": {"not-found": 3},
        "libraries": {"python": "3"},
    }  # fmt: skip
    assert (parts.rows, parts.present) == (3, 0)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    """Only a part whose images changed is; what is beyond the last one goes."""
    write_all(tmp_path, [[1, 2], [3, 4], [5, 7], [6]])
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("part-*.parquet")}
    parts = write_all(tmp_path, [[1, 2], [3, 8], [5, 7]])
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("part-*.parquet")}
    assert [name for name in after if after[name] == before[name]] == [
        name for name in after if "00001" not in name
    ]
    assert numbers_in(tmp_path) == [1, 2, 3, 8, 5]
    assert (parts.rows, parts.present, dict(parts.failed)) == (2, 3, {"not-found": 1})
    assert not list(tmp_path.glob("part-00003*"))


def test_a_part_that_was_interrupted_is_not_there(tmp_path: Path) -> None:
    """Neither file nor marker; the next run makes it, and nothing is left over."""

    def breaks() -> Iterator[pa.RecordBatch]:
        yield batch(3)
        raise RuntimeError("the cluster is gone")

    with Parts(tmp_path, MADE_BY) as out:
        assert not out.is_done("a")
        with pytest.raises(RuntimeError):
            list(out.write("a", breaks(), SCHEMA))
    assert not list(tmp_path.glob("part-*"))
    assert json.loads((tmp_path / MANIFEST).read_text())["complete"] is False
    write_all(tmp_path, [[3]])
    assert numbers_in(tmp_path) == [3]
    assert not list(tmp_path.glob(".part-*"))


def test_a_marker_without_its_rows_counts_for_nothing(tmp_path: Path) -> None:
    write_all(tmp_path, [[1], [2]])
    (tmp_path / "part-00001.parquet").unlink()
    write_all(tmp_path, [[1], [2]])
    assert numbers_in(tmp_path) == [1, 2]


def test_what_is_not_this_runs_is_refused(tmp_path: Path) -> None:
    """Another model's parts, strange files, a second process, a damaged marker."""
    write_all(tmp_path / "one", [[1]])
    with pytest.raises(ImgclustError, match=r"started with .*abc.*this run is with .*xyz.*another folder"):
        write_all(tmp_path / "one", [[1]], {"model": "xyz"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tags.parquet").touch()
    with pytest.raises(ImgclustError, match="holds other Parquet files"):
        write_all(tmp_path / "other", [[1]])
    with Parts(tmp_path / "one", MADE_BY), pytest.raises(ImgclustError, match="another process is writing"):
        Parts(tmp_path / "one", MADE_BY)
    (tmp_path / "one" / "part-00000.json").write_text("{")
    with pytest.raises(ImgclustError, match=r"part-00000\.json.* cannot be read"):
        write_all(tmp_path / "one", [[1]])


def test_a_full_disk_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    with pytest.raises(ImgclustError, match=r"cannot be written to '.*out': No space left on device"):
        write_all(tmp_path / "out", [[1]])


def test_the_digest_is_of_the_images_in_their_order() -> None:
    """However they are cut into batches."""
    once = digest_of([batch(1, 2), batch(3)])
    assert once != digest_of([batch(2, 1), batch(3)])
    assert once != digest_of([batch(1, 2)])
    assert once == digest_of([batch(1), batch(2, 3)])
