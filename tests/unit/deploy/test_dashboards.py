"""The dashboards for Grafana: made from the metric table, complete, and asking only for what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import promql
from worker.telemetry.metrics_table import TABLE

build = promql.script("deploy/grafana/build.py")
BOARDS: dict[str, dict[str, Any]] = {path.stem: board for path, board in build.dashboards().items()}
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$namespace": "n", "$job": "j", "$instance": "i"}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> list[tuple[str, str]]:
    """(where it stands, PromQL) of all panels and annotations, with Grafana's variables filled in."""
    found = [
        (f"{name}: {panel['title']}", query["expr"])
        for name, board in BOARDS.items()
        for panel in panels(board)
        for query in panel["targets"]
    ]
    found += [
        (f"{name}: {each['name']}", each["expr"])
        for name, board in BOARDS.items()
        for each in board["annotations"]["list"]
    ]
    for variable, value in VARIABLES.items():
        found = [(place, expr.replace(variable, value)) for place, expr in found]
    return found


def test_the_files_are_those_of_the_table() -> None:
    """What lies in deploy/grafana/dashboards is what the builder makes; `make docs` writes it."""
    files = build.files()
    assert sorted(files) == sorted(build.FOLDER.glob("*.json"))
    for path, content in files.items():
        assert path.read_text() == content, f"{path.name} is stale; run `make docs`"


def test_every_expression_asks_for_what_there_is() -> None:
    """All metrics, labels and values are the worker's, and no variable of Grafana is left unknown."""
    assert len(expressions()) > 60
    for place, expr in expressions():
        assert "$" not in expr, place
        if not expr.startswith("ALERTS"):
            assert promql.problems(expr) == [], place


def test_every_metric_is_on_a_dashboard() -> None:
    """Nothing that the worker measures is left out."""
    shown = set().union(*(promql.names(expr) for _, expr in expressions()))
    assert {row.name for row in TABLE} - shown == set()


def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    """promtool takes each of them as a rule."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on the PATH (Debian: prometheus)")
    rules = [{"record": f"r:{i}", "expr": expr} for i, (_, expr) in enumerate(expressions())]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboards", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_laid_out_and_explained(name: str) -> None:
    """Panels have ids, titles, units and descriptions, lie beside each other in the grid, and their legends
    use labels that their expressions keep."""
    board = BOARDS[name]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for one, two in combinations([panel["gridPos"] for panel in board["panels"]], 2):
        apart = (
            one["x"] + one["w"] <= two["x"]
            or two["x"] + two["w"] <= one["x"]
            or one["y"] + one["h"] <= two["y"]
            or two["y"] + two["h"] <= one["y"]
        )
        assert apart, (one, two)
    for panel in panels(board):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert panel["description"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["type"] == "heatmap" or panel["fieldConfig"]["defaults"]["unit"]
        for query in panel["targets"]:
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"(?:by|left) \((.*?)\)", query["expr"]))))
            assert set(re.findall(r"{{(\w+)}}", query["legendFormat"])) <= kept, panel["title"]


def test_grafana_finds_them() -> None:
    """The provisioning names a Prometheus and the folder; each dashboard has a uid of its own and links."""
    folder = build.FOLDER.parent / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((folder / "dashboards" / "imgclust.yaml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    assert all(board["links"][0]["tags"] == board["tags"] for board in BOARDS.values())
