"""Duplicates in a folder are those that are found in memory, and only what is compared is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from imgclust.embedding import store_columns
from imgclust.embedding.store import EmbeddingsWriter, read_embeddings, shards
from imgclust.errors import EmbeddingsError
from imgclust.training import stored_duplicates
from imgclust.training.dedupe import find_duplicates
from imgclust.training.stored_duplicates import find_stored_duplicates
from tests.support.fitted import ENCODER, grouped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images in shards of 37: equal files, near copies, other pictures with the same middle; one shard is
    from before hashes were kept."""
    folder = tmp_path_factory.mktemp("embeddings")
    rng = np.random.default_rng(0)
    rows = np.repeat(grouped()[0][:40], 3, axis=0)
    rows[1::3] += rng.normal(size=rows[1::3].shape) * 0.01
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = rng.permutation(len(rows))
    with EmbeddingsWriter(folder, ENCODER, shard_rows=37) as writer:
        for i in order.tolist():
            whole = (i // 3 + 1) * 0x1111_1111 + (i % 3 == 2) * (2**64 - 2**40)
            writer.append(
                id=f"{i}.png", source=f"/p/{i}.png", embedding=rows[i], width=1, height=1,
                sha256=f"{i - i % 3 % 2:064x}", phash=whole,
            )  # fmt: skip
    first = shards(folder)[0]
    pq.write_table(pq.read_table(first).drop_columns("phash"), first)
    return folder


@pytest.mark.parametrize("threshold", [0.5, 0.98, 2.0])
def test_as_in_memory(folder: Path, threshold: float) -> None:
    whole = read_embeddings(folder)
    expected = find_duplicates(whole.vectors, whole.sha256, hashes=whole.hashes, threshold=threshold)
    stored = find_stored_duplicates(folder, threshold)
    for name in ("kept", "duplicate", "original", "cosine", "exact"):
        assert getattr(stored.found, name).tolist() == getattr(expected, name).tolist()
    assert len(expected)
    assert stored.hashes.tolist() == whole.hashes.tolist()
    shown = {*expected.duplicate.tolist(), *expected.original.tolist()}
    assert stored.images == {row: (whole.ids[row], whole.sources[row]) for row in shown}


def test_equal_files_are_found_without_embeddings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_duplicates, "iter_vectors", lambda *_: pytest.fail("they were read"))
    assert find_stored_duplicates(folder, 2.0).found.exact.all()


def test_memory_is_asked_for_before_anything_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what needs less is named, and goes."""
    monkeypatch.setattr(store_columns, "available_memory", lambda: 120 * 400)
    assert len(find_stored_duplicates(folder, 2.0).found)
    monkeypatch.setattr(stored_duplicates, "some_columns", lambda *_: pytest.fail("it was read"))
    with pytest.raises(EmbeddingsError, match=r"reading 120 embeddings of 24 numbers.*--near 2 finds equal"):
        find_stored_duplicates(folder, 0.98)


def test_no_embeddings(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingsError, match="no embeddings in"):
        find_stored_duplicates(tmp_path, 0.98)
