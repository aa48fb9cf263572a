"""Every metric of the worker: one table, from which the registry and the README's table are made.

The instruments are prometheus_client's, looked up once: an update costs 0.25 to 0.6 µs.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from imgclust.model.drift import PARTS
from worker.errors import ERROR_CODES
from worker.messages.text import OTHER
from worker.telemetry.window import LongestPause, Window

InstrumentT = TypeVar("InstrumentT", Counter, Gauge, Histogram)

EMPTY: Mapping[int, float | None] = MappingProxyType({})

# `…_created` series double a scrape and say nothing that `imgclust_start_time_seconds` does not
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """A label and the values that it may have; `values` is None where Kafka or the model bounds them."""

    name: str
    values: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric: its name, what it counts and what it means."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds, without +Inf

    def check(self, values: tuple[str, ...]) -> None:
        """Labels are few and bounded: anything else is a mistake in the program."""
        if len(values) != len(self.labels):
            names = [label.name for label in self.labels]
            raise ValueError(f"{self.name} has the labels {names}, got the values {values!r}")
        for label, value in zip(self.labels, values, strict=True):
            if label.values is not None and value not in label.values:
                raise ValueError(
                    f"{self.name}: the label {label.name} must be one of {label.values}, got {value!r}"
                )


STAGES = ("consume", "fetch", "decode", "encode", "predict", "publish", "view")
BUSY_STAGES = ("encode", "predict")
STAGE_OUTCOMES = ("ok", "retry", "dead", "dropped")
UPLOAD_OUTCOMES = ("tagged", "deleted", "dead", "superseded")
COMMIT_OUTCOMES = ("committed", "aborted", "failed", "fenced")
VIEW_OUTCOMES = ("applied", "stale", "malformed")
MODEL_OUTCOMES = ("changed", "refused")
MODEL_ROLES = ("live", "shadow")
WALL_OUTCOMES = ("ok", "refused", "failed")
SERVE_OUTCOMES = ("tagged", "refused", "failed", "full", "gone")
REDIS_ERRORS = ("away", "timeout", "full", "read-only", "other")

_STAGE = Label("stage", STAGES)
_PARTITION = Label("partition")
# 1 ms to 1 min: a decode takes 2 ms, a batch on a GPU 20 ms, a slow server 30 s.
_STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# a batch waits for WORKER_MAX_WAIT (20 ms) at most, and longer only when the encoder is behind
_WAIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30)
# 10 ms to 1 h: retries are part of an upload's way and may wait for minutes.
_TOTAL_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)

STAGE_RECEIVED = MetricRow("imgclust_stage_received_total", "counter", "items",
    "Items that entered the stage.", (_STAGE,))  # fmt: skip
STAGE_FINISHED = MetricRow("imgclust_stage_finished_total", "counter", "items",
    "Items that left the stage: passed on (ok), to be tried again (retry), to dead letters (dead), or given "
    "up because the partition was revoked or a later event of the id came (dropped).",
    (_STAGE, Label("outcome", STAGE_OUTCOMES)))  # fmt: skip
STAGE_IN_PROGRESS = MetricRow("imgclust_stage_in_progress", "gauge", "items",
    "Items in the stage now: received less finished.", (_STAGE,))  # fmt: skip
STAGE_SECONDS = MetricRow("imgclust_stage_seconds", "histogram", "seconds",
    "Time that an item spent in the stage.", (_STAGE,), _STAGE_SECONDS)  # fmt: skip
BATCH_IMAGES = MetricRow("imgclust_batch_images", "histogram", "images",
    "Images per call of the encoder.", (), (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512))  # fmt: skip
BATCH_WAIT = MetricRow("imgclust_batch_wait_seconds", "histogram", "seconds",
    "Time that the oldest image of a batch waited for it to leave.", (), _WAIT_SECONDS)  # fmt: skip
BUSY_SECONDS = MetricRow("imgclust_stage_busy_seconds_total", "counter", "seconds",
    "Time that the encoder or the predictor was at work; its rate is the busy share.",
    (Label("stage", BUSY_STAGES),))  # fmt: skip
OUT_OF_MEMORY = MetricRow("imgclust_encoder_out_of_memory_total", "counter", "batches",
    "Batches that the device had no memory for; each was halved and tried again.")  # fmt: skip
END_TO_END = MetricRow("imgclust_end_to_end_seconds", "histogram", "seconds",
    "From an upload's `uploaded_at` to its published tag.", (), _TOTAL_SECONDS)  # fmt: skip
UPLOADS = MetricRow("imgclust_uploads_total", "counter", "uploads",
    "Uploads by how they ended; every upload ends once.", (Label("outcome", UPLOAD_OUTCOMES),))  # fmt: skip
DEAD_LETTERS = MetricRow("imgclust_dead_letters_total", "counter", "uploads",
    "Uploads that became dead letters.", (Label("error_code", ERROR_CODES),))  # fmt: skip
RETRIES = MetricRow("imgclust_retries_total", "counter", "attempts",
    "Attempts that failed and will be made again.", (Label("error_code", ERROR_CODES),))  # fmt: skip
RETRIES_PENDING = MetricRow("imgclust_retries_pending", "gauge", "uploads",
    "Uploads that wait for another attempt.")  # fmt: skip
RETRIES_DUE = MetricRow("imgclust_retries_due", "gauge", "uploads",
    "Uploads whose next attempt is due and has not begun.")  # fmt: skip
RETRIES_OLDEST = MetricRow("imgclust_retries_oldest_seconds", "gauge", "seconds",
    "Age of the oldest upload that waits for another attempt; 0 without any.")  # fmt: skip
LAG_RECORDS = MetricRow("imgclust_consumer_lag_records", "gauge", "records",
    "Records of the uploads topic that were not read yet: the worker is behind.", (_PARTITION,))  # fmt: skip
HELD_RECORDS = MetricRow("imgclust_consumer_held_records", "gauge", "records",
    "Records read but above the committed offset: held by a slow image, not by being behind.",
    (_PARTITION,))  # fmt: skip
LAG_SECONDS = MetricRow("imgclust_consumer_lag_seconds", "gauge", "seconds",
    "Time that the oldest unread record has waited, at most: since the record before it, or since the "
    "partition's end was reached; 0 there.",
    (_PARTITION,))  # fmt: skip
ASSIGNED = MetricRow("imgclust_consumer_assigned_partitions", "gauge", "partitions",
    "Partitions of the uploads topic that this worker owns.")  # fmt: skip
WAITING = MetricRow("imgclust_consumer_waiting_partitions", "gauge", "partitions",
    "Partitions that this worker owns and has not begun to read for 10 seconds; the log names what is in the "
    "way.")  # fmt: skip
PAUSED = MetricRow("imgclust_consumer_paused_partitions", "gauge", "partitions",
    "Partitions whose intake is paused because enough is in flight.")  # fmt: skip
POLL_GAP = MetricRow("imgclust_poll_gap_seconds", "gauge", "seconds",
    "Longest time between two polls of Kafka in the last minute, the one that goes on included; NaN before "
    "the first. Beyond `max.poll.interval.ms` the group takes the partitions away.")  # fmt: skip
REBALANCES = MetricRow("imgclust_consumer_rebalances_total", "counter", "rebalances",
    "Times that partitions were assigned, revoked or lost.")  # fmt: skip
RECORDS_LOST = MetricRow("imgclust_consumer_records_lost_total", "counter", "records",
    "Records that this group can have no more: dropped by retention before they were read, cut off the log's "
    "end, or in a topic that was deleted.")  # fmt: skip
COMMITS = MetricRow("imgclust_commits_total", "counter", "commits",
    "Transactions, or offset commits with at-least-once delivery.",
    (Label("outcome", COMMIT_OUTCOMES),))  # fmt: skip
COMMIT_SECONDS = MetricRow("imgclust_commit_seconds", "histogram", "seconds",
    "Time that a commit took.", (), _STAGE_SECONDS)  # fmt: skip
PRODUCE_ERRORS = MetricRow("imgclust_produce_errors_total", "counter", "records",
    "Records that Kafka did not acknowledge.")  # fmt: skip
TAGS = MetricRow("imgclust_tags_total", "counter", "tags",
    "Published tags by cluster; -1 is \"other\".", (Label("cluster"),))  # fmt: skip
OTHER_RATIO = MetricRow("imgclust_tags_other_ratio", "gauge", "ratio",
    "Share of \"other\" among the tags of the last 5 minutes; NaN without any.")  # fmt: skip
NOVEL = MetricRow("imgclust_tags_novel_total", "counter", "tags",
    "Published tags of images unlike anything the model was trained on.")  # fmt: skip
PROBABILITY = MetricRow("imgclust_tag_probability_ratio", "histogram", "ratio",
    "Probability of published tags; \"other\" has 0.", (),
    (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0))  # fmt: skip
SIMILARITY = MetricRow("imgclust_similarity_ratio", "histogram", "ratio",
    "Cosine of predicted images to the nearest training image; novel ones are far from all.", (),
    (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0))  # fmt: skip
DRIFT_IMAGES = MetricRow("imgclust_drift_images", "gauge", "images",
    "Images that the drift metrics are of: those predicted in the last hour, or the last 12,000 where "
    "they were fewer.")  # fmt: skip
DRIFT_PSI = MetricRow("imgclust_drift_psi", "gauge", "index",
    "Population stability index against the model's held-out images, of the clusters, the probabilities, "
    "the similarities to the nearest training image: below 0.1 steady, above 0.25 drift. NaN without any.",
    (Label("part", PARTS),))  # fmt: skip
DRIFT_CHANCE = MetricRow("imgclust_drift_psi_chance", "gauge", "index",
    "What the index stays below by chance alone, 99 times of 100 with so many images: less means nothing.",
    (Label("part", PARTS),))  # fmt: skip
DRIFT_OTHER = MetricRow("imgclust_drift_other_ratio", "gauge", "ratio",
    "Share of \"other\", in the window and among the model's held-out images.",
    (Label("of", ("window", "held-out")),))  # fmt: skip
DRIFT_NOVEL = MetricRow("imgclust_drift_novel_ratio", "gauge", "ratio",
    "Share of novel images, in the window and among the model's held-out images.",
    (Label("of", ("window", "held-out")),))  # fmt: skip
MODEL_INFO = MetricRow("imgclust_model_info", "gauge", "info",
    "1 for the model in use.", (Label("version"), Label("taxonomy"), Label("encoder")))  # fmt: skip
STABILITY = MetricRow("imgclust_cluster_stability_ratio", "gauge", "ratio",
    "How well the model's clusters are found again when a fifth of its training images is left out: 1 as "
    "they are; one below 0.6 should not be relied on. Missing where it is not known.",
    (Label("cluster"),))  # fmt: skip
MODEL_CHANGES = MetricRow("imgclust_model_changes_total", "counter", "changes",
    "Models that were taken into use while the worker ran, and those that could not be.",
    (Label("outcome", MODEL_OUTCOMES),))  # fmt: skip
MODEL_REFUSED = MetricRow("imgclust_model_refused", "gauge", "state",
    "1 while a model that the models topic names cannot be used, so that another one is at work; else 0.",
    (Label("role", MODEL_ROLES),))  # fmt: skip
SHADOW_INFO = MetricRow("imgclust_shadow_info", "gauge", "info",
    "1 for the shadow model, which predicts beside the model in use and publishes nothing; without one 0, "
    "and empty labels.",
    (Label("version"), Label("taxonomy")))  # fmt: skip
SHADOW_AGREEMENT = MetricRow("imgclust_shadow_agreement_ratio", "gauge", "ratio",
    "Share of the last images that shadow and live model put into the same cluster, \"other\" being one; of "
    "two taxonomies clusters are matched one to one, so that most images agree. NaN without.")  # fmt: skip
SHADOW_SKIPPED = MetricRow("imgclust_shadow_skipped_total", "counter", "images",
    "Images that the shadow model did not predict, because it was behind (live tags never wait for it) or "
    "failed.")  # fmt: skip
SHADOW_IMAGES = MetricRow("imgclust_shadow_images", "gauge", "images",
    "Images that the shadow metrics are of, as with `imgclust_drift_images`.")  # fmt: skip
SHADOW_PSI = MetricRow("imgclust_shadow_psi", "gauge", "index",
    "`imgclust_drift_psi`, of the shadow model.", (Label("part", PARTS),))  # fmt: skip
SHADOW_CHANCE = MetricRow("imgclust_shadow_psi_chance", "gauge", "index",
    "`imgclust_drift_psi_chance`, of the shadow model.", (Label("part", PARTS),))  # fmt: skip
SHADOW_OTHER = MetricRow("imgclust_shadow_other_ratio", "gauge", "ratio",
    "`imgclust_drift_other_ratio`, of the shadow model.",
    (Label("of", ("window", "held-out")),))  # fmt: skip
SHADOW_NOVEL = MetricRow("imgclust_shadow_novel_ratio", "gauge", "ratio",
    "`imgclust_drift_novel_ratio`, of the shadow model.",
    (Label("of", ("window", "held-out")),))  # fmt: skip
FETCHERS = MetricRow("imgclust_fetchers", "gauge", "processes", "Fetcher processes that run.")
FETCHER_RESTARTS = MetricRow("imgclust_fetcher_restarts_total", "counter", "processes",
    "Fetcher processes that died or hung and were replaced.")  # fmt: skip
SLOTS_USED = MetricRow("imgclust_slots_used", "gauge", "images", "Decoded images held in shared memory.")
VIEW_RECORDS = MetricRow("imgclust_view_records_total", "counter", "records",
    "Records of the tags topic: written to Redis (applied), already there or overtaken (stale), or not a tag "
    "(malformed).", (Label("outcome", VIEW_OUTCOMES),))  # fmt: skip
VIEW_ERRORS = MetricRow("imgclust_view_errors_total", "counter", "errors",
    "Failed writes to Redis; each is tried again.", (Label("error_code", REDIS_ERRORS),))  # fmt: skip
VIEW_LAG_RECORDS = MetricRow("imgclust_view_lag_records", "gauge", "records",
    "Records of the tags topic that are not in Redis yet.", (_PARTITION,))  # fmt: skip
VIEW_LAG_SECONDS = MetricRow("imgclust_view_lag_seconds", "gauge", "seconds",
    "Age of the oldest record that was read and is not in Redis yet, or how long Redis has not taken what "
    "waits; 0 when all is there.")  # fmt: skip
VIEW_REDIS_UP = MetricRow("imgclust_view_redis_up", "gauge", "state",
    "1 when the last command to Redis succeeded, else 0.")  # fmt: skip
VIEW_REBUILDS = MetricRow("imgclust_view_rebuilds_total", "counter", "rebuilds",
    "Times that the view read tags again: Redis had lost some, or it was asked to.")  # fmt: skip
VIEW_SWEPT = MetricRow("imgclust_view_swept_total", "counter", "entries",
    "Entries that the sweep removed from Redis: tags that are no longer in the topic, and members of a "
    "cluster that they do not belong to.")  # fmt: skip
START_TIME = MetricRow("imgclust_start_time_seconds", "gauge", "seconds",
    "When the worker started, in seconds since the epoch.")  # fmt: skip

WALL_REQUESTS = MetricRow("imgclust_wall_requests_total", "counter", "requests",
    "Requests to the wall and its API: answered (ok), wrong (refused), or not answered because Redis is away "
    "or too many ask (failed).", (Label("outcome", WALL_OUTCOMES),))  # fmt: skip
WALL_STREAMS = MetricRow("imgclust_wall_streams", "gauge", "streams",
    "Browsers that look at the wall now.")  # fmt: skip
SERVE_REQUESTS = MetricRow("imgclust_serve_requests_total", "counter", "requests",
    "Questions to `imgclust-worker serve` by how they ended: tagged; refused (the question or its picture is "
    "wrong); failed (a server of pictures, or this one); full (429); gone (who asked did not wait).",
    (Label("outcome", SERVE_OUTCOMES),))  # fmt: skip
SERVE_SECONDS = MetricRow("imgclust_serve_seconds", "histogram", "seconds",
    "From a question to `imgclust-worker serve` to its tag.", (), _STAGE_SECONDS)  # fmt: skip
SERVE_WAITING = MetricRow("imgclust_serve_waiting", "gauge", "requests",
    "Questions to `imgclust-worker serve` that wait for their answer.")  # fmt: skip

TABLE: tuple[MetricRow, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, MetricRow)
)


@dataclasses.dataclass(frozen=True, slots=True)
class DriftRows:
    """The gauges of one model's drift."""

    images: MetricRow
    psi: MetricRow
    chance: MetricRow
    other: MetricRow
    novel: MetricRow


LIVE_DRIFT = DriftRows(DRIFT_IMAGES, DRIFT_PSI, DRIFT_CHANCE, DRIFT_OTHER, DRIFT_NOVEL)
SHADOW_DRIFT = DriftRows(SHADOW_IMAGES, SHADOW_PSI, SHADOW_CHANCE, SHADOW_OTHER, SHADOW_NOVEL)

OTHER_WINDOW = 300  # seconds over which the share of "other" is taken
POLL_WINDOW = 60  # seconds over which the longest gap between polls is kept


class StageMetrics:
    """What one stage reports; `enter` and `leave` may be called from any thread."""

    def __init__(self, metrics: Metrics, stage: str) -> None:
        self._received = metrics.counter(STAGE_RECEIVED, stage)
        self._finished = {o: metrics.counter(STAGE_FINISHED, stage, o) for o in STAGE_OUTCOMES}
        self._in_progress = metrics.gauge(STAGE_IN_PROGRESS, stage)
        self.seconds = metrics.histogram(STAGE_SECONDS, stage)

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

        self.stages = {stage: StageMetrics(self, stage) for stage in STAGES}
        self.uploads = {outcome: self.counter(UPLOADS, outcome) for outcome in UPLOAD_OUTCOMES}
        self.dead_letters = {code: self.counter(DEAD_LETTERS, code) for code in ERROR_CODES}
        self.retries = {code: self.counter(RETRIES, code) for code in ERROR_CODES}
        self.commits = {outcome: self.counter(COMMITS, outcome) for outcome in COMMIT_OUTCOMES}
        self.view_records = {outcome: self.counter(VIEW_RECORDS, outcome) for outcome in VIEW_OUTCOMES}
        self.view_errors = {kind: self.counter(VIEW_ERRORS, kind) for kind in REDIS_ERRORS}
        self.batch_images = self.histogram(BATCH_IMAGES)
        self.batch_wait = self.histogram(BATCH_WAIT)
        self.busy_seconds = {stage: self.counter(BUSY_SECONDS, stage) for stage in BUSY_STAGES}
        self.out_of_memory = self.counter(OUT_OF_MEMORY)
        self.end_to_end = self.histogram(END_TO_END)
        self.commit_seconds = self.histogram(COMMIT_SECONDS)
        self.probability = self.histogram(PROBABILITY)
        self.retries_pending = self.gauge(RETRIES_PENDING)
        self.retries_due = self.gauge(RETRIES_DUE)
        self.retries_oldest = self.gauge(RETRIES_OLDEST)
        self.assigned = self.gauge(ASSIGNED)
        self.waiting = self.gauge(WAITING)
        self.paused = self.gauge(PAUSED)
        self.rebalances = self.counter(REBALANCES)
        self.records_lost = self.counter(RECORDS_LOST)
        self.produce_errors = self.counter(PRODUCE_ERRORS)
        self.novel = self.counter(NOVEL)
        self.similarity = self.histogram(SIMILARITY)
        self.fetchers = self.gauge(FETCHERS)
        self.fetcher_restarts = self.counter(FETCHER_RESTARTS)
        self.slots_used = self.gauge(SLOTS_USED)
        self.view_lag_seconds = self.gauge(VIEW_LAG_SECONDS)
        self.view_redis_up = self.gauge(VIEW_REDIS_UP)
        self.view_rebuilds = self.counter(VIEW_REBUILDS)
        self.view_swept = self.counter(VIEW_SWEPT)
        self._others = Window(OTHER_WINDOW, clock)
        self.gauge(OTHER_RATIO).set_function(self._others.ratio)
        self.model_changes = {o: self.counter(MODEL_CHANGES, o) for o in MODEL_OUTCOMES}
        self.model_refused = {role: self.gauge(MODEL_REFUSED, role) for role in MODEL_ROLES}
        self.shadow_agreement = self.gauge(SHADOW_AGREEMENT)
        self.shadow_skipped = self.counter(SHADOW_SKIPPED)
        self.set_shadow(None)
        self.wall_requests = {o: self.counter(WALL_REQUESTS, o) for o in WALL_OUTCOMES}
        self.wall_streams = self.gauge(WALL_STREAMS)
        self.serve_requests = {o: self.counter(SERVE_REQUESTS, o) for o in SERVE_OUTCOMES}
        self.serve_seconds = self.histogram(SERVE_SECONDS)
        self.serve_waiting = self.gauge(SERVE_WAITING)
        self.polls = LongestPause(POLL_WINDOW, clock)
        self.gauge(POLL_GAP).set_function(self.polls.seconds)
        self.gauge(START_TIME).set(now())

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
        self._families[MODEL_INFO.name].clear()
        self._families[STABILITY.name].clear()
        self.gauge(MODEL_INFO, version, taxonomy, encoder).set(1)
        for cluster in (OTHER, *clusters):
            self.counter(TAGS, str(cluster))
        for cluster, stability in clusters.items():
            if stability is not None:
                self.gauge(STABILITY, str(cluster)).set(stability)

    def set_shadow(self, model: tuple[str, str] | None) -> None:
        """Name the shadow model by version and taxonomy; None: there is none."""
        self._families[SHADOW_INFO.name].clear()
        self.gauge(SHADOW_INFO, *(model or ("", ""))).set(model is not None)

    def count_tags(self, clusters: Sequence[int], probabilities: Iterable[float], novel: int) -> None:
        """Count published tags: their clusters, their probabilities, and how many of them are novel."""
        tally = collections.Counter(clusters)
        for cluster, n in tally.items():
            self.counter(TAGS, str(cluster)).inc(n)
        self._others.add(tally.get(OTHER, 0), len(clusters))
        for probability in probabilities:
            self.probability.observe(probability)
        if novel:
            self.novel.inc(novel)

    def set_lag(self, partition: int, records: int, held: int, seconds: float) -> None:
        """Where a partition of the uploads topic stands; see the rows for the meaning of each number."""
        self.gauge(LAG_RECORDS, str(partition)).set(records)
        self.gauge(HELD_RECORDS, str(partition)).set(held)
        self.gauge(LAG_SECONDS, str(partition)).set(seconds)

    def drop_partition(self, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        for row in (LAG_RECORDS, HELD_RECORDS, LAG_SECONDS):
            self._forget(row, str(partition))

    def set_view_lag(self, partition: int, records: int | None) -> None:
        """Where the view of a partition of the tags topic stands; None forgets the partition."""
        if records is None:
            self._forget(VIEW_LAG_RECORDS, str(partition))
        else:
            self.gauge(VIEW_LAG_RECORDS, str(partition)).set(records)

    def value(self, name: str, **labels: str) -> float | None:
        """One sample as a scrape would show it, e.g. `value("imgclust_tags_total", cluster="3")`."""
        return self.registry.get_sample_value(name, labels)


def metrics_table() -> str:
    """The README's table of metrics, in Markdown."""
    lines = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for row in TABLE:
        labels = ", ".join(f"`{label.name}`" for label in row.labels) or "–"
        lines.append(f"| `{row.name}` | {row.kind} | {row.unit} | {labels} | {row.help} |")
    return "\n".join(lines) + "\n"
