"""Real clients of the metrics: Prometheus scrapes them, promtool checks them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from tests.support import prometheus_server
from tests.support.waiting import wait_for
from worker.telemetry.health import Health, HealthServer
from worker.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    """Metrics in which every row has a series."""
    made = Metrics()
    made.set_model("0123456789ab", "0123456789ab", "mini", {0: 0.9, 1: 0.55, 2: None})
    made.set_lag(0, 12, 3, 1.5)
    made.set_view_lag(0, 4)
    made.count_tags([2, 2, -1], [0.9, 0.8, 0.0], novel=1)
    return made


def test_promtool_finds_nothing_to_object_to(metrics: Metrics) -> None:
    """Names, types and help texts pass the linter that Prometheus comes with."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on the PATH (Debian: prometheus)")
    text = generate_latest(metrics.registry)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_prometheus_scrapes_the_worker(metrics: Metrics, tmp_path: Path) -> None:
    """What the worker counted is what a query in Prometheus answers."""
    with (
        HealthServer("127.0.0.1", 0, metrics.registry, Health()) as server,
        prometheus_server.running(tmp_path, "{}:{}".format(*server.address)) as prometheus,
    ):
        wait_for("it is scraped", prometheus.up)
        tags = {labels["cluster"]: value for labels, value in prometheus.ask("imgclust_tags_total")}
        assert tags == {"-1": 1, "0": 0, "1": 0, "2": 2}
        assert len(prometheus.ask("histogram_quantile(0.5, imgclust_tag_probability_ratio_bucket)")) == 1
        ((target, value),) = prometheus.ask('up{job="imgclust"}')
        assert (target["instance"], value) == ("{}:{}".format(*server.address), 1)
