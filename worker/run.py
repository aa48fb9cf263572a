"""Settings → parts → run: puts the service together, runs it until a signal, takes it apart."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from imgclust.support.machine import keep_freed_memory
from worker import wiring
from worker.errors import KafkaAway
from worker.kafka import topics
from worker.kafka.client_config import view_config
from worker.kafka.retention import DeleteRetention
from worker.kafka.topic_ids import TopicIds
from worker.settings.settings import Settings
from worker.signals import Signals
from worker.tagger.model_loading import load
from worker.tagger.parts import PipelinePolicy
from worker.tagger.results import ResultTopics
from worker.tagger.retrying import RetryPolicy
from worker.tagger.tagger import Fetching, Tagger, TaggerConfig, UploadsSource
from worker.telemetry import log as logs
from worker.telemetry.health import Health, HealthServer
from worker.telemetry.metrics import Metrics
from worker.telemetry.otlp import exporting
from worker.telemetry.watchdog import LEAVE_TIMEOUT, end_within
from worker.view.client import connect
from worker.view.consumer import ViewConsumer
from worker.view.store import TagsView

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.types import Encoder

log = logs.get(__name__)

EXIT_FAILED = 1
REPORT_WAITING = 10.0  # seconds between two log lines about a broker that is away
SIGNAL_SECONDS = 0.2  # until a signal is seen

T = TypeVar("T")


def spare_collector() -> None:
    """Leave all that is loaded by now out of later garbage collections.

    That is 380,000 objects, most of them torch's, which stay. Looking through them again and again took 45 %
    of the loop's time, and stopped every thread for tenths of a second at once.
    """
    gc.collect()
    gc.freeze()


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
        stack.enter_context(exporting(metrics.registry))
        log.info("metrics and health", address="{}:{}".format(*server.address))
        loaded = when_kafka_answers(settings, signals, health, lambda: load(settings))
        if loaded is None:
            return signals.exit_code
        if view:
            stack.enter_context(beside(settings, metrics, health))
        tagger = make_tagger(settings, *loaded, metrics, health)
        code = EXIT_FAILED
        try:
            tagger.start()
            spare_collector()
            while not signals.stop.is_set():
                tagger.run_once()
            finished = tagger.drain(lambda: signals.hurry)
            log.info("drained" if finished else "exiting with unfinished work; the next worker does it")
            code = signals.exit_code
        except Exception:
            log.exception("the tagger has failed")  # the way out may not end
            raise
        finally:
            leave_in_time(code)
            tagger.stop(leave_group=not signals.hurry)
    return code


def when_kafka_answers(
    settings: Settings, signals: Signals, health: Health, start: Callable[[], T]
) -> T | None:
    """What `start` returns, with the topics as they must be; waits for a broker that is away.

    Returns:
        None after a signal.

    Raises:
        StartError: something else is missing.
    """
    config = wiring.topics_config(settings)
    reported = -math.inf
    health.set("kafka", False, "waits for Kafka")

    def wait() -> bool:
        nonlocal reported
        health.beat("start", "Kafka")
        if time.monotonic() - reported > REPORT_WAITING:
            log.info("waiting for Kafka", servers=settings.bootstrap_servers)
            reported = time.monotonic()
        return not signals.stop.is_set()

    try:
        while topics.await_kafka(config, wait):
            try:
                topics.ensure(config)
                health.set("kafka", True)
                return start()
            except KafkaAway as error:
                health.set("kafka", False, "waits for Kafka")
                log.warning("Kafka is away again", reason=str(error))
        return None
    finally:
        health.forget("start")


def leave_in_time(code: int) -> None:
    """From now on the process ends with `code`, whatever a client does that has to say goodbye to brokers."""
    end_within(LEAVE_TIMEOUT, code)
    # and where not even that can run, because a client keeps the interpreter's lock: exit code 1
    faulthandler.dump_traceback_later(LEAVE_TIMEOUT + 5, exit=True)


def make_tagger(
    settings: Settings, model: ClusterModel, encoder: Encoder, metrics: Metrics, health: Health
) -> Tagger:
    formats = wiring.formats(settings)
    return Tagger(tagger_config(settings), model, encoder, formats=formats, metrics=metrics, health=health)


def tagger_config(settings: Settings) -> TaggerConfig:
    """What the settings say of the tagger.

    Raises:
        StartError: buckets are allowed, but what reads them is not installed.
    """
    s = settings
    source = UploadsSource(
        wiring.connection(s), s.uploads_topic, s.group_id, s.group_protocol, s.start,
        exactly_once=s.delivery == "exactly-once", commit_interval=s.commit_interval,
    )  # fmt: skip
    fetching = Fetching(
        s.fetchers, s.slots, s.fetch_connections, s.max_pixels, s.decode_timeout, wiring.fetch_policy(s)
    )
    models = None
    if s.models_topic is not None and s.models_folder is not None:
        models = s.models_topic, s.models_folder
    return TaggerConfig(
        source,
        ResultTopics(s.tags_topic, s.retry_topic, s.dlq_topic, s.embeddings_topic),
        fetching,
        PipelinePolicy(s.max_in_flight, s.skip, fill=2 * s.fetchers * s.fetch_connections + s.slots),
        RetryPolicy(s.retry_limit, s.retry_first, s.retry_max),
        max_batch=s.max_batch,
        max_wait=s.max_wait,
        tag_url=s.tag_url,
        drain_timeout=s.drain_timeout,
        stall_timeout=s.stall_timeout,
        models=models,
        cloud_events=s.cloud_events,
        trace_share=s.trace_share,
        predict_device=s.predict_device,
    )


def view_of(settings: Settings, metrics: Metrics, health: Health) -> ViewConsumer:
    """The view as the settings want it; it connects when it runs."""
    kafka, topic = wiring.connection(settings), settings.tags_topic
    client = connect(settings.redis_url, settings.redis_password)
    view = TagsView(
        client,
        settings.redis_prefix,
        keep=settings.redis_keep,
        set_size=settings.redis_cluster_size,
        packed=settings.redis_tag == "compact",
    )
    return ViewConsumer(
        view_config(kafka, f"{settings.group_id}.view", settings.group_protocol),
        topic,
        view,
        metrics=metrics,
        health=health,
        retention=DeleteRetention(kafka, topic),
        ids=TopicIds(kafka, [topic]),
        tags=wiring.tag_format(settings),
    )


class ViewThread:
    """The view in a thread of its own."""

    def __init__(self, view: ViewConsumer) -> None:
        self._view = view
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)

    def _run(self) -> None:
        try:
            self._view.run(self._stop)
        except Exception as error:  # is in the log, and `/healthz` finds it dead
            self._error = error

    def start(self) -> None:
        self._thread.start()

    def ended(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def stop(self, timeout: float | None = None) -> None:
        """Raises what the view failed with."""
        self._stop.set()
        self._thread.join(timeout)
        if self._error is not None:
            raise self._error


@contextlib.contextmanager
def beside(settings: Settings, metrics: Metrics, health: Health) -> Iterator[None]:
    """The view beside the tagger. Redis being away delays it and touches nobody else."""
    view = ViewThread(view_of(settings, metrics, health))
    view.start()
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # is in the log
            view.stop(timeout=10)


def run_view(settings: Settings, *, rebuild: bool = False) -> int:
    """Run only the view, until a signal; with `rebuild`, from the start of the partitions that it owns.

    Raises:
        StartError: it cannot start.
        WorkerError: it cannot go on.
    """
    metrics, health = Metrics(), Health()
    with (
        Signals().installed() as signals,
        HealthServer(*settings.http, metrics.registry, health) as server,
        exporting(metrics.registry),
    ):
        log.info("metrics and health", address="{}:{}".format(*server.address))
        consumer = when_kafka_answers(settings, signals, health, lambda: view_of(settings, metrics, health))
        if consumer is None:
            return signals.exit_code
        if rebuild:
            consumer.rebuild()
        view = ViewThread(consumer)
        view.start()
        while not (signals.stop.is_set() or view.ended(SIGNAL_SECONDS)):
            pass
        leave_in_time(signals.exit_code if signals.stop.is_set() else EXIT_FAILED)
        view.stop()
    return signals.exit_code
