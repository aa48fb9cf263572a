"""Settings → parts → run: puts the tagger together, turns its loop, takes it apart."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import gc
import importlib.util
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from imgclust.support.malloc import keep_freed_memory
from worker.errors import StartError
from worker.fetching.pool import FetcherPool
from worker.fetching.protocol import Decoded, Failed
from worker.kafka import topics
from worker.kafka.consumer import Begun, UploadsConsumer, consumer_config, group_protocol
from worker.kafka.delivery import AtLeastOnce, Delivery, producer_config
from worker.kafka.exactly_once import ExactlyOnce, transaction_config, transactional_id
from worker.kafka.retry_changelog import RetriesReader, restore_config
from worker.messages import formats
from worker.messages.embedding import EmbeddingWriter
from worker.messages.upload import wall_ms
from worker.settings.load import Settings
from worker.tagger.inference import Inference, Ready
from worker.tagger.model_switch import describe, first_model, follow
from worker.tagger.pipeline import Leaving, Pipeline, Policy
from worker.telemetry import log as logs
from worker.telemetry import tracing
from worker.telemetry.health import Health, HealthServer
from worker.telemetry.metrics import Metrics
from worker.telemetry.watchdog import LEAVE_TIMEOUT, Watchdog, end_within
from worker.view.client import connect
from worker.view.consumer import ViewConsumer
from worker.view.store import TagsView

if TYPE_CHECKING:
    from imgclust.fetching.urls import FetchPolicy
    from imgclust.model.model import ClusterModel
    from imgclust.types import Encoder

log = logs.get(__name__)

EXIT_OK, EXIT_FAILED, EXIT_SETTINGS, EXIT_START = 0, 1, 2, 3
TELL_EVERY = 1.0  # seconds
EXIT_HURRIED = 130  # a second SIGTERM or SIGINT: left at once


class Signals:
    """SIGTERM and SIGINT: the first asks to drain, the second to leave at once.

    Python runs handlers between two steps of the main thread, which may sit in a call to Kafka for a minute.
    The bytes that arrive on the wakeup descriptor are seen at once by a thread of its own: two seconds after
    a second signal it ends the process.
    """

    PATIENCE = 2.0

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._count = 0

    @property
    def hurry(self) -> bool:
        return self._count > 1

    def _received(self, number: int, _: FrameType | None) -> None:
        self._count += 1
        self.stop.set()

    def _listen(self, wakeups: socket.socket) -> None:
        seen = 0
        while wakeups.recv(1):
            seen += 1
            if seen == 2:
                time.sleep(self.PATIENCE)
                os._exit(EXIT_HURRIED)

    @contextlib.contextmanager
    def installed(self) -> Iterator[Signals]:
        ours, pythons = socket.socketpair()
        pythons.setblocking(False)
        threading.Thread(target=self._listen, args=(ours,), name="signals", daemon=True).start()
        before = {s: signal.signal(s, self._received) for s in (signal.SIGTERM, signal.SIGINT)}
        descriptor = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            pythons.close()


def load(settings: Settings) -> tuple[ClusterModel, Encoder]:
    """The model to start with, and the encoder that its manifest names.

    Raises:
        StartError: no model is named, or the encoder that loads is not the one the model was fitted with.
        ImgclustError: the folder or the weights cannot be loaded.
    """
    from imgclust.embedding.encoder import load_encoder

    started = time.monotonic()
    model = first_model(settings)
    wanted = model.encoder
    if wanted is None:
        raise StartError(
            f"model {model.version} does not say whose embeddings it takes; "
            "freeze it with ClusterModel.from_fitted(…, encoder=…)"
        )
    encoder = load_encoder(
        wanted.name,
        device=settings.device,
        precision=settings.precision or wanted.precision,
        weights=settings.encoder_weights,
        max_batch=settings.max_batch,
    )
    if not encoder.identity.same_space(wanted):
        raise StartError(
            f"model {model.version} was fitted with {describe(wanted)}, "
            f"what loaded is {describe(encoder.identity)}; "
            "set WORKER_ENCODER_WEIGHTS and WORKER_PRECISION to match"
        )
    log.info(
        "model loaded",
        model=model.version, taxonomy=model.taxonomy, clusters=len(model.clusters), encoder=wanted.name,
        seconds=round(time.monotonic() - started, 2),
    )  # fmt: skip
    return model, encoder


def fetch_policy(settings: Settings) -> FetchPolicy:
    """What the fetchers may do.

    Raises:
        StartError: buckets are allowed, but what reads them is not installed.
    """
    from imgclust.fetching.object_store import S3_HINT
    from imgclust.fetching.urls import FetchPolicy

    if settings.fetch_allow_buckets and importlib.util.find_spec("obstore") is None:
        raise StartError(f"WORKER_FETCH_ALLOW_BUCKETS needs the package obstore: {S3_HINT}")

    return FetchPolicy(
        allow_networks=settings.fetch_allow_networks,
        allow_hosts=settings.fetch_allow_hosts,
        deny_hosts=settings.fetch_deny_hosts,
        allow_ports=settings.fetch_allow_ports,
        allow_files=settings.fetch_allow_files,
        allow_buckets=settings.fetch_allow_buckets,
        proxy=settings.fetch_proxy,
        nat64_prefixes=settings.fetch_nat64_prefixes,
        max_bytes=settings.fetch_max_bytes,
        total_timeout=settings.fetch_timeout,
        connect_timeout=settings.fetch_connect_timeout,
        first_byte_timeout=settings.fetch_silence_timeout,
        min_rate=settings.fetch_min_rate,
        per_host=settings.fetch_per_host or None,
    )


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
            formats=formats.formats(settings),
            embeddings=EmbeddingWriter(encoder.identity, keep_url=settings.tag_url),
        )
        self._models = follow(
            settings, model, self.inference, encoder.identity, metrics=metrics, health=health, wall_ms=wall_ms
        )
        self._watchdog = Watchdog(settings.stall_timeout, self._stalled_for)
        metrics.set_model(
            model.version, model.taxonomy, encoder.identity.name, [cluster.id for cluster in model.clusters]
        )

    def _consumer(self, on_begun: Callable[[Begun], None], on_leaving: Leaving) -> UploadsConsumer:
        s = self._settings
        return UploadsConsumer(
            consumer_config(s.bootstrap_servers, s.group_id, s.group_protocol, s.kafka),
            s.uploads_topic,
            start=s.start,
            clock=self._clock,
            wall_ms=wall_ms,
            metrics=self._metrics,
            retries=RetriesReader(
                restore_config(s.bootstrap_servers, s.group_id, s.kafka),
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
            config = transaction_config(s.bootstrap_servers, s.kafka, transactional_id(s.group_id))
            return ExactlyOnce(config, s.uploads_topic, consumer, **common)
        return AtLeastOnce(producer_config(s.bootstrap_servers, s.kafka), s.uploads_topic, consumer, **common)

    # ── between the parts ────────────────────────────────────────────────────────────────────────────────

    def _fetched(self, outcomes: list[Decoded | Failed]) -> None:
        """From the fetchers' thread: pictures go on to the encoder, failures back to the pipeline."""
        if self._tracing.active:
            self._tracing.fetched(outcomes)
        ready: list[Ready] = []
        failed: list[Failed] = []
        fetch, decode = self._metrics.stages["fetch"], self._metrics.stages["decode"]
        for outcome in outcomes:
            if isinstance(outcome, Decoded):
                ready.append(Ready(outcome.token, outcome.slot))
                fetch.seconds.observe(outcome.fetch_seconds)
                decode.seconds.observe(outcome.decode_seconds)
            else:
                failed.append(outcome)
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

    def turn(self) -> None:
        """One round of the loop.

        Raises:
            Exception: what broke the encoder, after which nothing can be tagged.
        """
        self.pipeline.turn()
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


def spare_collector() -> None:
    """Leave all that is loaded by now out of later garbage collections.

    That is 380,000 objects, most of them torch's, which stay. Looking through them again and again took 45 %
    of the loop's time, and stopped every thread for tenths of a second at once.
    """
    gc.collect()
    gc.freeze()


def policy(settings: Settings) -> Policy:
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Policy)}
    return Policy(**fields)


def run(settings: Settings, *, view: bool = True) -> int:
    """Run the tagger, and the view beside it, until a signal.

    Returns:
        The exit code: 0 drained, 130 left at once.

    Raises:
        StartError, ImgclustError: it cannot start.
    """
    if settings.device in ("auto", "cpu"):
        keep_freed_memory()  # before any thread, see there
    metrics = Metrics()
    health = Health(conditions=("assigned", "model", "encoder"))
    with Signals().installed() as signals, contextlib.ExitStack() as stack:
        server = stack.enter_context(HealthServer(*settings.http, metrics.registry, health))
        log.info("metrics and health", address="{}:{}".format(*server.address))
        topics.ensure(settings)
        model, encoder = load(settings)
        if view:
            stack.enter_context(beside(settings, metrics, health))
        tagger = Tagger(settings, model, encoder, metrics=metrics, health=health)
        finished = False
        try:
            tagger.start()
            spare_collector()
            while not signals.stop.is_set():
                tagger.turn()
            finished = tagger.drain(lambda: signals.hurry)
            log.info("drained" if finished else "left with work undone; the next worker does it")
            end_within(LEAVE_TIMEOUT, EXIT_HURRIED if signals.hurry else EXIT_OK)
            # and where not even that can run, because a client keeps the interpreter's lock: exit code 1
            faulthandler.dump_traceback_later(LEAVE_TIMEOUT + 5, exit=True)
        finally:
            tagger.stop(leave_group=not signals.hurry)
    return EXIT_HURRIED if signals.hurry else EXIT_OK


def view_of(settings: Settings, metrics: Metrics, health: Health) -> ViewConsumer:
    """The view as the settings want it; it connects when it runs."""
    kafka = {**topics.connection(settings), **group_protocol(settings.group_protocol)}
    client = connect(settings.redis_url, settings.redis_password)
    view = TagsView(
        client, settings.redis_prefix, keep=settings.redis_keep, set_size=settings.redis_cluster_size
    )
    group = f"{settings.group_id}.view"
    tags = formats.tag_format(settings)
    return ViewConsumer(kafka, settings.tags_topic, group, view, metrics=metrics, health=health, tags=tags)


@contextlib.contextmanager
def beside(settings: Settings, metrics: Metrics, health: Health) -> Iterator[None]:
    """The view in a thread of its own. Redis being away delays it and touches nobody else."""
    stop = threading.Event()
    view = view_of(settings, metrics, health)
    thread = threading.Thread(target=view.run, args=(stop,), name="view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


def run_view(settings: Settings, *, rebuild: bool = False) -> int:
    """Run only the view, until a signal; with `rebuild`, from the start of the partitions that it owns."""
    metrics, health = Metrics(), Health()
    with Signals().installed() as signals, HealthServer(*settings.http, metrics.registry, health) as server:
        log.info("metrics and health", address="{}:{}".format(*server.address))
        topics.ensure(settings)
        view = view_of(settings, metrics, health)
        if rebuild:
            view.rebuild()
        view.run(signals.stop)
    return EXIT_OK
