"""`imgclust-worker embeddings export`: the embeddings topic → a folder that `imgclust fit` reads."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from imgclust.embedding.store import EmbeddingsWriter, shards
from imgclust.errors import ImgclustError
from imgclust.types import EncoderIdentity
from worker import wiring
from worker.commands.output import watching
from worker.errors import SettingsError
from worker.kafka.scanner import Scanner
from worker.messages.embedding import EmbeddingRecord, read_embedding
from worker.retagging.tagging import NOT_EMBEDDINGS, OTHER_ENCODER
from worker.settings.settings import Settings


def embeddings_topic(settings: Settings) -> str:
    """
    Raises:
        SettingsError: there is none.
    """
    if settings.embeddings_topic is None:
        raise SettingsError("WORKER_EMBEDDINGS_TOPIC is not set: it names the topic that keeps embeddings")
    return settings.embeddings_topic


def export(settings: Settings, output: Path, *, newer_than: float | None = None) -> int:
    """Write the newest embedding of each upload that is not deleted.

    Args:
        output: a folder without embeddings.
        newer_than: seconds; older records are left out.

    Raises:
        WorkerError: Kafka is away.
        ImgclustError: the folder holds embeddings, or cannot be written.
    """
    topic = embeddings_topic(settings)
    if shards(output):
        raise ImgclustError(f"{str(output)!a} holds embeddings already; name another folder")
    skipped: Counter[str] = Counter()
    written = 0
    since = None if newer_than is None else int((time.time() - newer_than) * 1000)
    with contextlib.ExitStack() as stack:
        scanner = stack.enter_context(Scanner(wiring.connection(settings)))
        writer: EmbeddingsWriter | None = None
        identity = _wanted(settings)
        for record in _newest(scanner, topic, since, skipped):
            if identity is None:
                identity = record.identity
            if not record.identity.same_space(identity):
                skipped[OTHER_ENCODER] += 1
                continue
            writer = writer or stack.enter_context(EmbeddingsWriter(output, identity))
            writer.append(
                id=record.id,
                source=record.url or record.id,
                embedding=record.vector,
                width=0,
                height=0,
                sha256=None,
                attributes=record.attributes,
            )
            written += 1
    print(f"{written:,} embeddings in {output}" + (f", of {identity.describe()}" if identity else ""))
    for reason, count in skipped.items():
        print(f"  {count:,} left out: {reason}")
    if written:
        print(f"train on them: imgclust fit {output} -o MODEL/")
    else:
        print(f"{topic!r} keeps no embedding that is wanted", file=sys.stderr)
    return 0 if written else 1


def _wanted(settings: Settings) -> EncoderIdentity | None:
    """The encoder of WORKER_MODEL; without a model, that of the first record."""
    if settings.model is None:
        return None
    from imgclust.model.model import ClusterModel

    return ClusterModel.load(settings.model).encoder


def _newest(
    scanner: Scanner, topic: str, since: int | None, skipped: Counter[str]
) -> Iterator[EmbeddingRecord]:
    """The last record of each key, partition by partition: a topic is compacted late, and an id is in one
    partition alone. Two passes, so that memory holds keys and no embeddings."""
    for partition in scanner.partitions(topic):
        first = 0 if since is None else scanner.offsets_at(topic, [partition], since)[partition]
        last: dict[bytes, int] = {}
        with watching(f"partition {partition}: ids") as progress:
            for entry in scanner.read(topic, {partition: first}, progress=progress):
                if entry.key is not None:
                    last[entry.key] = entry.offset
        with watching(f"partition {partition}: embeddings") as progress:
            for entry in scanner.read(topic, {partition: first}, progress=progress):
                if entry.value is None or entry.key is None or last.get(entry.key) != entry.offset:
                    continue
                try:
                    yield read_embedding(entry.value)
                except ValueError:
                    skipped[NOT_EMBEDDINGS] += 1
