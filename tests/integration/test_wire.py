"""Real clients on the wire: kcat produces and reads, redis-cli reads the view, Prometheus scrapes."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.support.kafka_cluster import Topics
from tests.support.origin import Origin
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, wait_for
from tests.support.worker_process import WorkerProcess, settings_for
from worker.demo.backends import Kafka, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.kafka]

PICTURES = 40


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on the PATH (Debian: apt-get install {name.replace('-cli', '-tools')})")
    return path


@pytest.fixture
def topics(apache_kafka: Kafka) -> Topics:
    return Topics(apache_kafka)


@pytest.fixture
def worker(
    tmp_path: Path, topics: Topics, model_folder: Path, redis_store: RedisServer, origin: Origin
) -> Iterator[WorkerProcess]:
    env = settings_for(topics, redis_store.url, model_folder, origin.port)
    with WorkerProcess(tmp_path, env) as process:
        yield process.ready()


def prometheus_value(base: str, query: str) -> float | None:
    url = f"{base}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        answer = json.load(urllib.request.urlopen(url, timeout=PATIENCE))
    except OSError:
        return None
    result = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def test_kcat_in_kcat_redis_cli_and_prometheus_out(
    tmp_path: Path,
    topics: Topics,
    worker: WorkerProcess,
    redis_store: RedisServer,
    origin: Origin,
    held_out: list[str],
) -> None:
    """Uploads that kcat writes come out as tags that kcat reads, as hashes and sets that redis-cli reads, and
    as numbers that Prometheus scrapes; all of them agree."""
    kcat, redis_cli, prometheus = tool("kcat"), tool("redis-cli"), tool("prometheus")
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: worker, static_configs: [{{targets: ['{worker.address}']}}]}}]\n"
    )
    (port,) = free_ports(1)
    base = f"http://127.0.0.1:{port}"
    with (tmp_path / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(
            [prometheus, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        lines = b""
        for i in range(PICTURES):
            event = {"id": f"w{i}", "url": origin.url(f"/{held_out[i % len(held_out)]}")}
            lines += f"w{i}\t".encode() + orjson.dumps(event) + b"\n"
        subprocess.run(
            [kcat, "-P", "-b", topics.bootstrap, "-t", topics.uploads, "-K", "\t"],
            input=lines,
            check=True,
            timeout=60,
        )

        def read() -> list[list[str]]:
            done = subprocess.run(
                [kcat, "-C", "-b", topics.bootstrap, "-t", topics.tags, "-e", "-q", "-f", "%k\\t%s\\t%h\\n"],
                capture_output=True, text=True, check=True, timeout=60,
            )  # fmt: skip
            return [line.split("\t") for line in done.stdout.splitlines()]

        wait_for("kcat reads all tags", lambda: len(read()) >= PICTURES)
        tags = {key: orjson.loads(value) for key, value, _ in read()}
        assert set(tags) == {f"w{i}" for i in range(PICTURES)}
        assert all(
            "source-offset=" in headers and "content-type=application/json" in headers
            for *_, headers in read()
        )

        def redis(*arguments: str) -> str:
            command = [redis_cli, "-p", str(redis_store.port), *arguments]
            return subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=20
            ).stdout.strip()

        wait_for(
            "redis-cli finds every tag",
            lambda: all(redis("EXISTS", f"imgclust:tag:{i}") == "1" for i in tags),
        )
        assert orjson.loads(redis("HGET", "imgclust:tag:w7", "tag")) == tags["w7"]
        taxonomy = redis("GET", "imgclust:taxonomy")
        clusters = {tag["cluster"] for tag in tags.values()}
        sizes = {c: int(redis("ZCARD", f"imgclust:{taxonomy}:cluster:{c}")) for c in clusters}
        assert sum(sizes.values()) == PICTURES
        assert {int(c) for c in redis("HKEYS", f"imgclust:{taxonomy}:clusters").split()} >= clusters

        wait_for(
            "Prometheus has scraped the same number",
            lambda: prometheus_value(base, 'imgclust_uploads_total{outcome="tagged"}') == PICTURES,
        )
        assert prometheus_value(base, "sum(imgclust_tags_total)") == PICTURES
        assert prometheus_value(base, "imgclust_end_to_end_seconds_count") == PICTURES
        wait_for("and no lag", lambda: prometheus_value(base, "sum(imgclust_consumer_lag_records)") == 0)
    finally:
        server.terminate()
        server.wait(timeout=PATIENCE)
