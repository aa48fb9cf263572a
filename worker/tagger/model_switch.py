"""Models that change while the worker runs: the models topic is followed, and what it names is used.

A model is loaded and warmed in the thread that follows the topic, beside the one at work; the change itself
is one step between two batches (`worker.tagger.inference.Inference.use`). Whatever goes wrong leaves the old model
at work: it is said in metrics, in the log, at `/readyz` and in this worker's report, and tried again.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from imgclust.errors import ImgclustError
from imgclust.model.model import ClusterModel
from imgclust.types import EncoderIdentity
from worker.errors import StartError, WorkerError
from worker.kafka import topics
from worker.kafka.reading import client_log, some_of
from worker.kafka.scanner import Scanner
from worker.messages.models import REPORT, Book, Named, Report, Role, Wish, write_report
from worker.settings.load import Settings
from worker.tagger.inference import Inference
from worker.telemetry import log as logs
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics

log = logs.get(__name__)

REPORT_EVERY = 30.0  # seconds; one that has not reported for three times as long is gone
TRY_AGAIN = 30.0  # seconds after a model could not be used: its folder may be on its way
WAIT = 0.5  # seconds in one poll of the topic
WARM_SIZES = (1, 2, 64, 256)


def load_named(folder: Path, named: Named, encoder: EncoderIdentity | None) -> ClusterModel:
    """A model that the topic names, loaded and checked.

    Args:
        folder: of models.
        encoder: whose embeddings it must take; None: any.

    Raises:
        ModelError, StartError: the folder is not there, is damaged, holds another model, or one of another
            encoder.
    """
    path = folder / named.folder
    if not path.is_dir():
        raise StartError(f"there is no folder {named.folder!r} in WORKER_MODELS_FOLDER ({str(folder)!r})")
    model = ClusterModel.load(path)
    if model.version != named.version:
        raise StartError(
            f"the folder {named.folder!r} holds model {model.version}, the models topic names {named.version}"
        )
    check_encoder(model, named, encoder)
    return model


def check_encoder(model: ClusterModel, named: Named, encoder: EncoderIdentity | None) -> None:
    """Refuse a model that does not take an encoder's embeddings, or does not say whose it takes.

    Raises:
        StartError: naming both encoders.
    """
    if model.encoder is None:
        raise StartError(f"the model in {named.folder!r} does not say whose embeddings it takes")
    if encoder is not None and not encoder.same_space(model.encoder):
        raise StartError(
            f"the model in {named.folder!r} was fitted with {describe(model.encoder)}, this worker encodes "
            f"with {describe(encoder)}: a new encoder takes new workers"
        )


def describe(identity: EncoderIdentity) -> str:
    return f"{identity.name} ({identity.precision}, weights {identity.weights[:12]}…)"


def warm(model: ClusterModel) -> None:
    """Predict some of the model's own training images, so that the first upload waits for nothing."""
    own = model.arrays["embeddings"]
    for size in WARM_SIZES:
        model.predict(own[np.arange(size) % len(own)].astype(np.float32))


def read_book(settings: Settings) -> Book:
    """All that the models topic says now.

    Raises:
        StartError: it is not there, or has more than one partition.
        WorkerError: Kafka is away.
    """
    topic = models_topic(settings)
    book = Book()
    with Scanner(topics.connection(settings)) as scanner:
        if scanner.partitions(topic) != [0]:
            raise StartError(f"{topic!r} must have one partition, so that its records have one order")
        for entry in scanner.read(topic, {0: 0}):
            book.take(entry.key, entry.value, entry.offset)
    return book


def models_topic(settings: Settings) -> str:
    """
    Raises:
        StartError: there is none.
    """
    if settings.models_topic is None:
        raise StartError("WORKER_MODELS_TOPIC is not set: it names the topic that says which model is live")
    return settings.models_topic


def models_folder(settings: Settings) -> Path:
    """
    Raises:
        StartError: there is none.
    """
    if settings.models_folder is None:
        raise StartError("WORKER_MODELS_FOLDER is not set: it is the folder that the model folders are in")
    return settings.models_folder


def first_model(settings: Settings) -> ClusterModel:
    """The model to start with: the live one of the topic, else the one before it, else WORKER_MODEL; without
    a topic, WORKER_MODEL.

    Raises:
        StartError: none of them can be used; the text has the reason of each.
        ModelError: without a topic, WORKER_MODEL cannot be loaded.
    """
    if settings.models_topic is None:
        if settings.model is None:
            raise StartError("WORKER_MODEL is not set; set it to a model folder (made by `imgclust fit`)")
        return ClusterModel.load(settings.model)
    folder = models_folder(settings)
    wish = read_book(settings).wishes.get("live")
    tries: list[tuple[str, Callable[[], ClusterModel]]] = []
    for what, named in (("live", wish.model), ("before", wish.before)) if wish else ():
        if named is not None:
            tries.append((f"{what} {named}", partial(load_named, folder, named, None)))
    if settings.model is not None:
        tries.append((f"WORKER_MODEL {str(settings.model)!r}", partial(ClusterModel.load, settings.model)))
    refused = []
    for what, load in tries:
        try:
            return load()
        except (ImgclustError, WorkerError) as error:
            refused.append(f"{what}: {error}")
            log.error("a model cannot be used; the next one is tried", model=what, error=str(error))
    if not tries:
        raise StartError(
            f"{models_topic(settings)!r} names no model, and WORKER_MODEL is not set: name one with "
            "`imgclust-worker models set FOLDER`"
        )
    raise StartError("\n".join(("no model can be used:", *refused)))


def worker_name() -> str:
    """Names this process in the topic: host, process and four random bytes."""
    host = "".join(c if c.isalnum() or c in ".-" else "_" for c in socket.gethostname()[:100])
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


@dataclasses.dataclass(slots=True)
class _Have:
    """What is used in a role, and what was refused last."""

    version: str | None
    refused: str | None = None  # version
    reason: str = ""
    again: float = 0.0


class ModelChanger:
    """What is wanted against what is used; knows nothing of Kafka.

    Args:
        folder: of models.
        encoder: what the worker encodes with.
        first: the model at work.
        inference: takes models into use.
        load: makes a model of what the topic names, see `load_named`.
        clock: monotonic seconds.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        encoder: EncoderIdentity,
        first: ClusterModel,
        inference: Inference,
        *,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int],
        load: Callable[[Path, Named, EncoderIdentity | None], ClusterModel] = load_named,
    ) -> None:
        self._folder = folder
        self._encoder = encoder
        self._inference = inference
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._wall_ms = wall_ms
        self._load = load
        self._have: dict[Role, _Have] = {"live": _Have(first.version), "shadow": _Have(None)}
        self._since = wall_ms()

    def settle(self, wishes: Mapping[Role, Wish]) -> bool:
        """Take into use what is wanted and is not used; returns whether anything has changed."""
        changed = self._settle("live", wishes.get("live"))
        shadow = wishes.get("shadow")
        if shadow is not None and shadow.model.version == self._have["live"].version:
            shadow = None  # it would agree with itself
        return self._settle("shadow", shadow) or changed

    def _settle(self, role: Role, wish: Wish | None) -> bool:
        have = self._have[role]
        version = None if wish is None else wish.model.version
        if version == have.version or (wish is None and role == "live"):
            # what was refused is not wanted any more
            return self._refused(role, None, "")
        if version == have.refused and self._clock() < have.again:
            return False
        if wish is None:
            self._inference.use_shadow(None)
            have.version = None
            log.info("no shadow model any more")
            self._refused(role, None, "")
            return True
        started = self._clock()
        try:
            model = self._load(self._folder, wish.model, self._encoder)
            warm(model)
        except Exception as error:  # whatever is in the folder, the old model goes on
            have.again = self._clock() + TRY_AGAIN
            return self._refused(role, wish.model, str(error) or type(error).__name__)
        self._take(role, model)
        have.version = model.version
        self._refused(role, None, "")
        self._metrics.model_changes["changed"].inc()
        log.info(
            "another model is at work" if role == "live" else "another shadow model",
            model=model.version, taxonomy=model.taxonomy, clusters=len(model.clusters),
            folder=wish.model.folder, seconds=round(self._clock() - started, 2),
        )  # fmt: skip
        return True

    def _take(self, role: Role, model: ClusterModel) -> None:
        if role == "shadow":
            self._inference.use_shadow(model)
            return
        self._inference.use(model)
        self._since = self._wall_ms()
        self._metrics.set_model(
            model.version, model.taxonomy, self._encoder.name, [cluster.id for cluster in model.clusters]
        )

    def _refused(self, role: Role, model: Named | None, reason: str) -> bool:
        """Say that a model cannot be used, or that there is none like that any more; whether that is new."""
        have = self._have[role]
        version = None if model is None else model.version
        new = (version, reason) != (have.refused, have.reason)
        have.refused, have.reason = version, reason
        if new and model is not None:
            self._metrics.model_changes["refused"].inc()
            log.error(
                f"the {role} model that is named cannot be used; nothing has changed",
                model=str(model), error=reason, again_in=TRY_AGAIN,
            )  # fmt: skip
        self._metrics.model_refused[role].set(model is not None)
        if new and role == "live":
            self._health.set("model", True, "" if model is None else f"{model} is wanted: {reason}")
        return new

    def report(self) -> Report:
        """What this worker runs now."""
        maker = self._inference.maker
        return Report(
            version=maker.version,
            taxonomy=maker.taxonomy,
            since=self._since,
            shadow=self._inference.shadow.report(),
            refused={role: f"{h.refused}: {h.reason}" for role, h in self._have.items() if h.refused},
            at=self._wall_ms(),
        )


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
        self._book = Book()
        self._stop = threading.Event()
        self._report_at = 0.0
        self._consumer = Consumer(
            {
                "client.id": "imgclust-models",
                **connection,
                "group.id": "imgclust.models",  # the client wants one; no group is joined
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 500,
            },
            logger=client_log,
        )
        self._producer = Producer(
            {"client.id": "imgclust-models", **connection, "message.timeout.ms": 10_000}, logger=client_log
        )
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take this worker's report back, and end; waits at most a few seconds."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        self._consumer.assign([KafkaPartition(self._topic, 0, OFFSET_BEGINNING)])
        caught_up = False
        while not self._stop.is_set():
            try:
                caught_up = self._read() or caught_up
                if caught_up:  # not before: what is read on the way was wanted once
                    changed = self._changer.settle(self._book.wishes)
                    if changed or self._clock() >= self._report_at:
                        self._report(write_report(self._changer.report()))
            except Exception:  # models do not change then, and everything else goes on
                log.exception("following the models topic failed for now")
                self._stop.wait(TRY_AGAIN)
        self._report(None)
        self._producer.flush(2)
        self._consumer.close()

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
            known = len(self._book.strange)
            self._book.take(message.key(), message.value(), -1 if offset is None else offset)
            if len(self._book.strange) > known:
                log.error("a record of the models topic is none of this worker's", offset=offset)
        return reached

    def _report(self, value: bytes | None) -> None:
        self._report_at = self._clock() + REPORT_EVERY
        try:
            self._producer.produce(self._topic, key=self._key, value=value, partition=0)
            self._producer.poll(0)
        except (BufferError, KafkaException) as error:
            log.warning("this worker's report could not be sent", error=str(error))


def follow(
    settings: Settings,
    model: ClusterModel,
    inference: Inference,
    encoder: EncoderIdentity,
    *,
    metrics: Metrics,
    health: Health,
    wall_ms: Callable[[], int],
) -> ModelsWatch | None:
    """What follows the models topic, ready to start; None where there is none."""
    if settings.models_topic is None or settings.models_folder is None:
        return None
    changer = ModelChanger(
        settings.models_folder,
        encoder,
        model,
        inference,
        metrics=metrics,
        health=health,
        wall_ms=wall_ms,
    )
    return ModelsWatch(topics.connection(settings), settings.models_topic, changer)
