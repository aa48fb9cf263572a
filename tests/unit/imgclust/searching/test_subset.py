"""A part of an embeddings folder: by a model's cluster, or by a condition over attributes."""

from __future__ import annotations

import numpy as np
import pytest

from imgclust.embedding.store import Embeddings
from imgclust.errors import EmbeddingsError, ImgclustError
from imgclust.searching.subset import where, within
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
    ],
)
def test_a_condition_chooses(condition: str, expected: list[int]) -> None:
    """Columns have their kinds; an image without an attribute has no value there."""
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
        ("lang = 'fr'", "is true of none of 100 images"),
        ("true); DROP TABLE images; --", "cannot be used"),
        ("true); SELECT (1", "one condition"),
        ("id in (select content from read_text('/etc/passwd'))", "cannot be used"),
        ("id in (select * from 'x.csv')", "cannot be used"),
    ],
)
def test_conditions_that_cannot_be_used(condition: str, text: str) -> None:
    """Among them what would read files: a condition chooses rows and does nothing else."""
    with pytest.raises(EmbeddingsError, match=text):
        where(embeddings(), condition)


def test_within_a_cluster() -> None:
    """What the model predicts; edits count."""
    labels = fitted().model.predict(ROWS).labels
    a, b = fitted().model.clusters[0].id, fitted().model.clusters[1].id
    assert numbers(within(embeddings(), fitted().model, a)) == np.flatnonzero(labels == a).tolist()
    merged = fitted().model.edit().merge(a, b)
    assert numbers(within(embeddings(), merged, a)) == np.flatnonzero(np.isin(labels, [a, b])).tolist()
    with pytest.raises(ImgclustError, match="no cluster 99"):
        within(embeddings(), fitted().model, 99)
