"""The tagger's parts, from the fetchers to the loop on the thread that owns Kafka."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from worker import wiring
from worker.fetching.pool import FetcherPool
from worker.fetching.protocol import Decoded, Failed
from worker.kafka.assignment import BegunPartition
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
from worker.messages.embedding import EmbeddingWriter
from worker.messages.text import wall_ms
from worker.settings.settings import Settings
from worker.tagger.inference import Inference
from worker.tagger.models_topic import follow
from worker.tagger.pipeline import Leaving, Pipeline, Policy
from worker.tagger.prediction import Ready
from worker.telemetry import log as logs
from worker.telemetry import tracing
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics
from worker.telemetry.watchdog import Watchdog
from worker.wiring import fetch_policy

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.types import Encoder

log = logs.get(__name__)


TELL_EVERY = 1.0  # seconds


def batch_sizes(max_batch: int) -> list[int]:
    """1, 2, 4 … `max_batch`: the shapes that the encoder pads to."""
    sizes = [1]
    while sizes[-1] < max_batch:
        sizes.append(min(2 * sizes[-1], max_batch))
    return sizes


class Tagger:
    """The tagger's parts, from the fetchers to the loop on the thread that owns Kafka.

    Args:
        model, encoder: see `load`; anything with the same methods will do.
        health: gets the loop's beats and the conditions of readiness.
    """

    def __init__(
        self,
        settings: Settings,
        model: ClusterModel,
        encoder: Encoder,
        *,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._beat = clock()
        self._broken: Exception | None = None
        self._restarts = 0
        self._tell_at = 0.0
        self._draining = False
        self._tracing = tracing.connect(settings.uploads_topic, settings.group_id, clock)
        self.fetchers = FetcherPool(
            processes=settings.fetchers,
            slots=settings.slots,
            preprocessing=encoder.identity.preprocessing,
            policy=fetch_policy(settings),
            on_outcomes=self._fetched,
            connections=settings.fetch_connections,
            max_pixels=settings.max_pixels,
            decode_timeout=settings.decode_timeout,
        )
        self.inference = Inference(
            encoder,
            model,
            pixels=self.fetchers.pixels,
            release=self.fetchers.release,
            on_outcomes=lambda outcomes: self.pipeline.on_predicted(outcomes),
            on_broken=self._inference_broke,
            max_batch=settings.max_batch,
            max_wait=settings.max_wait,
            clock=clock,
            metrics=metrics,
            tracing=self._tracing,
            keep_embeddings=settings.embeddings_topic is not None,
        )
        self.pipeline = Pipeline(
            policy(settings),
            connect_consumer=self._consumer,
            connect_delivery=self._deliver,
            fetchers=self.fetchers,
            inference=self.inference,
            clock=clock,
            wall_ms=wall_ms,
            metrics=metrics,
            tracing=self._tracing,
            formats=wiring.formats(settings),
            embeddings=EmbeddingWriter(encoder.identity, keep_url=settings.tag_url),
        )
        self._models = follow(
            settings, model, self.inference, encoder.identity, metrics=metrics, health=health, wall_ms=wall_ms
        )
        self._watchdog = Watchdog(settings.stall_timeout, self._stalled_for)
        metrics.set_model(
            model.version, model.taxonomy, encoder.identity.name, [cluster.id for cluster in model.clusters]
        )

    def _consumer(self, on_begun: Callable[[BegunPartition], None], on_leaving: Leaving) -> UploadsConsumer:
        s = self._settings
        return UploadsConsumer(
            consumer_config(wiring.connection(s), s.group_id, s.group_protocol),
            s.uploads_topic,
            start=s.start,
            clock=self._clock,
            wall_ms=wall_ms,
            metrics=self._metrics,
            retries=RetryChangelog(
                changelog_config(wiring.connection(s), s.group_id),
                s.retry_topic,
                clock=self._clock,
                wall_ms=wall_ms,
                longest=s.retry_max,
            ),
            on_begun=on_begun,
            on_leaving=on_leaving,
        )

    def _deliver(self, consumer: UploadsConsumer) -> Delivery:
        s = self._settings
        common: dict[str, Any] = {
            "interval": s.commit_interval, "metrics": self._metrics, "clock": self._clock,
        }  # fmt: skip
        if s.delivery == "exactly-once":
            config = transaction_config(wiring.connection(s), transactional_id(s.group_id))
            return ExactlyOnce(config, s.uploads_topic, consumer, **common)
        return AtLeastOnce(producer_config(wiring.connection(s)), s.uploads_topic, consumer, **common)

    # ── between the parts ────────────────────────────────────────────────────────────────────────────────

    def _fetched(self, outcomes: list[Decoded | Failed]) -> None:
        """From the fetchers' thread: pictures go on to the encoder, failures back to the pipeline."""
        traced = self._tracing.active
        ready: list[Ready] = []
        failed: list[Failed] = []
        fetch, decode = self._metrics.stages["fetch"], self._metrics.stages["decode"]
        for outcome in outcomes:
            if isinstance(outcome, Decoded):
                ready.append(Ready(outcome.token, outcome.slot))
                if traced:
                    self._tracing.decoded(outcome.token, outcome.fetch_seconds, outcome.decode_seconds)
                fetch.seconds.observe(outcome.fetch_seconds)
                decode.seconds.observe(outcome.decode_seconds)
            else:
                failed.append(outcome)
                if traced:
                    self._tracing.failed(outcome.token, outcome.stage, outcome.code)
        in_fetch = sum(f.stage == "fetch" for f in failed)
        fetch.leave(len(outcomes) - in_fetch)
        fetch.leave(in_fetch, "dead")
        decode.enter(len(outcomes) - in_fetch)
        decode.leave(len(ready))
        decode.leave(len(failed) - in_fetch, "dead")
        if ready:
            if self.pipeline.careful:
                self.pipeline.on_decoded(ready)
            else:
                self.inference.put(ready)
        if failed:
            self.pipeline.on_failed(failed)

    def _inference_broke(self, error: Exception) -> None:
        self._broken = error

    def _stalled_for(self) -> dict[str, float]:
        return {**self.inference.stalled_for(), "loop": self._clock() - self._beat}

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Warm up and start; reading begins with the first turn."""
        self.fetchers.start()
        started = self._clock()
        self.inference.warm_up(batch_sizes(self._settings.max_batch))
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
        self._health.beat("tagger")
        self._metrics.polls.beat()
        assigned = bool(self.pipeline.partitions)
        self._health.set(
            "assigned", assigned, "" if assigned else "no partition of the uploads topic is ours"
        )
        if self._beat >= self._tell_at:
            self._tell_at = self._beat + TELL_EVERY
            self._tell()

    def _tell(self) -> None:
        """Bring the metrics of the fetchers up to date."""
        self._metrics.fetchers.set(self.fetchers.alive)
        self._metrics.slots_used.set(self.fetchers.slots_used)
        self._metrics.fetcher_restarts.inc(self.fetchers.restarts - self._restarts)
        self._restarts = self.fetchers.restarts

    def drain(self, hurry: Callable[[], bool]) -> bool:
        """Finish what is in flight and commit, see `Pipeline.drain`."""
        self._health.set("assigned", False, "draining")
        log.info("draining", in_flight=self.pipeline.in_flight, seconds=self._settings.drain_timeout)
        self._watchdog.stop()  # the drain has a deadline of its own
        return self.pipeline.drain(self._settings.drain_timeout, hurry)

    def stop(self, *, leave_group: bool) -> None:
        self._watchdog.stop()
        if leave_group:
            self.pipeline.close()
        if self._models is not None:
            self._models.stop()
        self.inference.stop()
        self.fetchers.stop(timeout=5)


def policy(settings: Settings) -> Policy:
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Policy)}
    return Policy(**fields)
