"""Search: neighbours in the embeddings' space, in all or in one cluster, of a folder or of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imgclust.embedding.store import EmbeddingsWriter
from imgclust.errors import EncoderError, ImgclustError
from imgclust.searching.search import search, text_query
from imgclust.types import EncoderIdentity
from tests.support.fitted import ENCODER, fitted, grouped

ROWS, _ = grouped()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of the fit in several shards."""
    path = tmp_path_factory.mktemp("search") / "embeddings"
    with EmbeddingsWriter(path, ENCODER, shard_rows=70) as writer:
        for i, row in enumerate(ROWS):
            writer.append(
                id=f"{i}", source=f"pictures/{i}.png", embedding=row, width=1, height=1, sha256=None
            )
    return path


def expected(query: np.ndarray, rows: np.ndarray, count: int) -> list[int]:
    return np.argsort(-(rows @ query), kind="stable")[:count].tolist()


def test_a_folder_is_searched_whole(folder: Path) -> None:
    """Over all shards, whatever their size: the same as comparing with every row at once."""
    hits = search(5 * ROWS[17], embeddings=folder, count=12)
    assert [int(hit.id) for hit in hits] == expected(ROWS[17], ROWS, 12)
    assert hits[0].id == "17"
    assert hits[0].cosine <= 1
    assert hits[0].source == "pictures/17.png"
    assert hits[0].cluster is None
    assert len(search(ROWS[17], embeddings=folder, count=1000)) == len(ROWS)


def test_a_model_is_searched_by_its_training_images() -> None:
    """With the cluster of each, as it was fitted; held-out images are not in a model."""
    hits = search(ROWS[17], model=fitted().model, count=300)
    split = fitted().split
    assert {int(hit.id) for hit in hits} == set(split.train.tolist())
    assert all(hit.cluster == fitted().labels[int(hit.id)] for hit in hits)


@pytest.mark.parametrize("where", ["model", "folder"])
def test_one_cluster_is_searched(where: str, folder: Path) -> None:
    """Only images of that cluster, the nearest first; "other" is one too."""
    place = {"embeddings": folder} if where == "folder" else {}
    for cluster in (fitted().model.clusters[2].id, -1):
        hits = search(ROWS[0], model=fitted().model, cluster=cluster, count=300, **place)
        assert {hit.cluster for hit in hits} <= {cluster}
        assert [hit.cosine for hit in hits] == sorted((hit.cosine for hit in hits), reverse=True)
    assert search(ROWS[0], model=fitted().model, cluster=fitted().model.clusters[2].id, count=5, **place)


def test_edited_clusters_are_what_is_searched() -> None:
    a, b = fitted().model.clusters[0].id, fitted().model.clusters[1].id
    merged = fitted().model.edit().merge(a, b).edit().rename({a: "both"})
    hits = search(ROWS[0], model=merged, cluster=a, count=300)
    assert len(hits) == fitted().model.clusters[0].size + fitted().model.clusters[1].size
    assert {hit.name for hit in hits} == {"both"}


def test_refusals(folder: Path) -> None:
    for options, text in (
        ({}, "a model, an embeddings folder, or both"),
        ({"model": fitted().model, "cluster": 99}, "has no cluster 99: it has 0, 1"),
        ({"embeddings": folder, "cluster": 1}, "name the model"),
        ({"model": fitted().model, "count": 0}, "at least 1"),
    ):
        with pytest.raises(ImgclustError, match=text):
            search(ROWS[0], **options)  # type: ignore[arg-type]
    for wrong in (ROWS[0][:5], np.zeros(24), np.full(24, np.nan)):
        with pytest.raises(ImgclustError, match="a vector of 24 finite numbers"):
            search(wrong, model=fitted().model)


class Names:
    """An encoder without a text tower: it knows three names."""

    identity: EncoderIdentity = ENCODER

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        raise EncoderError("no text tower")

    def vocabulary(self, phrases: list[str] | None = None) -> tuple[list[str], np.ndarray]:
        return ["ice cream", "cream puff", "house finch"], np.eye(3, dtype=np.float32)


def test_texts_without_a_text_tower() -> None:
    """Names that share most words with the text stand for it; none: some that there are."""
    assert text_query(Names(), "an ice cream").tolist() == [1, 0, 0]
    assert text_query(Names(), "Creams").tolist() == [0.5, 0.5, 0]
    with pytest.raises(EncoderError, match="knows 3 names, like ice cream"):
        text_query(Names(), "the of a plate")
    with pytest.raises(ImgclustError, match="is empty"):
        text_query(Names(), "  ")


def test_a_text_is_no_vector() -> None:
    with pytest.raises(ImgclustError, match=r"got the text 'cats': text_query\(encoder, text\)"):
        search("cats", model=fitted().model)  # type: ignore[arg-type]
