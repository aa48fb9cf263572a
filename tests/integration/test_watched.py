"""A worker that a real Prometheus watches with the real rules, their times shortened."""

from __future__ import annotations

import itertools
import threading
import urllib.request
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import kafka_cluster, prometheus_server, promql
from tests.support.kafka_cluster import PARTITIONS, Topics, headers_of
from tests.support.origin import Origin
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, wait_for
from tests.support.worker_process import WorkerProcess, settings_for
from worker.demo.backends import Kafka

pytestmark = [pytest.mark.slow, pytest.mark.kafka]

alerts = promql.script("deploy/prometheus/build.py")
dashboards = promql.script("deploy/grafana/build.py")
HURRY = 100  # 5 minutes are 3 seconds
TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Uploader:
    """Sends an upload every 50 ms, until it is stopped."""

    def __init__(self, topics: Topics, urls: list[str]) -> None:
        self._topics, self._urls = topics, urls
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        for number in itertools.count():
            url = self._urls[number % len(self._urls)]
            value = orjson.dumps({"id": f"w{number}", "url": url})
            self._topics.send(f"w{number}".encode(), value, number % PARTITIONS, {"traceparent": TRACEPARENT})
            if self._stop.wait(0.05):
                return

    def __enter__(self) -> Uploader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)


@pytest.fixture
def topics(apache_kafka: Kafka) -> Topics:
    return kafka_cluster.Topics(apache_kafka)


def test_an_alert_fires_while_the_image_server_is_away(
    tmp_path: Path, topics: Topics, model_folder: Path, redis_store: RedisServer, origin: Origin
) -> None:
    """Under load no alert fires, every expression of rules and dashboards is answered, and the metrics in
    them are scraped. The image server stops: fetch failures and dead letters are alerted, nothing else. It
    comes back: the alert ends. Without an SDK the senders' traceparent is on every result."""
    images = Origin(origin.paths)
    urls = [images.url(path) for path in origin.paths]
    settings = settings_for(topics, redis_store.url, model_folder, images.port)
    with (
        WorkerProcess(tmp_path, settings) as worker,
        prometheus_server.running(tmp_path, worker.address, "200ms", alerts.rules(HURRY)) as prometheus,
        Uploader(topics, urls),
    ):
        worker.ready()
        with images.running():
            wait_for(
                "uploads are tagged", lambda: worker.metric('imgclust_uploads_total{outcome="tagged"}') > 60
            )
            wait_for("the alerts of the start have ended", lambda: not prometheus.firing())
            everything_is_answered(prometheus, worker)
            assert prometheus.firing() == set()
        wait_for("the alert fires", lambda: "ImgclustFetchFailures" in prometheus.firing())
        wait_for("uploads are dead", lambda: worker.metric('imgclust_uploads_total{outcome="dead"}') > 0)
        assert prometheus.firing() <= {"ImgclustFetchFailures", "ImgclustDeadLetters"}
        with Origin(origin.paths, port=images.port).running():
            wait_for("the alert ends", lambda: "ImgclustFetchFailures" not in prometheus.firing())
        assert worker.terminate() == 0, worker.text()
    for topic in (topics.tags, topics.dlq):
        results = topics.reader(topic)
        wait_for("there are results", results.read)
        assert {headers_of(message)["traceparent"] for message in results.messages} == {TRACEPARENT.decode()}
        results.close()


def everything_is_answered(prometheus: prometheus_server.PrometheusServer, worker: WorkerProcess) -> None:
    groups = prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(alerts.ALERTS)
    assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
    with urllib.request.urlopen(f"http://{worker.address}/metrics", timeout=PATIENCE) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        scraped = {sample.name for family in families for sample in family.samples} | {"up"}
    panels = [
        (f"{board['title']}: {panel['title']}", query["expr"])
        for board in dashboards.dashboards().values()
        for panel in board["panels"]
        for query in panel.get("targets", ())
    ]
    asked = [alert.expr for alert in alerts.ALERTS] + [of_all_workers(expr) for _, expr in panels]
    assert {s.name for expr in asked for s in promql.selectors(expr)} <= scraped

    def empty() -> set[str]:
        return {title for title, expr in panels if not prometheus.ask(of_all_workers(expr))}

    # a rate needs two scrapes, and without a dead letter there is no series above 0
    without = "imgclust: dead letters: In the time shown, by code"
    wait_for("every panel has data", lambda: empty() <= {without})


def of_all_workers(expr: str) -> str:
    expr = expr.replace("$__rate_interval", "5s").replace("$__range", "30s")
    for variable in ("$namespace", "$job", "$instance"):
        expr = expr.replace(variable, ".*")
    return expr
