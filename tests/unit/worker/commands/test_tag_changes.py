"""What share of the last week's tags another model would change: counted on embeddings that are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from imgclust.model.model import ClusterModel
from imgclust.types import OTHER, EncoderIdentity
from tests.support import fitted
from worker.commands import tag_changes as module
from worker.commands.tag_changes import DAYS, TagChanges, tag_changes
from worker.kafka.scanner import Entry
from worker.messages.embedding import EmbeddingWriter, halves
from worker.messages.upload import Upload

DAY = 86_400_000
NOW = 30 * DAY
STRANGER = EncoderIdentity.from_dict({**fitted.ENCODER.to_dict(), "weights": "1" * 64})


class Topic:
    """A topic of embeddings, as a `Scanner` reads it."""

    def __init__(self, partitions: int) -> None:
        self.logs: list[list[tuple[int, bytes, bytes | None]]] = [[] for _ in range(partitions)]
        self.read_records = 0

    def append(self, upload_id: str, value: bytes | None, at: int = NOW) -> None:
        self.logs[sum(upload_id.encode()) % len(self.logs)].append((at, upload_id.encode(), value))

    def partitions(self, _: str) -> list[int]:
        return list(range(len(self.logs)))

    def offsets_at(self, _: str, partitions: list[int], since: int) -> dict[int, int]:
        return {p: sum(at < since for at, *_ in self.logs[p]) for p in partitions}

    def bounds(self, _: str, partition: int) -> tuple[int, int]:
        return 0, len(self.logs[partition])

    def read(self, topic: str, starts: Mapping[int, int]) -> Iterator[Entry]:
        for partition, start in starts.items():
            for offset, (at, key, value) in enumerate(self.logs[partition][start:], start):
                self.read_records += 1
                yield Entry(topic, partition, offset, at, key, value, {})


def record(row: np.ndarray, encoder: EncoderIdentity = fitted.ENCODER) -> bytes:
    (half,) = halves(row[None])
    return EmbeddingWriter(encoder, keep_url=False).value(Upload("a", "https://x/", NOW), half)


def model() -> ClusterModel:
    return fitted.fitted().model


def asked(topic: Topic, following: ClusterModel) -> TagChanges:
    scanner: Any = topic
    return tag_changes(scanner, "embeddings", model(), following, NOW)


def test_every_upload_of_the_week_counts_once() -> None:
    """The last embedding of an upload; none of those that were deleted, are older, of another encoder, or no
    embeddings."""
    rows, _ = fitted.grouped(seed=8, each=8)
    topic = Topic(3)
    topic.append("old", record(rows[0]), NOW - (DAYS + 1) * DAY)
    for i, row in enumerate(rows):
        topic.append(f"u{i}", record(rows[-1]), NOW - DAY)
        topic.append(f"u{i}", record(row))
    topic.append("deleted", record(rows[0]))
    topic.append("deleted", None)
    topic.append("foreign", record(rows[0], STRANGER))
    topic.append("strange", b"{}")
    labels = model().predict(rows).labels
    counts = Counter(labels.tolist())
    first, second, third = [number for number, _ in counts.most_common() if number != OTHER][:3]
    edited = model().edit().merge(first, second).edit().rename({third: "another name"})
    found = asked(topic, edited)
    assert (found.images, found.sampled, found.one_taxonomy) == (len(rows), False, True)
    assert found.moved == pytest.approx(counts[second] / len(rows))
    assert found.renamed == pytest.approx(counts[third] / len(rows))
    assert str(found) == (
        f"{counts[second] / len(rows):.1%} of {len(rows)} uploads of the last 7 days would be in another "
        f"cluster, {counts[third] / len(rows):.1%} have another name"
    )
    assert asked(topic, model()).moved == 0


def test_numbers_of_another_taxonomy_are_matched() -> None:
    """The same clusters under other numbers move nobody."""
    pairs = {(0, 5): 10, (1, 4): 10, (OTHER, OTHER): 5}
    other: Any = type("Other", (), {"taxonomy": "f" * 12, "name": lambda *_: "x"})()
    found = module.compared(pairs, model(), other, sampled=True)
    assert (found.moved, found.renamed, found.one_taxonomy) == (0, 0, False)
    assert "a sample of 25 uploads" in str(found)
    assert "matched one to one" in str(found)


def test_a_week_without_embeddings_says_so() -> None:
    assert "nobody knows how many tags would change" in str(asked(Topic(2), model()))


def test_of_a_long_week_a_sample_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than was set, spread over time and partitions, and near the share of all of them: the first
    half of the week moves, the second does not."""
    monkeypatch.setattr(module, "SAMPLE", 240)
    monkeypatch.setattr(module, "STRETCHES", 12)
    rows, _ = fitted.grouped(seed=8, each=8)
    labels = model().predict(rows).labels
    first, second = (int(number) for number in np.unique(labels[labels >= 0])[:2])
    moves, stays = record(rows[labels == second][0]), record(rows[labels == first][0])
    topic = Topic(5)
    for i in range(2000):
        topic.append(f"{i}", moves if i < 1000 else stays, NOW - DAYS * DAY + i)
    found = asked(topic, model().edit().merge(first, second))
    assert found.sampled
    assert 200 <= found.images <= topic.read_records <= 240
    assert found.moved == pytest.approx(0.5, abs=0.1)
