"""The tagger's parts, from the fetchers to the loop on the thread that owns Kafka."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclust.fetching.urls import FetchPolicy
from worker.fetching.pool import FetcherPool
from worker.kafka.at_least_once import AtLeastOnce
from worker.kafka.client_config import (
    changelog_config,
    consumer_config,
    producer_config,
    transaction_config,
    transactional_id,
)
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.delivery import Delivery
from worker.kafka.exactly_once import ExactlyOnce
from worker.kafka.retry_changelog import RetryChangelog
from worker.kafka.topic_ids import TopicIds
from worker.messages.embedding import EmbeddingWriter
from worker.messages.formats import Formats
from worker.messages.headers import CloudEvents
from worker.messages.text import wall_ms
from worker.tagger.inference import Inference
from worker.tagger.models_topic import follow
from worker.tagger.parts import Begun, Leaving, PipelineParts, PipelinePolicy
from worker.tagger.pipeline import Pipeline
from worker.tagger.results import Results, ResultTopics
from worker.tagger.retrying import Retrying, RetryPolicy
from worker.telemetry import log as logs
from worker.telemetry import tracing
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics
from worker.telemetry.watchdog import Watchdog
from worker.telemetry.window import Standstill

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.types import Encoder

log = logs.get(__name__)


REPORT_EVERY = 1.0  # seconds
KAFKA_SECONDS = 3.0  # a transaction takes milliseconds: results that are not safe by then wait for Kafka


@dataclasses.dataclass(frozen=True, slots=True)
class UploadsSource:
    """Where uploads are read, and how results are delivered.

    Attributes:
        connection: librdkafka properties that lead to the brokers.
        protocol: of the group, see `client_config.group_protocol`.
        start: "earliest" or "latest", for partitions without a committed offset.
        exactly_once: in transactions; else at least once.
        commit_interval: seconds that a result waits for its transaction.
    """

    connection: Mapping[str, Any] = dataclasses.field(repr=False)
    topic: str
    group: str
    protocol: str
    start: str
    exactly_once: bool
    commit_interval: float


@dataclasses.dataclass(frozen=True, slots=True)
class Fetching:
    """How pictures are had; see `FetcherPool`."""

    processes: int
    slots: int
    connections: int
    max_pixels: int
    decode_timeout: float
    policy: FetchPolicy


@dataclasses.dataclass(frozen=True, slots=True)
class TaggerConfig:
    """
    Attributes:
        max_batch, max_wait: pictures, and seconds until a smaller batch leaves.
        drain_timeout: seconds to finish what is in flight at the end.
        stall_timeout: seconds without progress after which the process is ended.
        models: the topic that names the models, and the folder that they are in; None: the model stays.
        predict_device: where models that the topic names predict.
        trace_share: of uploads without a `traceparent` for which a trace begins here.
        cloud_events: the source of CloudEvents, where tags are to have their attributes.
    """

    source: UploadsSource
    topics: ResultTopics
    fetching: Fetching
    pipeline: PipelinePolicy
    retry: RetryPolicy
    max_batch: int
    max_wait: float
    tag_url: bool
    drain_timeout: float
    stall_timeout: float
    models: tuple[str, Path] | None = None
    cloud_events: str | None = None
    trace_share: float = 0.0
    predict_device: str = "cpu"


def batch_sizes(max_batch: int) -> list[int]:
    """1, 2, 4 … `max_batch`: the shapes that the encoder pads to."""
    sizes = [1]
    while sizes[-1] < max_batch:
        sizes.append(min(2 * sizes[-1], max_batch))
    return sizes


class Tagger:
    """The tagger's parts, from the fetchers to the loop on the thread that owns Kafka.

    Args:
        model, encoder: see `model_loading.load`; anything with the same methods will do.
        formats: what uploads are read from and tags are written in.
        health: gets the loop's beats and the conditions of readiness.
    """

    def __init__(
        self,
        config: TaggerConfig,
        model: ClusterModel,
        encoder: Encoder,
        *,
        formats: Formats,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._beat = clock()
        self._broken: Exception | None = None
        self._draining = False
        self._restarts = 0
        self._report_at = 0.0
        self._tracing = tracing.connect(config.source.topic, config.source.group, clock, config.trace_share)
        self.fetchers = FetcherPool(
            processes=config.fetching.processes,
            slots=config.fetching.slots,
            preprocessing=encoder.identity.preprocessing,
            policy=config.fetching.policy,
            on_outcomes=lambda outcomes: self.pipeline.on_fetched(outcomes),
            connections=config.fetching.connections,
            max_pixels=config.fetching.max_pixels,
            decode_timeout=config.fetching.decode_timeout,
        )
        self.inference = Inference(
            encoder,
            model,
            pixels=self.fetchers.pixels,
            release=self.fetchers.release,
            on_outcomes=lambda outcomes: self.pipeline.on_predicted(outcomes),
            on_broken=self._inference_broke,
            max_batch=config.max_batch,
            max_wait=config.max_wait,
            clock=clock,
            metrics=metrics,
            tracing=self._tracing,
            keep_embeddings=config.topics.embeddings is not None,
        )
        self.pipeline = self._pipeline(formats, EmbeddingWriter(encoder.identity, keep_url=config.tag_url))
        self._models = follow(
            config.source.connection, config.models, model, self.inference, encoder.identity,
            metrics=metrics, health=health, wall_ms=wall_ms, device=config.predict_device,
        )  # fmt: skip
        self._standstill = Standstill(clock)
        self._watchdog = Watchdog(config.stall_timeout, self._stalled_for)
        metrics.set_model(
            model.version, model.taxonomy, encoder.identity.name, {c.id: c.stability for c in model.clusters}
        )

    def _pipeline(self, formats: Formats, embeddings: EmbeddingWriter) -> Pipeline:
        config = self._config
        results = Results(
            config.topics,
            formats,
            embeddings=embeddings,
            model=lambda: self.inference.maker.version,
            tag_url=config.tag_url,
            cloud=None if config.cloud_events is None else CloudEvents(config.cloud_events),
            wall_ms=wall_ms,
            metrics=self._metrics,
        )
        return Pipeline(
            config.pipeline,
            self._connect,
            PipelineParts(
                formats.intake,
                self.fetchers,
                self.inference,
                results,
                Retrying(config.retry, clock=self._clock, wall_ms=wall_ms),
            ),
            clock=self._clock,
            metrics=self._metrics,
            tracing=self._tracing,
        )

    def _connect(self, on_begun: Begun, on_leaving: Leaving) -> tuple[UploadsConsumer, Delivery]:
        source = self._config.source
        consumer = UploadsConsumer(
            consumer_config(source.connection, source.group, source.protocol),
            source.topic,
            start=source.start,
            clock=self._clock,
            wall_ms=wall_ms,
            metrics=self._metrics,
            retries=RetryChangelog(
                changelog_config(source.connection, source.group),
                self._config.topics.retry,
                clock=self._clock,
                wall_ms=wall_ms,
                longest=self._config.retry.longest,
            ),
            ids=TopicIds(source.connection, [source.topic, self._config.topics.retry], clock=self._clock),
            on_begun=on_begun,
            on_leaving=on_leaving,
        )
        self._delivery = self._deliver(consumer)
        return consumer, self._delivery

    def _deliver(self, consumer: UploadsConsumer) -> Delivery:
        source = self._config.source
        common: dict[str, Any] = {
            "interval": source.commit_interval, "metrics": self._metrics, "clock": self._clock,
        }  # fmt: skip
        if source.exactly_once:
            config = transaction_config(source.connection, transactional_id(source.group))
            return ExactlyOnce(config, source.topic, consumer, **common)
        return AtLeastOnce(producer_config(source.connection), source.topic, consumer, **common)

    # ── watching ─────────────────────────────────────────────────────────────────────────────────────────

    def _inference_broke(self, error: Exception) -> None:
        self._broken = error

    def _stalled_for(self) -> dict[str, float]:
        return {**self.inference.stalled_for(), "loop": self._clock() - self._beat}

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Warm up and start; reading begins with the first round."""
        self.fetchers.start()
        self.inference.register(self.fetchers.memory)
        started = self._clock()
        self.inference.warm_up(batch_sizes(self._config.max_batch))
        log.info("encoder and model are warm", seconds=round(self._clock() - started, 2))
        self._health.set("encoder", True)
        self._health.set("model", True)
        self.inference.start()
        if self._models is not None:
            self._models.start()
        self._beat = self._clock()
        self._watchdog.start()

    def run_once(self) -> None:
        """One round of the loop.

        Raises:
            Exception: what broke the encoder, after which nothing can be tagged.
        """
        self.pipeline.run_once()
        self._beaten()
        if self._broken is not None:
            raise self._broken

    def _beaten(self) -> None:
        self._beat = self._clock()
        stands = self._standstill.seconds(self._delivery.waiting) > KAFKA_SECONDS
        self._health.beat("tagger", "Kafka" if stands else "")
        self._metrics.polls.beat()
        self._health.set("assigned", *self._assigned())
        if self._beat >= self._report_at:
            self._report_at = self._beat + REPORT_EVERY
            self._report()

    def _assigned(self) -> tuple[bool, str]:
        """Whether partitions are ours and all of them have begun, or are being restored; and why not."""
        if not self.pipeline.partitions:
            return False, "no partition of the uploads topic is ours"
        waiting = self.pipeline.waiting
        return not waiting, "".join(f"partition {p}: {why}" for p, why in sorted(waiting.items())[:1])

    def _report(self) -> None:
        """Bring the metrics of the fetchers up to date."""
        self._metrics.fetchers.set(self.fetchers.alive)
        self._metrics.slots_used.set(self.fetchers.slots_used)
        self._metrics.fetcher_restarts.inc(self.fetchers.restarts - self._restarts)
        self._restarts = self.fetchers.restarts

    def drain(self, hurry: Callable[[], bool]) -> bool:
        """Finish what is in flight and commit, see `Pipeline.drain`."""
        self._health.set("assigned", False, "draining")
        log.info("draining", in_flight=self.pipeline.in_flight, seconds=self._config.drain_timeout)
        self._draining = True
        self._watchdog.stop()  # the drain has a deadline of its own
        return self.pipeline.drain(self._config.drain_timeout, hurry)

    def stop(self, *, leave_group: bool) -> None:
        self._watchdog.stop()
        if not self._draining and self._broken is None:
            with contextlib.suppress(Exception):  # it may be Kafka that failed
                self.pipeline.give_back()
        if leave_group:
            self.pipeline.close()
        if self._models is not None:
            self._models.stop()
        self.inference.stop()
        self.fetchers.stop(timeout=5)
