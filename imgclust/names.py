"""Clusters → names: the phrases whose vectors lie nearest to what sets a cluster apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgclust.types import Floats

MARGIN = 0.10  # cosine that the best phrase needs; see docs/decisions/0023-names.md
AHEAD = 0.0


def name_clusters(centres: Floats, phrases: Sequence[str], vectors: Floats) -> list[str | None]:
    """Name each cluster, or leave it without a name rather than give it a wrong one.

    Centres and phrases live in one space but not in one corner of it (drawings among classes of photographs,
    images among sentences), so both are compared by what sets them apart from their own mean.

    Args:
        centres: float32 (k, d); the mean embedding of each cluster.
        phrases: m names.
        vectors: float32 (m, d); their embeddings.
    """
    if len(centres) < 2 or not len(phrases):
        return [None] * len(centres)
    scores = _apart(centres) @ _apart(vectors).T
    names: list[str | None] = [None] * len(centres)
    taken: set[str] = set()
    order = np.argsort(-scores.max(axis=1), kind="stable")
    for cluster in order:
        for phrase in np.argsort(-scores[cluster], kind="stable")[:5]:
            if scores[cluster, phrase] < MARGIN:
                break
            if phrases[phrase] not in taken:
                names[cluster] = phrases[phrase]
                taken.add(phrases[phrase])
                break
    return names


def _apart(rows: Floats) -> Floats:
    apart = rows - rows.mean(axis=0)
    lengths = np.linalg.norm(apart, axis=1, keepdims=True)
    return np.asarray(apart / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
