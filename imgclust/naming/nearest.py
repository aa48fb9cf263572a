"""Clusters → names: the phrases whose vectors lie nearest to what sets a cluster apart.

Centres and phrases live in one space but not in one corner of it (drawings among classes of photographs,
pictures among sentences), so each side is compared by what sets it apart from its own mean: without that,
a few phrases are the nearest of every cluster. How the bounds were found: docs/decisions/0023-names.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from imgclust.types import Floats

MARGIN = 0.24  # cosine that a name needs
KEPT = 0.5  # of that, which a name needs that the cluster has already: it does not come and go
CHOICES = 5  # phrases that are tried for a cluster, the best first, when better ones are taken


def name_clusters(
    centres: Floats,
    phrases: Sequence[str],
    vectors: Floats,
    *,
    known: Sequence[str | None] | None = None,
    taken: Collection[str] = (),
) -> list[str | None]:
    """Name each cluster, or leave it without a name rather than give it a wrong one.

    A phrase may name a cluster if its cosine is at least `MARGIN` and stands out from all other phrases' by
    more than the best of as many random ones would. No two clusters get one name: it goes to the cluster that
    it fits best, and another takes its next best phrase, if that is good enough.

    Args:
        centres: float32 (k, d); the mean embedding of each cluster; see `imgclust.model.gallery.centres`.
        phrases: m names.
        vectors: float32 (m, d); their embeddings.
        known: k names, of clusters that have one already; it stays, and no other cluster gets it. One that is
            among the phrases is tested again, and dropped where it has become a wrong one.
        taken: names that none of these clusters gets.

    Returns:
        k names. Fewer than two clusters or phrases get none: nothing sets one apart.
    """
    names = still_right(centres, phrases, vectors, [None] * len(centres) if known is None else known)
    if len(centres) < 2 or len(phrases) < 2:
        return names
    scores = _apart(centres) @ _apart(vectors).T
    by_chance = scores.mean(axis=1) + math.sqrt(2 * math.log(len(phrases))) * scores.std(axis=1)
    bars = np.maximum(MARGIN, by_chance)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :CHOICES]
    # the best fit of all chooses first
    fits = sorted(
        (-scores[c, p], c, p) for c in range(len(centres)) for p in best[c] if scores[c, p] >= bars[c]
    )
    given = {*names, *taken}
    for _, cluster, phrase in fits:
        if names[cluster] is None and phrases[phrase] not in given:
            names[cluster] = phrases[phrase]
            given.add(phrases[phrase])
    return names


def still_right(
    centres: Floats, phrases: Sequence[str], vectors: Floats, known: Sequence[str | None]
) -> list[str | None]:
    """Names that clusters have, without those among the phrases that have become wrong ones.

    Arguments as `name_clusters` takes them.
    """
    names = list(known)
    if len(centres) < 2 or len(phrases) < 2:
        return names
    place = {phrase: i for i, phrase in enumerate(phrases)}
    rows = [cluster for cluster, name in enumerate(names) if name in place]
    directions = _apart(centres)[rows]
    fits = np.einsum("ij,ij->i", directions, _apart(vectors)[[place[str(names[row])] for row in rows]])
    for row, fit in zip(rows, fits.tolist(), strict=True):
        if fit < KEPT * MARGIN:
            names[row] = None
    return names


def _apart(rows: Floats) -> Floats:
    """Unit-norm directions from the rows' mean."""
    apart = rows - rows.mean(axis=0)
    lengths = np.linalg.norm(apart, axis=1, keepdims=True)
    return np.asarray(apart / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
