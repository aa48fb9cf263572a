"""Real clients of the metrics: Prometheus scrapes them, promtool checks them."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from worker.health import Health, HealthServer
from worker.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    """Metrics in which every row has a series."""
    made = Metrics()
    made.set_model("0123456789ab", "0123456789ab", "mini", range(3))
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


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus that scrapes `target` every 100 ms; gives its address."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not on the PATH (Debian: prometheus)")
    config = {
        "global": {"scrape_interval": "100ms", "scrape_timeout": "100ms"},
        "scrape_configs": [{"job_name": "imgclust", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        try:
            yield f"http://{address}"
        finally:
            process.kill()
            process.wait()


def test_prometheus_scrapes_the_worker(metrics: Metrics, tmp_path: Path) -> None:
    """What the worker counted is what a query in Prometheus answers."""
    with (
        HealthServer("127.0.0.1", 0, metrics.registry, Health()) as server,
        prometheus(tmp_path, "{}:{}".format(*server.address)) as url,
    ):

        def ask(query: str) -> dict[str, float]:
            path = f"{url}/api/v1/query?query={urllib.parse.quote(query)}"
            with urllib.request.urlopen(path, timeout=10) as answer:
                found = json.load(answer)["data"]["result"]
            return {each["metric"].get("cluster", ""): float(each["value"][1]) for each in found}

        deadline = time.monotonic() + 60
        found: dict[str, float] = {}
        while len(found) < 4:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                found = ask("imgclust_tags_total")
            time.sleep(0.1)
        assert found == {"-1": 1, "0": 0, "1": 0, "2": 2}
        assert ask("histogram_quantile(0.5, imgclust_tag_probability_ratio_bucket)").keys() == {""}
        assert ask('up{job="imgclust"}') == {"": 1}
