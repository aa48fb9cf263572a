"""Embeddings from elsewhere: what comes in is what is there, or a sentence and no folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgclust.embedding.store import read_embeddings
from imgclust.errors import EmbeddingsError
from imgclust.exporting import vectors
from imgclust.exporting.vectors import identity_named, import_vectors, npy_pieces, parquet_pieces

ROWS = [[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]]
UNIT = np.array([[0.6, 0.8], [0, 1], [-1, 0]])
KINDS = (pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 2), pa.list_(pa.int32()))


def written(file: Path, kind: pa.DataType = KINDS[0], rows: Any = ROWS, **columns: Any) -> Path:
    columns = {"name": list("abcdefg"[: len(rows)]), **columns}
    if pa.types.is_float16(kind.value_type):
        rows = [[np.float16(number) for number in row] for row in rows]
    elif pa.types.is_integer(kind.value_type):
        rows = [[int(number) for number in row] for row in rows]
    pq.write_table(pa.table({"v": pa.array(rows, kind), **columns}), file)
    return file


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_parquet(tmp_path: Path, kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any list of numbers, in several pieces; rows come to unit length, other columns become attributes."""
    monkeypatch.setattr(vectors, "PIECE", 2)
    file = written(
        tmp_path / "f.parquet", kind, path=["x/a.png", None, "https://example.com/c"],
        user=[1, None, 3], lang=["de", "fr", None], ratio=[0.5, float("nan"), 1.0], tags=[["t"], [], None],
    )  # fmt: skip
    assert import_vectors(parquet_pieces(file, "name", "v", "path"), tmp_path / "e", "acme") == 3
    found = read_embeddings(tmp_path / "e")
    assert found.ids == ["a", "b", "c"]
    assert found.sources == [str(tmp_path / "x/a.png"), "", "https://example.com/c"]
    np.testing.assert_allclose(found.vectors, UNIT, atol=1e-3)
    assert found.attributes == [
        {"user": 1, "lang": "de", "ratio": 0.5},
        {"lang": "fr"},
        {"user": 3, "ratio": 1.0},
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e", "f.parquet"]


def test_npy(tmp_path: Path) -> None:
    """Ids from a file, or row numbers."""
    np.save(tmp_path / "v.npy", np.array(ROWS))
    (tmp_path / "ids.txt").write_text("a\nb\nc\n")
    import_vectors(npy_pieces(tmp_path / "v.npy", tmp_path / "ids.txt"), tmp_path / "e", "acme")
    assert read_embeddings(tmp_path / "e").ids == ["a", "b", "c"]
    import_vectors(npy_pieces(tmp_path / "v.npy"), tmp_path / "f", "acme")
    assert read_embeddings(tmp_path / "f").ids == ["0", "1", "2"]
    np.testing.assert_allclose(read_embeddings(tmp_path / "f").vectors, UNIT, atol=1e-3)


def test_identity() -> None:
    """The name and the width are all that is compared."""
    assert identity_named("acme", 2).same_space(identity_named("acme", 2))
    assert not identity_named("acme", 2).same_space(identity_named("acme-v2", 2))
    assert not identity_named("acme", 2).same_space(identity_named("acme", 3))
    for name in ("", " ", "a\nb"):
        with pytest.raises(EmbeddingsError, match="an encoder's name is printable text"):
            identity_named(name, 2)


@pytest.mark.parametrize(
    ("rows", "ids", "message"),
    [
        ([[1, 0], [0, 0]], ["a", "b"], r"row 2 \(id 'b'\) is zero or not finite"),
        ([[1, 0], [1, float("nan")]], ["a", "b"], r"row 2 \(id 'b'\) is zero or not finite"),
        ([[1, 0], [1, None]], ["a", "b"], r"row 2 \(id 'b'\) is zero or not finite"),
        ([[1, 0], [1, 0, 0]], ["a", "b"], r"row 2 has 3 numbers in 'v', row 1 has 2"),
        ([[1, 0], None], ["a", "b"], r"row 2 has 0 numbers in 'v', row 1 has 2"),
        ([[1, 0], [0, 1]], ["a", "a"], r"row 2: the id 'a' comes twice"),
        ([[1, 0], [0, 1]], ["a", None], r"row 2: the id '' is empty"),
        ([], [], r"no rows"),
    ],
)
@pytest.mark.parametrize("piece", [1, 10])
def test_rows_that_cannot_be_used(
    rows: Any,
    ids: list[str | None],
    message: str,
    piece: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Named by their row, wherever the pieces end; no folder is left behind."""
    monkeypatch.setattr(vectors, "PIECE", piece)
    monkeypatch.setattr(vectors, "FLUSH_ROWS", 1)
    table = pa.table({"v": pa.array(rows, pa.list_(pa.float64())), "name": pa.array(ids, pa.string())})
    pq.write_table(table, tmp_path / "f.parquet")
    if piece == 1 and "numbers" in message:
        message = r"row 2 has \d numbers"
    with pytest.raises(EmbeddingsError, match=message):
        import_vectors(parquet_pieces(tmp_path / "f.parquet", "name", "v"), tmp_path / "e", "acme")
    assert [p.name for p in tmp_path.iterdir()] == ["f.parquet"]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    file = written(tmp_path / "f.parquet")
    for id_, vector, message in (
        ("nobody", "v", r"no column 'nobody'; it has 'v', 'name'"),
        ("name", "name", r"'name' must hold lists of numbers, it has string"),
    ):
        with pytest.raises(EmbeddingsError, match=message):
            next(parquet_pieces(file, id_, vector))
    (tmp_path / "bad").write_bytes(b"bad")
    for pieces in (parquet_pieces(tmp_path / "bad", "a", "b"), npy_pieces(tmp_path / "bad")):
        with pytest.raises(EmbeddingsError, match="cannot be imported"):
            next(pieces)
    np.save(tmp_path / "flat.npy", np.ones(3))
    with pytest.raises(EmbeddingsError, match=r"must hold numbers \(rows, width\), it has float64 \(3,\)"):
        next(npy_pieces(tmp_path / "flat.npy"))
    np.save(tmp_path / "two.npy", np.ones((2, 2)))
    (tmp_path / "ids").write_text("a\n")
    with pytest.raises(EmbeddingsError, match="has 1 ids"):
        next(npy_pieces(tmp_path / "two.npy", tmp_path / "ids"))


def test_a_folder_that_holds_something(tmp_path: Path) -> None:
    """What is there is not touched; an empty folder is filled."""
    file = written(tmp_path / "f.parquet")
    (tmp_path / "e").mkdir()
    assert import_vectors(parquet_pieces(file, "name", "v"), tmp_path / "e", "acme") == 3
    with pytest.raises(EmbeddingsError, match="already exists: import into a new folder"):
        import_vectors(parquet_pieces(file, "name", "v"), tmp_path / "e", "acme")
    assert len(read_embeddings(tmp_path / "e")) == 3
