"""What share of the last week's tags another model would change, by the embeddings that are kept.

A label depends on the embedding and the model alone, so that both models can be asked again. Of a long week a
sample is read: stretches of each partition, spread evenly over the week.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from imgclust.model.model import ClusterModel
from imgclust.types import Floats
from worker.kafka.scanner import Entry, Scanner
from worker.messages.embedding import read_embedding
from worker.tagger.shadow import agreement

DAYS = 7
SAMPLE = 20_000  # embeddings that are read at most
STRETCHES = 48  # of records side by side, in all partitions together
BATCH = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class TagChanges:
    """Two models on the same images.

    Attributes:
        images: that were compared; 0: none is kept.
        sampled: more are kept.
        moved: the share in another cluster; of two taxonomies, clusters are matched one to one first, so that
            most images agree.
        renamed: the share in the same cluster under another name; 0 of two taxonomies.
        one_taxonomy: cluster numbers of both mean the same.
    """

    images: int
    sampled: bool
    moved: float
    renamed: float
    one_taxonomy: bool

    def __str__(self) -> str:
        if not self.images:
            return f"no embedding of the last {DAYS} days is kept, so nobody knows how many tags would change"
        of = f"{'a sample of ' if self.sampled else ''}{self.images:,} uploads of the last {DAYS} days"
        if not self.one_taxonomy:
            return f"{self.moved:.1%} of {of} would be in another cluster (clusters matched one to one)"
        return f"{self.moved:.1%} of {of} would be in another cluster, {self.renamed:.1%} have another name"


def tag_changes(
    scanner: Scanner, topic: str, live: ClusterModel, following: ClusterModel, now: int
) -> TagChanges:
    """Compare two models on the embeddings of the last week.

    Args:
        topic: of embeddings.
        now: milliseconds since the epoch.

    Raises:
        WorkerError: Kafka is away.
    """
    starts, ends = _bounds(scanner, topic, now)
    total = sum(ends[p] - starts[p] for p in starts)
    entries: dict[bytes, bytes | None] = {}
    for entry in _sampled(scanner, topic, starts, ends) if total > SAMPLE else scanner.read(topic, starts):
        if entry.key is not None:
            entries[entry.key] = entry.value  # the last of an upload counts; null: it is deleted
    pairs = Counter[tuple[int, int]]()
    vectors = list(_vectors(entries, live))
    for start in range(0, len(vectors), BATCH):
        rows = np.stack(vectors[start : start + BATCH])
        labels = (model.predict(rows).labels.tolist() for model in (live, following))
        pairs.update(zip(*labels, strict=True))
    return compared(pairs, live, following, sampled=total > SAMPLE)


def compared(
    pairs: Mapping[tuple[int, int], int], live: ClusterModel, following: ClusterModel, *, sampled: bool
) -> TagChanges:
    """Counted pairs of clusters, of both models, as shares."""
    images, same = sum(pairs.values()), live.taxonomy == following.taxonomy
    if not images:
        return TagChanges(0, sampled, 0, 0, same)
    renamed = sum(n for (a, b), n in pairs.items() if same and a == b and live.name(a) != following.name(b))
    moved = 1 - agreement(pairs, one_taxonomy=same)
    return TagChanges(images, sampled, moved, renamed / images, same)


def _bounds(scanner: Scanner, topic: str, now: int) -> tuple[dict[int, int], dict[int, int]]:
    """Where the last week begins and ends in each partition that has something of it."""
    partitions = scanner.partitions(topic)
    starts = scanner.offsets_at(topic, partitions, now - DAYS * 86_400_000)
    bounds = {p: scanner.bounds(topic, p) for p in partitions}
    starts = {p: max(starts[p], bounds[p][0]) for p in partitions}
    held = [p for p in partitions if starts[p] < bounds[p][1]]
    return {p: starts[p] for p in held}, {p: bounds[p][1] for p in held}


def _sampled(
    scanner: Scanner, topic: str, starts: Mapping[int, int], ends: Mapping[int, int]
) -> Iterator[Entry]:
    """Stretches of some partitions: an upload's partition follows from its id, so that any are a sample."""
    partitions = sorted(starts)[:: -(-len(starts) // STRETCHES)]
    each = max(1, STRETCHES // len(partitions))
    length = SAMPLE // (each * len(partitions))
    for partition in partitions:
        places = np.linspace(starts[partition], max(starts[partition], ends[partition] - length), each)
        for place in np.unique(places.astype(np.int64)).tolist():
            yield from itertools.islice(scanner.read(topic, {partition: place}), length)


def _vectors(entries: Mapping[bytes, bytes | None], model: ClusterModel) -> Iterator[Floats]:
    """Embeddings of the model's encoder; other records are passed over."""
    for value in entries.values():
        if value is None:
            continue
        try:
            record = read_embedding(value)
        except ValueError:
            continue
        if model.encoder is None or record.identity.same_space(model.encoder):
            yield record.vector.astype(np.float32)
