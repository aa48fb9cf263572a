"""The embeddings folder: what is written is read back, whole or not at all, and never of two encoders."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq
import pytest

from imgclust.embedding.store import (
    IDENTITY_KEY,
    EmbeddingsWriter,
    concat,
    iter_embeddings,
    read_embeddings,
    read_ids,
    shards,
    write_apart,
)
from imgclust.errors import EmbeddingsError
from imgclust.types import EncoderIdentity, Floats, Preprocessing

IDENTITY = EncoderIdentity("tiny", "tiny-net", "ab" * 32, Preprocessing(8, 8), "float32", 4, "MIT")


def rows(n: int) -> Floats:
    vectors = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def fill(writer: EmbeddingsWriter, vectors: Floats, first: int = 0) -> None:
    for i, vector in enumerate(vectors, first):
        writer.append(
            id=f"{i}.png", source=f"/pictures/{i}.png", embedding=vector, width=i + 1, height=2,
            sha256=f"{i:064x}", attributes={"category": "ä", "n": i, "good": True},
        )  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every column comes back as it went in, the embeddings bit for bit, over several shards."""
    vectors = rows(7)
    with EmbeddingsWriter(tmp_path, IDENTITY, shard_rows=3) as writer:
        fill(writer, vectors)
    assert len(shards(tmp_path)) == 3
    found = read_embeddings(tmp_path)
    assert len(found) == 7
    assert found.ids == [f"{i}.png" for i in range(7)]
    assert found.sources[6] == "/pictures/6.png"
    assert np.array_equal(found.vectors, vectors)
    assert found.vectors.dtype == np.float32
    assert found.widths.tolist() == list(range(1, 8))
    assert found.heights.tolist() == [2] * 7
    assert found.sha256[3] == f"{3:064x}"
    assert found.attributes[2] == {"category": "ä", "n": 2, "good": True}
    assert found.identity == IDENTITY
    assert read_ids(tmp_path) == set(found.ids)


def test_format(tmp_path: Path) -> None:
    """The shards are what others may rely on: column names, types, and the identity as JSON."""
    with EmbeddingsWriter(tmp_path, IDENTITY) as writer:
        fill(writer, rows(2))
    schema = pq.read_schema(shards(tmp_path)[0])
    assert {field.name: str(field.type) for field in schema} == {
        "id": "string",
        "source": "string",
        "embedding": "fixed_size_list<element: halffloat>[4]",
        "width": "int32",
        "height": "int32",
        "sha256": "string",
        "attributes": "string",
        "phash": "uint64",
    }
    assert json.loads(schema.metadata[IDENTITY_KEY])["weights"] == "ab" * 32


def test_shard_by_shard(tmp_path: Path) -> None:
    """Reading can stream; the parts joined are the whole."""
    with EmbeddingsWriter(tmp_path, IDENTITY, shard_rows=2) as writer:
        fill(writer, rows(5))
    parts = list(iter_embeddings(tmp_path))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert concat(parts).ids == read_embeddings(tmp_path).ids


def test_more_is_added_to_what_is_there(tmp_path: Path) -> None:
    """A second writer continues with new shards and leaves the old ones alone."""
    for first in (0, 2):
        with EmbeddingsWriter(tmp_path, IDENTITY) as writer:
            fill(writer, rows(2), first)
    assert read_embeddings(tmp_path).ids == ["0.png", "1.png", "2.png", "3.png"]


def test_a_shard_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves nothing; what a killed one leaves no reader sees, and the next writer clears
    it away."""

    def half(table: object, file: BinaryIO, **_: object) -> None:
        file.write(b"PAR1 half a shard")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", half)
        with pytest.raises(EmbeddingsError, match="No space left"), EmbeddingsWriter(tmp_path, IDENTITY) as w:
            fill(w, rows(2))
    assert list(tmp_path.glob("*embeddings*")) == []
    (tmp_path / ".embeddings-000000.parquet.123.part").write_bytes(b"PAR1 half a shard")
    assert shards(tmp_path) == []
    with EmbeddingsWriter(tmp_path, IDENTITY) as writer:
        fill(writer, rows(1))
    assert list(tmp_path.glob(".*.part")) == []
    assert len(read_embeddings(tmp_path)) == 1


def test_what_others_write_counts_once_it_is_adopted(tmp_path: Path) -> None:
    """In order, between the writer's own shards; what nobody adopted is removed by the next run."""
    with EmbeddingsWriter(tmp_path / "other", IDENTITY) as writer:
        fill(writer, rows(3), 1)
    table = pq.read_table(shards(tmp_path / "other")[0])
    with EmbeddingsWriter(tmp_path / "a", IDENTITY) as writer:
        fill(writer, rows(1))
        writer.flush()
        names = [write_apart(tmp_path / "a", table), write_apart(tmp_path / "a", table)]
        assert len(read_embeddings(tmp_path / "a")) == 1
        writer.adopt(names[0])
        fill(writer, rows(1), 4)
    assert read_embeddings(tmp_path / "a").ids == [f"{i}.png" for i in range(5)]
    assert (tmp_path / "a" / names[1]).exists()
    with EmbeddingsWriter(tmp_path / "a", IDENTITY) as writer:
        assert not (tmp_path / "a" / names[1]).exists()
        assert writer.next_shard == 3
        with pytest.raises(EmbeddingsError, match="storage that every machine sees"):
            writer.adopt(names[1])
    with pytest.raises(EmbeddingsError, match=r"cannot be written to .*nowhere"):
        write_apart(tmp_path / "nowhere", table)


def test_two_encoders_do_not_mix(tmp_path: Path) -> None:
    """A writer and a reader both refuse a second encoder, and say which two there are."""
    other = dataclasses.replace(IDENTITY, name="huge", weights="cd" * 32)
    with EmbeddingsWriter(tmp_path / "a", IDENTITY) as writer:
        fill(writer, rows(1))
    with pytest.raises(EmbeddingsError, match=r"tiny .*abab.*huge .*cdcd"):
        EmbeddingsWriter(tmp_path / "a", other)
    with EmbeddingsWriter(tmp_path / "b", other) as writer:
        fill(writer, rows(1))
    shards(tmp_path / "b")[0].rename(tmp_path / "a" / "embeddings-000009.parquet")
    with pytest.raises(EmbeddingsError, match="cannot be mixed"):
        read_embeddings(tmp_path / "a")


def test_name_and_licence_may_differ(tmp_path: Path) -> None:
    """The same weights under another name are the same space."""
    with EmbeddingsWriter(tmp_path, IDENTITY) as writer:
        fill(writer, rows(1))
    with EmbeddingsWriter(tmp_path, dataclasses.replace(IDENTITY, name="x@file", licence=None)) as writer:
        fill(writer, rows(1), 1)
    assert len(read_embeddings(tmp_path)) == 2


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """A second writer is refused while the first is at work, and welcome afterwards."""
    with EmbeddingsWriter(tmp_path, IDENTITY), pytest.raises(EmbeddingsError, match="another process"):
        EmbeddingsWriter(tmp_path, IDENTITY)
    with EmbeddingsWriter(tmp_path, IDENTITY) as writer:
        fill(writer, rows(1))


def test_unreadable_folders(tmp_path: Path) -> None:
    """Nothing there, or something else there: the error says how to get embeddings."""
    with pytest.raises(EmbeddingsError, match="imgclust embed"):
        read_embeddings(tmp_path)
    (tmp_path / "embeddings-000000.parquet").write_bytes(b"no Parquet")
    with pytest.raises(EmbeddingsError, match="not a shard"):
        read_embeddings(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddingsError, match="cannot be written"):
        EmbeddingsWriter(tmp_path / "file", IDENTITY)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """File names with bytes that are no UTF-8 are stored as text, and come back as they were."""
    with EmbeddingsWriter(tmp_path, IDENTITY) as writer:
        writer.append(id="a", source="/x/\udcff.png", embedding=rows(1)[0], width=1, height=1, sha256="")
    assert read_embeddings(tmp_path).sources == ["/x/\udcff.png"]
    (shard,) = shards(tmp_path)
    assert pq.read_table(shard)["source"].to_pylist() == ["/x/\\udcff.png"]
