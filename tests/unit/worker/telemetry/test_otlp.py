"""worker.telemetry.otlp: what a collector gets is what a scrape shows."""

from __future__ import annotations

import gzip
import http.server
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.support.waiting import wait_for
from worker.telemetry.metrics import Metrics
from worker.telemetry.otlp import exporting, interval

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otlp")
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric


class Collector:
    """An OTLP/HTTP receiver on loopback.

    Attributes:
        status: that it answers.
        got: what was exported, by the path that it was sent to.
    """

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[str, ExportMetricsServiceRequest]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                outer.got.append((self.path, ExportMetricsServiceRequest.FromString(body)))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def metrics(self) -> dict[str, Metric]:
        """Of the last export, by name."""
        (resource,) = self.got[-1][1].resource_metrics
        return {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "tagger-7")
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_collector_gets_what_a_scrape_shows(collector: Collector) -> None:
    """Every series under its name, with its labels, its value and its kind; the last state at the end."""
    metrics = Metrics()
    metrics.set_model("v1", "t1", "mini", {3: 0.9})
    with exporting(metrics.registry):
        wait_for("it exports", lambda: collector.got)
        metrics.uploads["tagged"].inc(7)
        metrics.count_tags([3, -1], [0.5, 0.0], novel=1)
        metrics.set_lag(4, 11, 2, 0.5)
        metrics.end_to_end.observe(0.3)
        metrics.end_to_end.observe(5000)
    path, request = collector.got[-1]
    assert path == "/v1/metrics"
    named = {a.key: a.value.string_value for a in request.resource_metrics[0].resource.attributes}
    assert named["service.name"] == "tagger-7"
    compared = 0
    for name, metric in collector.metrics().items():
        points = (metric.gauge or metric.sum).data_points or metric.sum.data_points
        for point in points:
            labels = {a.key: a.value.string_value for a in point.attributes}
            if name.startswith("imgclust_") and "poll_gap" not in name:
                assert point.as_double == metrics.value(name, **labels), (name, labels)
                compared += 1
    assert compared > 100
    tagged = collector.metrics()["imgclust_uploads_total"].sum
    assert (tagged.is_monotonic, tagged.aggregation_temporality) == (
        True,
        AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE,
    )
    (total,) = collector.metrics()["imgclust_end_to_end_seconds"].histogram.data_points
    assert (total.count, total.sum) == (2, 5000.3)
    at = total.explicit_bounds[:].index(0.3)
    assert (total.bucket_counts[at], total.bucket_counts[-1], sum(total.bucket_counts)) == (1, 1, 2)
    assert len(total.bucket_counts) == len(total.explicit_bounds) + 1
    scraped = {family.name for family in metrics.registry.collect()}
    exported = {name.removesuffix("_total") for name in collector.metrics()}
    empty = {"imgclust_tags_other_ratio", "imgclust_poll_gap_seconds"}  # NaN, or without a series
    assert {n for n in scraped - exported - empty if metrics.registry.get_sample_value(n) is not None} <= {
        n for n in scraped if str(metrics.registry.get_sample_value(n)) == "nan"
    }


def test_a_collector_that_fails_disturbs_nobody(collector: Collector) -> None:
    """It is tried again at the next time; the end is not held up."""
    collector.status = 400
    with exporting(Metrics().registry):
        wait_for("it is tried again", lambda: len(collector.got) > 1)


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_METRICS_EXPORTER", ""), ("OTEL_METRICS_EXPORTER", "prometheus"),
                        ("OTEL_SDK_DISABLED", "true")],
)  # fmt: skip
def test_nothing_is_exported_that_nobody_asked_for(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The exporter is not even loaded."""
    monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    before = threading.active_count()
    with exporting(Metrics().registry):
        assert threading.active_count() == before
    assert not collector.got


def test_without_the_extra_it_is_said(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker works without it: a variable that a cluster gives every pod stops nobody."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    with exporting(Metrics().registry):
        pass
    assert "imgclust[otlp]" in caplog.text


@pytest.mark.parametrize(("text", "seconds"), [("500", 0.5), ("", 60.0), ("soon", 60.0), ("-1", 60.0)])
def test_the_interval_is_opentelemetrys(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    """Milliseconds; what is none is said, and the default taken."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", text)
    assert interval() == seconds
