"""The models topic, followed by a thread of its own."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from imgclust.types import EncoderIdentity
from worker.kafka.beginning import differ
from worker.kafka.client_config import reader_config, sender_config
from worker.kafka.reading import client_log, some_of
from worker.kafka.topic_ids import TopicIds
from worker.messages.models import REPORT, ModelsState, write_report
from worker.tagger.inference import Inference
from worker.tagger.model_loading import load_named
from worker.tagger.model_switch import TRY_AGAIN, ModelChanger
from worker.telemetry import log as logs
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

REPORT_EVERY = 30.0  # seconds; one that has not reported for three times as long is gone

log = logs.get(__name__)


WAIT = 0.5  # seconds in one poll of the topic


def worker_name() -> str:
    """Names this process in the topic: host, process and four random bytes."""
    host = "".join(c if c.isalnum() or c in ".-" else "_" for c in socket.gethostname()[:100])
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


class ModelsWatch:
    """Follows the models topic in a thread of its own, and reports there what this worker runs."""

    def __init__(
        self,
        connection: Mapping[str, Any],
        topic: str,
        changer: ModelChanger,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._changer = changer
        self._clock = clock
        self._key = f"{REPORT}{worker_name()}".encode()
        self._state = ModelsState()
        self._ids = TopicIds(connection, [topic])
        self._topic_id = ""
        self._stop = threading.Event()
        self._report_at = 0.0
        self._consumer = Consumer(
            reader_config(connection, "imgclust-models", "imgclust.models", wait_ms=500), logger=client_log
        )
        self._producer = Producer(
            {**sender_config(connection, "imgclust-models"), "message.timeout.ms": 10_000}, logger=client_log
        )
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take this worker's report back, and end; waits at most a few seconds."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        self._begin()
        caught_up = False
        while not self._stop.is_set():
            try:
                caught_up = (self._read() or caught_up) and not self._made_anew()
                if caught_up:  # not before: what is read on the way was wanted once
                    changed = self._changer.settle(self._state.assignments)
                    if changed or self._clock() >= self._report_at:
                        self._report(write_report(self._changer.report()))
            except Exception:  # models do not change then, and everything else goes on
                log.exception("following the models topic failed for now")
                self._stop.wait(TRY_AGAIN)
        self._report(None)
        self._producer.flush(2)
        self._consumer.close()

    def _begin(self) -> None:
        self._consumer.assign([KafkaPartition(self._topic, 0, OFFSET_BEGINNING)])

    def _made_anew(self) -> bool:
        """Whether this is another topic by now. It is read from its start; what the old one said is void."""
        if not self._ids.poll():
            return False
        before, now = self._topic_id, self._ids.of(self._topic)
        self._topic_id = now or before
        if not differ(before, now):
            return False
        log.error("the models topic was deleted and created again; reading the new one from its start")
        self._state = ModelsState()
        self._consumer.list_topics(self._topic, timeout=WAIT)  # it may have heard that there is no such topic
        self._begin()
        return True

    def _read(self) -> bool:
        """What is new; whether the end was reached."""
        reached = False
        for message in some_of(self._consumer, WAIT, 1000):
            error, offset = message.error(), message.offset()
            if error is not None:
                reached = error.code() == KafkaError._PARTITION_EOF
                if not reached:
                    log.warning("reading the models topic failed for now", error=error.str())
                continue
            reached = False
            known = len(self._state.strange)
            self._state.take(message.key(), message.value(), -1 if offset is None else offset)
            if len(self._state.strange) > known:
                log.error("a record of the models topic was not written by a worker", offset=offset)
        return reached

    def _report(self, value: bytes | None) -> None:
        self._report_at = self._clock() + REPORT_EVERY
        try:
            self._producer.produce(self._topic, key=self._key, value=value, partition=0)
            self._producer.poll(0)
        except (BufferError, KafkaException) as error:
            log.warning("this worker's report could not be sent", error=str(error))


def follow(
    connection: Mapping[str, Any],
    models: tuple[str, Path] | None,
    model: ClusterModel,
    inference: Inference,
    encoder: EncoderIdentity,
    *,
    metrics: Metrics,
    health: Health,
    wall_ms: Callable[[], int],
    device: str = "cpu",
) -> ModelsWatch | None:
    """What follows the models topic, ready to start; None where there is none.

    Args:
        models: the topic, and the folder of models.
        model, encoder: at work.
        device: where models predict.
    """
    if models is None:
        return None
    topic, folder = models
    changer = ModelChanger(
        folder,
        encoder,
        model,
        inference,
        metrics=metrics,
        health=health,
        wall_ms=wall_ms,
        load=partial(load_named, device=device),
    )
    return ModelsWatch(connection, topic, changer)
