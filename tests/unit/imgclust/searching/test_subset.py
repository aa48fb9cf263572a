"""A part of an embeddings folder: by a model's cluster, or by a condition over attributes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imgclust.embedding.store import Embeddings, EmbeddingsWriter, read_embeddings
from imgclust.errors import EmbeddingsError, ImgclustError
from imgclust.searching.subset import rows_where, rows_within, where, within
from tests.support.fitted import ENCODER, fitted, grouped

ROWS = grouped()[0][:100]


def embeddings() -> Embeddings:
    """A hundred images: a language, likes of some, a flag, and an attribute with a hostile name."""
    attributes = [
        {"lang": "de" if i % 2 else "en", "odd name": i % 3, "ok": i < 50, **({"likes": i} if i % 5 else {})}
        for i in range(100)
    ]
    return Embeddings(
        ids=[f"image {i}" for i in range(100)],
        sources=[f"p/{i}.png" for i in range(100)],
        vectors=ROWS,
        widths=np.arange(100, dtype=np.int32),
        heights=np.full(100, 7, np.int32),
        sha256=[None] * 100,
        attributes=attributes,
        identity=ENCODER,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in shards of 30."""
    path, images = tmp_path_factory.mktemp("subset") / "embeddings", embeddings()
    with EmbeddingsWriter(path, ENCODER, shard_rows=30) as writer:
        for i, (id_, source) in enumerate(zip(images.ids, images.sources, strict=True)):
            writer.append(
                id=id_, source=source, embedding=ROWS[i], width=i, height=7, sha256=None,
                attributes=images.attributes[i],
            )  # fmt: skip
    return path


def numbers(part: Embeddings) -> list[int]:
    return [int(name.split()[1]) for name in part.ids]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("lang = 'de' and likes > 90", [91, 93, 97, 99]),
        ("likes is null and ok", [i for i in range(50) if i % 5 == 0]),
        ('"odd name" = 2 and width < 9', [2, 5, 8]),
        ("id like '%17' or source = 'p/3.png'", [3, 17]),
        ("likes > 97.5 -- a remark", [98, 99]),
        ("likes > 1.9 * (select avg(likes) from images)", [96, 97, 98, 99]),
    ],
)
def test_a_condition_chooses(folder: Path, condition: str, expected: list[int]) -> None:
    """Columns have their kinds; an image without an attribute has no value; of a folder as of arrays."""
    assert rows_where(folder, condition).tolist() == expected
    part = where(embeddings(), condition)
    assert numbers(part) == expected
    assert np.array_equal(part.vectors, ROWS[expected])
    assert part.widths.tolist() == expected
    assert part.identity == ENCODER


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ("colour = 'red'", "the columns are id, source, width, height, lang, likes, odd name, ok"),
        ("lang =", "cannot be used"),
        ("lang = 'fr'", "matches none of 100 images"),
        ("true); DROP TABLE images; --", "cannot be used"),
        ("true); SELECT (1", "one condition"),
        ("id in (select content from read_text('/etc/passwd'))", "cannot be used"),
        ("id in (select * from 'x.csv')", "cannot be used"),
    ],
)
def test_conditions_that_cannot_be_used(folder: Path, condition: str, text: str) -> None:
    """Among them what would read files: a condition chooses rows and does nothing else."""
    for choose in (lambda: where(embeddings(), condition), lambda: rows_where(folder, condition)):
        with pytest.raises(EmbeddingsError, match=text):
            choose()


def test_an_attribute_has_one_kind_in_all_shards(tmp_path: Path) -> None:
    """Numbers in the first and words in the second are words; a name that is not UTF-8 is no obstacle."""
    with EmbeddingsWriter(tmp_path, ENCODER, shard_rows=2) as writer:
        for i, size in enumerate([1, 2, "large", 2.5]):
            writer.append(
                id=str(i), source=f"p/\udce4{i}.png", embedding=ROWS[i], width=1, height=1, sha256=None,
                attributes={"size": size},
            )  # fmt: skip
    assert rows_where(tmp_path, "size in ('2', 'large')").tolist() == [1, 2]
    assert numbers_of(where(read_embeddings(tmp_path), "size in ('2', 'large')")) == [1, 2]


def numbers_of(part: Embeddings) -> list[int]:
    return [int(name) for name in part.ids]


def test_within_a_cluster(folder: Path) -> None:
    """What the model predicts; edits count."""
    labels = fitted().model.predict(ROWS).labels
    a, b = fitted().model.clusters[0].id, fitted().model.clusters[1].id
    assert numbers(within(embeddings(), fitted().model, a)) == np.flatnonzero(labels == a).tolist()
    merged = fitted().model.edit().merge(a, b)
    assert numbers(within(embeddings(), merged, a)) == np.flatnonzero(np.isin(labels, [a, b])).tolist()
    expected = np.flatnonzero(labels == a)
    assert rows_within(folder, fitted().model, a).tolist() == expected.tolist()
    assert rows_within(folder, fitted().model, a, expected[3:]).tolist() == expected[3:].tolist()
    with pytest.raises(ImgclustError, match=f"none of the 2 images is in cluster {a}"):
        rows_within(folder, fitted().model, a, np.flatnonzero(labels != a)[:2])
    with pytest.raises(ImgclustError, match="no cluster 99"):
        within(embeddings(), fitted().model, 99)
