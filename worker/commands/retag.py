"""`imgclust-worker retag`: the embeddings topic → tags of a model, in a topic of their own.

Tags and progress are one Kafka transaction, so a run that was stopped goes on where it was, and no tag is
published twice. The position is kept as the committed offsets of a group that nobody joins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from imgclust.model.model import ClusterModel
from imgclust.support.progress import bar_for
from imgclust.types import EncoderIdentity
from worker import wiring
from worker.commands.export import NOT_EMBEDDINGS, OTHER_ENCODER, embeddings_topic
from worker.errors import SettingsError, StartError, WorkerError
from worker.kafka.reading import client_log
from worker.kafka.scanner import Entry, Scanner
from worker.kafka.topic_rules import PLANS, REPLICAS, min_insync
from worker.messages.embedding import EmbeddingRecord, read_embedding
from worker.messages.headers import result_headers
from worker.settings.settings import Settings
from worker.tagger.model_loading import first_model
from worker.tagger.prediction import ModelInfo, Predicted, rows, tag_of
from worker.wiring import formats

BATCH = 1024  # embeddings predicted at once
COMMIT_IMAGES = 8 * BATCH  # and published in one transaction
TRANSACTION_SECONDS = 60.0
WAIT = 30.0  # seconds for an answer of the brokers


def retag(settings: Settings, to: str, *, model: Path | None = None, quiet: bool = False) -> int:
    """Tag everything that the embeddings topic holds now, into the topic `to`.

    Args:
        to: made when it is missing, with as many partitions.
        model: by default the one that a worker would start with.

    Raises:
        SettingsError: no model, or a topic that has another purpose.
        WorkerError: Kafka is away or refuses.
        ModelError: the model cannot be loaded, or does not predict on WORKER_PREDICT_DEVICE.
    """
    source = embeddings_topic(settings)
    if to in wiring.topics_config(settings).names.values():
        raise SettingsError(f"--to {to!r} is one of the worker's own topics; name another one")
    if model is None and settings.model is None and settings.models_topic is None:
        raise SettingsError("no model to tag with: give --model, or set WORKER_MODEL")
    if model is not None:
        loaded = ClusterModel.load(model).predicting_on(settings.predict_device)
    else:
        loaded = first_model(settings)
    with Scanner(wiring.connection(settings), f"{settings.group_id}.retag.{to}.{loaded.version}") as scanner:
        partitions = scanner.partitions(source)
        _ensure(settings, to, len(partitions))
        job = _Job(settings, scanner, loaded, source, to, partitions)
        left = job.left()
        if job.resumed:
            print(f"going on where it was: {left:,} records are left", file=sys.stderr)
        started = time.monotonic()
        with bar_for("retag", None if quiet else lambda: left) as bar:
            job.run(bar.advance)
    rate = job.tagged / max(time.monotonic() - started, 1e-9)
    print(
        f"{job.tagged:,} tags of model {loaded.version} in {to!r}, {job.deleted:,} deletions; {rate:,.0f}/s"
    )
    for reason, count in job.skipped.items():
        print(f"  {count:,} left out: {reason}")
    return 0


def _ensure(settings: Settings, topic: str, partitions: int) -> None:
    """
    Raises:
        StartError: the topic cannot be made, or has another number of partitions.
    """
    admin = AdminClient(wiring.connection(settings), logger=client_log)
    try:
        for _ in range(20):  # a broker may not have heard yet of what another client has just made
            found = admin.list_topics(timeout=WAIT)
            if topic in found.topics and found.topics[topic].partitions:
                break
            copies = min(REPLICAS, len(found.brokers))
            config = {**PLANS["tags"].config, "min.insync.replicas": str(min_insync(copies))}
            _create(admin, NewTopic(topic, partitions, copies, config=config))
            time.sleep(0.5)
        count = len(found.topics[topic].partitions) if topic in found.topics else 0
    except (KafkaException, TimeoutError) as error:
        raise StartError(f"topic {topic!r} could not be made: {error}") from None
    if count != partitions:
        raise StartError(
            f"{topic!r} has {count} partitions, the embeddings topic {partitions}: give another topic"
        )


def _create(admin: AdminClient, topic: NewTopic) -> None:
    try:
        admin.create_topics([topic])[topic.topic].result(timeout=WAIT)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


class _Job:
    """One run: reads in a thread of its own, so that the predictor never waits for Kafka."""

    def __init__(
        self,
        settings: Settings,
        scanner: Scanner,
        model: ClusterModel,
        source: str,
        to: str,
        partitions: list[int],
    ) -> None:
        self._scanner = scanner
        self._model = model
        self._source, self._to = source, to
        self._format = formats(dataclasses.replace(settings, tags_topic=to)).tags
        self._maker = ModelInfo.of(model)
        self._membership = scanner.membership()
        self._producer = Producer(
            {
                "linger.ms": 5,
                "compression.type": "lz4",
                "client.id": "imgclust-retag",
                "queue.buffering.max.kbytes": 262144,
                **wiring.connection(settings),
                # one run to a topic at a time: a second one fences the first
                "transactional.id": f"{settings.group_id}.retag.{to}",
                "transaction.timeout.ms": int(TRANSACTION_SECONDS * 1000),
                "delivery.report.only.error": True,
            },
            logger=client_log,
        )
        self.tagged = self.deleted = 0
        self.skipped: Counter[str] = Counter()
        self._encoder: tuple[Mapping[str, Any], bool] | None = None  # the last, and whether it fits
        _kafka("begin", lambda: self._producer.init_transactions(WAIT))  # ends what a killed run left open
        committed = scanner.committed(source, partitions)
        self.resumed = bool(committed)
        self._starts = {p: committed[p][0] if p in committed else 0 for p in partitions}
        self._reached = dict(self._starts)

    def left(self) -> int:
        """Offsets that are still to be passed."""
        bounds = {p: self._scanner.bounds(self._source, p) for p in self._starts}
        self._reached = {p: max(low, self._starts[p]) for p, (low, _) in bounds.items()}
        return sum(max(0, high - self._reached[p]) for p, (_, high) in bounds.items())

    def run(self, advance: Callable[[int], None]) -> None:
        for chunk in _ahead(lambda: self._scanner.read(self._source, self._starts)):
            self._producer.begin_transaction()
            try:
                for start in range(0, len(chunk), BATCH):
                    self._publish(chunk[start : start + BATCH])
                ends = {entry.partition: entry.offset + 1 for entry in chunk}
                self._commit(ends)
            except BaseException:
                with contextlib.suppress(KafkaException):
                    self._producer.abort_transaction(WAIT)
                raise
            advance(sum(end - self._reached.get(p, 0) for p, end in ends.items()))
            self._reached.update(ends)

    def _commit(self, ends: Mapping[int, int]) -> None:
        offsets = [TopicPartition(self._source, p, offset) for p, offset in ends.items()]
        member = self._membership
        _kafka("commit", lambda: self._producer.send_offsets_to_transaction(offsets, member, WAIT))
        _kafka("commit", lambda: self._producer.commit_transaction(WAIT))

    def _publish(self, entries: list[Entry]) -> None:
        """Tags and deletions, in the order of the entries: the last one of an id has to stay the last."""
        records = [None if entry.value is None else self._usable(entry.value) for entry in entries]
        predictions = self._predicted([record for record in records if record is not None])
        now = int(time.time() * 1000)
        for entry, record in zip(entries, records, strict=True):
            if entry.value is None:
                self._produce(entry, None)
                self.deleted += 1
            elif record is not None:
                tag = tag_of(
                    next(predictions),
                    id=record.id,
                    url=record.url,
                    uploaded_at=record.uploaded_at,
                    tagged_at=now,
                    attributes=record.attributes,
                )
                self._produce(entry, self._format.write(tag))
                self.tagged += 1

    def _predicted(self, records: list[EmbeddingRecord]) -> Iterator[Predicted]:
        if not records:
            return iter(())
        vectors = np.stack([record.vector for record in records]).astype(np.float32)
        return iter(rows(self._maker, range(len(records)), self._model.predict(vectors, batch=BATCH)))

    def _usable(self, value: bytes) -> EmbeddingRecord | None:
        try:
            record = read_embedding(value)
        except ValueError:
            self.skipped[NOT_EMBEDDINGS] += 1
            return None
        if not self._same_encoder(record.encoder):
            self.skipped[OTHER_ENCODER] += 1
            return None
        return record

    def _same_encoder(self, encoder: Mapping[str, Any]) -> bool:
        if self._encoder is None or self._encoder[0] != encoder:  # records of one encoder follow each other
            mine = self._model.encoder
            self._encoder = encoder, mine is None or EncoderIdentity.from_dict(encoder).same_space(mine)
        return self._encoder[1]

    def _produce(self, entry: Entry, value: bytes | None) -> None:
        kind = None if value is None else self._format.content_type
        headers = result_headers(self._source.encode(), entry, content_type=kind)
        while True:
            try:
                self._producer.produce(
                    self._to, key=entry.key, value=value, partition=entry.partition, headers=headers
                )
                return
            except BufferError:
                self._producer.poll(0.1)


def _ahead(read: Callable[[], Iterator[Entry]]) -> Iterator[list[Entry]]:
    """Chunks of COMMIT_IMAGES entries, read in a thread while the last ones are worked on."""
    ready: queue.Queue[list[Entry] | BaseException | None] = queue.Queue(maxsize=2)
    stop = threading.Event()

    def put(item: list[Entry] | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.2)
                return

    def reader() -> None:
        try:
            entries = read()
            while not stop.is_set() and (chunk := list(itertools.islice(entries, COMMIT_IMAGES))):
                put(chunk)
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=reader, name="retag-read", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=5)


def _kafka(what: str, call: Callable[[], object]) -> None:
    """A call to the brokers, tried again while they only do not answer.

    Raises:
        WorkerError: they refuse, or do not answer for a minute.
    """
    deadline = time.monotonic() + 2 * WAIT
    while True:
        try:
            call()
            return
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.retriable() and time.monotonic() < deadline:
                continue
            raise WorkerError(
                f"retag could not {what} its transaction: {reason.str()}; "
                "run it again, it goes on where it was"
            ) from None
