"""The worker's metrics: the instruments of the table's rows.

They are prometheus_client's, looked up once: an update costs 0.25 to 0.6 µs.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from imgclust.types import OTHER
from worker.errors import ERROR_CODES
from worker.telemetry import model_metrics as models
from worker.telemetry import service_metrics as services
from worker.telemetry import upload_metrics as uploads
from worker.telemetry.metric_row import MetricRow
from worker.telemetry.metrics_table import TABLE
from worker.telemetry.window import LongestPause, Window

InstrumentT = TypeVar("InstrumentT", Counter, Gauge, Histogram)

EMPTY: Mapping[int, float | None] = MappingProxyType({})

# `…_created` series double a scrape and say nothing that `imgclust_start_time_seconds` does not
disable_created_metrics()  # type: ignore[no-untyped-call]

OTHER_WINDOW = 300  # seconds over which the share of "other" is taken
POLL_WINDOW = 60  # seconds over which the longest gap between polls is kept


class StageMetrics:
    """What one stage reports; `enter` and `leave` may be called from any thread."""

    def __init__(self, metrics: Metrics, stage: str) -> None:
        self._received = metrics.counter(uploads.STAGE_RECEIVED, stage)
        self._finished = {
            o: metrics.counter(uploads.STAGE_FINISHED, stage, o) for o in uploads.STAGE_OUTCOMES
        }
        self._in_progress = metrics.gauge(uploads.STAGE_IN_PROGRESS, stage)
        self.seconds = metrics.histogram(uploads.STAGE_SECONDS, stage)

    def enter(self, n: int = 1) -> None:
        """`n` items came in."""
        self._received.inc(n)
        self._in_progress.inc(n)

    def leave(self, n: int = 1, outcome: str = "ok", seconds: float | None = None) -> None:
        """`n` items are done; `seconds` is what each took (leave it out where it was observed alone)."""
        self._finished[outcome].inc(n)
        self._in_progress.dec(n)
        if seconds is not None:
            for _ in range(n):
                self.seconds.observe(seconds)


class Metrics:
    """The worker's metrics, in a registry of their own.

    Args:
        clock: seconds, steady; for the sliding windows.
        now: seconds since the epoch; for the start time.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self.registry = CollectorRegistry()
        self._families = {row.name: self._make(row) for row in TABLE}
        ProcessCollector(registry=self.registry)

        self.stages = {stage: StageMetrics(self, stage) for stage in uploads.STAGES}
        self.uploads = {
            outcome: self.counter(uploads.UPLOADS, outcome) for outcome in uploads.UPLOAD_OUTCOMES
        }
        self.dead_letters = {code: self.counter(uploads.DEAD_LETTERS, code) for code in ERROR_CODES}
        self.retries = {code: self.counter(uploads.RETRIES, code) for code in ERROR_CODES}
        self.commits = {
            outcome: self.counter(uploads.COMMITS, outcome) for outcome in uploads.COMMIT_OUTCOMES
        }
        self.view_records = {
            outcome: self.counter(services.VIEW_RECORDS, outcome) for outcome in services.VIEW_OUTCOMES
        }
        self.view_errors = {kind: self.counter(services.VIEW_ERRORS, kind) for kind in services.REDIS_ERRORS}
        self.batch_images = self.histogram(uploads.BATCH_IMAGES)
        self.batch_wait = self.histogram(uploads.BATCH_WAIT)
        self.busy_seconds = {
            stage: self.counter(uploads.BUSY_SECONDS, stage) for stage in uploads.BUSY_STAGES
        }
        self.out_of_memory = self.counter(uploads.OUT_OF_MEMORY)
        self.end_to_end = self.histogram(uploads.END_TO_END)
        self.commit_seconds = self.histogram(uploads.COMMIT_SECONDS)
        self.probability = self.histogram(models.PROBABILITY)
        self.retries_pending = self.gauge(uploads.RETRIES_PENDING)
        self.retries_due = self.gauge(uploads.RETRIES_DUE)
        self.retries_oldest = self.gauge(uploads.RETRIES_OLDEST)
        self.assigned = self.gauge(uploads.ASSIGNED)
        self.waiting = self.gauge(uploads.WAITING)
        self.paused = self.gauge(uploads.PAUSED)
        self.rebalances = self.counter(uploads.REBALANCES)
        self.records_lost = self.counter(uploads.RECORDS_LOST)
        self.produce_errors = self.counter(uploads.PRODUCE_ERRORS)
        self.novel = self.counter(models.NOVEL)
        self.similarity = self.histogram(models.SIMILARITY)
        self.fetchers = self.gauge(services.FETCHERS)
        self.fetcher_restarts = self.counter(services.FETCHER_RESTARTS)
        self.slots_used = self.gauge(services.SLOTS_USED)
        self.view_lag_seconds = self.gauge(services.VIEW_LAG_SECONDS)
        self.view_redis_up = self.gauge(services.VIEW_REDIS_UP)
        self.view_rebuilds = self.counter(services.VIEW_REBUILDS)
        self.view_swept = self.counter(services.VIEW_SWEPT)
        self._others = Window(OTHER_WINDOW, clock)
        self.gauge(models.OTHER_RATIO).set_function(self._others.ratio)
        self.model_changes = {o: self.counter(models.MODEL_CHANGES, o) for o in models.MODEL_OUTCOMES}
        self.model_refused = {role: self.gauge(models.MODEL_REFUSED, role) for role in models.MODEL_ROLES}
        self.shadow_agreement = self.gauge(models.SHADOW_AGREEMENT)
        self.shadow_skipped = self.counter(models.SHADOW_SKIPPED)
        self.set_shadow(None)
        self.wall_requests = {o: self.counter(services.WALL_REQUESTS, o) for o in services.WALL_OUTCOMES}
        self.wall_streams = self.gauge(services.WALL_STREAMS)
        self.serve_requests = {o: self.counter(services.SERVE_REQUESTS, o) for o in services.SERVE_OUTCOMES}
        self.serve_seconds = self.histogram(services.SERVE_SECONDS)
        self.serve_waiting = self.gauge(services.SERVE_WAITING)
        self.polls = LongestPause(POLL_WINDOW, clock)
        self.gauge(uploads.POLL_GAP).set_function(self.polls.seconds)
        self.gauge(services.START_TIME).set(now())

    def _make(self, row: MetricRow) -> Counter | Gauge | Histogram:
        names = [label.name for label in row.labels]
        match row.kind:
            case "counter":
                return Counter(row.name, row.help, names, registry=self.registry)
            case "gauge":
                return Gauge(row.name, row.help, names, registry=self.registry)
            case "histogram":
                return Histogram(row.name, row.help, names, registry=self.registry, buckets=row.buckets)

    def counter(self, row: MetricRow, *labels: str) -> Counter:
        return self._instrument(Counter, row, labels)

    def gauge(self, row: MetricRow, *labels: str) -> Gauge:
        return self._instrument(Gauge, row, labels)

    def histogram(self, row: MetricRow, *labels: str) -> Histogram:
        return self._instrument(Histogram, row, labels)

    def _instrument(self, kind: type[InstrumentT], row: MetricRow, labels: tuple[str, ...]) -> InstrumentT:
        family = self._families[row.name]
        if not isinstance(family, kind):
            raise TypeError(f"{row.name} is a {row.kind}, asked for as a {kind.__name__.lower()}")
        row.check(labels)
        return family.labels(*labels) if labels else family

    def _forget(self, row: MetricRow, *labels: str) -> None:
        with contextlib.suppress(KeyError):
            self._families[row.name].remove(*labels)

    def set_model(
        self, version: str, taxonomy: str, encoder: str, clusters: Mapping[int, float | None] = EMPTY
    ) -> None:
        """Name the model in use; its clusters start at 0, so that rates are right from the first tag.

        Args:
            clusters: number → stability, None where it is not known.
        """
        self._families[models.MODEL_INFO.name].clear()
        self._families[models.STABILITY.name].clear()
        self.gauge(models.MODEL_INFO, version, taxonomy, encoder).set(1)
        for cluster in (OTHER, *clusters):
            self.counter(models.TAGS, str(cluster))
        for cluster, stability in clusters.items():
            if stability is not None:
                self.gauge(models.STABILITY, str(cluster)).set(stability)

    def set_shadow(self, model: tuple[str, str] | None) -> None:
        """Name the shadow model by version and taxonomy; None: there is none."""
        self._families[models.SHADOW_INFO.name].clear()
        self.gauge(models.SHADOW_INFO, *(model or ("", ""))).set(model is not None)

    def count_tags(self, clusters: Sequence[int], probabilities: Iterable[float], novel: int) -> None:
        """Count published tags: their clusters, their probabilities, and how many of them are novel."""
        tally = collections.Counter(clusters)
        for cluster, n in tally.items():
            self.counter(models.TAGS, str(cluster)).inc(n)
        self._others.add(tally.get(OTHER, 0), len(clusters))
        for probability in probabilities:
            self.probability.observe(probability)
        if novel:
            self.novel.inc(novel)

    def set_lag(self, partition: int, records: int, held: int, seconds: float) -> None:
        """Where a partition of the uploads topic stands; see the rows for the meaning of each number."""
        self.gauge(uploads.LAG_RECORDS, str(partition)).set(records)
        self.gauge(uploads.HELD_RECORDS, str(partition)).set(held)
        self.gauge(uploads.LAG_SECONDS, str(partition)).set(seconds)

    def drop_partition(self, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        for row in (uploads.LAG_RECORDS, uploads.HELD_RECORDS, uploads.LAG_SECONDS):
            self._forget(row, str(partition))

    def set_view_lag(self, partition: int, records: int | None) -> None:
        """Where the view of a partition of the tags topic stands; None forgets the partition."""
        if records is None:
            self._forget(services.VIEW_LAG_RECORDS, str(partition))
        else:
            self.gauge(services.VIEW_LAG_RECORDS, str(partition)).set(records)

    def value(self, name: str, **labels: str) -> float | None:
        """One sample as a scrape would show it, e.g. `value("imgclust_tags_total", cluster="3")`."""
        families = self.registry.restricted_registry([name]).collect()  # `get_sample_value` would collect all
        found = (sample.value for family in families for sample in family.samples if sample.labels == labels)
        return next(found, None)
