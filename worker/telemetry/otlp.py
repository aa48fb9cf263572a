"""The metrics over OTLP, beside Prometheus and under the same names: for who pushes instead of scraping.

`OTEL_METRICS_EXPORTER=otlp` asks for it, and OpenTelemetry's other variables say where to and how often. The
SDK's exporter sends; what it sends is made from the registry that a scrape shows, so both say the same, and
nothing is counted twice.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from worker.telemetry import log as logs

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData

log = logs.get(__name__)

ASKED, SHUT_OFF = "OTEL_METRICS_EXPORTER", "OTEL_SDK_DISABLED"
INTERVAL, INTERVAL_MS = "OTEL_METRIC_EXPORT_INTERVAL", 60_000.0
LAST = 5.0  # seconds that the last export may take when the worker ends
SCOPE = "imgclust"


def is_asked_for() -> bool:
    named = [name.strip() for name in os.environ.get(ASKED, "").split(",")]
    return "otlp" in named and os.environ.get(SHUT_OFF, "").strip().lower() != "true"


def interval() -> float:
    """Seconds between two exports."""
    try:
        found = float(os.environ.get(INTERVAL) or INTERVAL_MS)
    except ValueError:
        found = 0.0
    if found <= 0:
        log.warning(
            "not a number of milliseconds; taking the default", variable=INTERVAL, default=INTERVAL_MS
        )
        found = INTERVAL_MS
    return found / 1000


@contextlib.contextmanager
def exporting(registry: CollectorRegistry) -> Iterator[None]:
    """Export while the block runs, where that is asked for; once more at its end."""
    exporter = _exporter() if is_asked_for() else None
    if exporter is None:
        yield
        return
    export = _Export(registry, exporter, interval())
    export.start()
    try:
        yield
    finally:
        export.stop()


def _exporter() -> MetricExporter | None:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    except ImportError:
        log.warning(f"{ASKED} asks for OTLP, which needs the extra: pip install 'imgclust[otlp]'")
        return None
    return OTLPMetricExporter()


class _Export:
    """A thread that exports every so often. A collector that is away costs the worker nothing."""

    def __init__(self, registry: CollectorRegistry, exporter: MetricExporter, seconds: float) -> None:
        self._registry, self._exporter, self._seconds = registry, exporter, seconds
        self._since = time.time_ns()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(LAST)
        self._exporter.shutdown(timeout_millis=0)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._export()
        self._export()

    def _export(self) -> None:
        try:
            self._exporter.export(metrics_data(self._registry, self._since, time.time_ns()))
        except Exception as error:  # the exporter's own failures are in its log
            log.warning("metrics were not exported", error=f"{type(error).__name__}: {error}")


def metrics_data(registry: CollectorRegistry, since: int, now: int) -> MetricsData:
    """What a scrape would show, as OTLP has it: counters are cumulative sums since `since`.

    Units stay empty: receivers that add them to names would change these, which end in them already.
    """
    from opentelemetry.sdk.metrics import export as otel
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    scope, resource = InstrumentationScope(SCOPE), Resource.create()
    found = [m for family in registry.collect() for m in _metrics(family, since, now)]
    metrics = otel.ScopeMetrics(scope, found, "")
    return otel.MetricsData([otel.ResourceMetrics(resource, [metrics], "")])


def _metrics(family: Family, since: int, now: int) -> Iterator[Any]:
    from opentelemetry.sdk.metrics import export as otel

    if family.type == "histogram":
        points = [_histogram(samples, since, now) for samples in _by_labels(family.samples)]
        data: Any = otel.Histogram(points, otel.AggregationTemporality.CUMULATIVE)
        yield otel.Metric(family.name, family.documentation, "", data)
        return
    counter = family.type == "counter"
    numbers = [
        otel.NumberDataPoint(sample.labels, since if counter else 0, now, sample.value)
        for sample in family.samples
        if sample.value == sample.value  # OTLP has no point where a scrape says NaN: there is none
    ]
    name = f"{family.name}_total" if counter else family.name
    if counter:
        data = otel.Sum(numbers, otel.AggregationTemporality.CUMULATIVE, is_monotonic=True)
    else:
        data = otel.Gauge(numbers)
    if numbers:
        yield otel.Metric(name, family.documentation, "", data)


def _by_labels(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of each series of a histogram."""
    series: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        series.setdefault(labels, []).append(sample)
    return list(series.values())


def _histogram(samples: Sequence[Sample], since: int, now: int) -> Any:
    from opentelemetry.sdk.metrics import export as otel

    bounds: list[float] = []
    cumulated: list[int] = [0]
    total = 0.0
    labels = {name: value for name, value in samples[0].labels.items() if name != "le"}
    for sample in samples:
        if sample.name.endswith("_bucket"):
            bounds.append(float(sample.labels["le"]))
            cumulated.append(int(sample.value))
        elif sample.name.endswith("_sum"):
            total = sample.value
    counts = [after - before for before, after in pairwise(cumulated)]
    unknown: Any = None  # the smallest and the largest value
    # the last bound is +Inf, which OTLP leaves out
    return otel.HistogramDataPoint(
        labels, since, now, cumulated[-1], total, counts, bounds[:-1], unknown, unknown
    )
