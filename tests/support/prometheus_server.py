"""A real Prometheus that watches one worker."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worker.demo.backends import free_ports


class PrometheusServer:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """What the API answers, without its envelope; an AssertionError with its words when it refuses.

        An OSError while it is not there yet, or is reading what it stored: it answers 503 then.
        """
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=60
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """An instant query: each series' labels and value."""
        found = self.get("query", query=query)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def up(self) -> bool:
        with contextlib.suppress(OSError):
            return any(value == 1 for _, value in self.ask("up"))
        return False

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        alerts = self.get("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}


@contextlib.contextmanager
def running(
    folder: Path, target: str, interval: str = "100ms", rules: dict[str, Any] | None = None
) -> Iterator[PrometheusServer]:
    """A Prometheus that scrapes `target`, and evaluates `rules`, at every `interval`."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not on the PATH (Debian: prometheus)")
    (folder / "rules.yml").write_text(json.dumps(rules or {"groups": []}))
    times = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
    config = {
        "global": times,
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "imgclust", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    (port,) = free_ports(1)
    command = [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
        try:
            yield PrometheusServer(f"http://127.0.0.1:{port}")
        finally:
            process.kill()
            process.wait()
