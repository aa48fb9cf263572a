"""The rules for Prometheus: made from their table, tested by promtool, explained in the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter

import pytest
import yaml

from tests.support import promql
from worker.settings.table import settings_table

build = promql.script("deploy/prometheus/build.py")
PROMETHEUS = promql.ROOT / "deploy" / "prometheus"
ALERTS = {alert.name: alert for alert in build.ALERTS}


def test_the_files_are_those_of_the_table() -> None:
    """Rules, the operator's rule and the runbook's table are up to date; `make docs` writes them."""
    for path, content in build.files().items():
        assert path.read_text() == content, f"{path.name} is stale; run `make docs`"
    assert len(ALERTS) == len(build.ALERTS)


@pytest.mark.parametrize("alert", build.ALERTS, ids=lambda alert: alert.name)
def test_an_alert_asks_for_what_there_is(alert: object) -> None:
    """Each expression is PromQL over metrics, labels and values that the worker has, also when hurried; its
    page names labels that the expression keeps."""
    expression = alert.expr  # type: ignore[attr-defined]
    assert promql.selectors(expression)
    assert promql.problems(expression) == []
    kept = {"by (namespace, job)": {"job"}, "by (namespace, job, instance)": {"job", "instance"}}
    used = set(re.findall(r"\$labels\.(\w+)", alert.summary))  # type: ignore[attr-defined]
    for grouping, labels in kept.items():
        if f"{grouping} " in expression:
            assert used <= labels | {"error_code"}, grouping


def test_hurried_rules_differ_in_their_times_only() -> None:
    """A divisor shortens every duration and changes nothing else."""
    hurried = build.rules(60)["groups"][0]["rules"]
    for rule, fast in zip(build.rules()["groups"][0]["rules"], hurried, strict=True):
        assert fast["for"] == build.shorter(rule["for"], 60)
        assert re.sub(r"\d+ms", "T", fast["expr"]) == re.sub(r"\b\d+[smh]\b", "T", rule["expr"])
    assert build.shorter("5m", 60) == "5000ms"


def test_promtool_sees_every_alert_fire_and_stay_quiet() -> None:
    """The rules pass promtool's own tests, and those have for each alert a case in which it fires and one in
    which it has data and does not."""
    cases = yaml.safe_load((PROMETHEUS / "rules_test.yaml").read_text())["tests"]
    fires, quiet = Counter(), Counter()
    for case in cases:
        given = {promql.selectors(series["series"])[0].name for series in case["input_series"]}
        for test in case["alert_rule_test"]:
            alert = test["alertname"]
            assert {s.name for s in promql.selectors(ALERTS[alert].expr)} <= given, (alert, case["name"])
            (fires if test.get("exp_alerts") else quiet)[alert] += 1
    assert set(fires) == set(quiet) == set(ALERTS)
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on the PATH (Debian: prometheus)")
    for arguments in (["check", "config", "prometheus.yaml"], ["test", "rules", "rules_test.yaml"]):
        done = subprocess.run(
            [promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_entry_in_the_runbook() -> None:
    """One section for each alert, in the table's order, with where to look and what to do."""
    text = build.RUNBOOK.read_text()
    sections = re.split(r"^## ", text, flags=re.M)[1:]
    assert [section.split("\n", 1)[0] for section in sections] == list(ALERTS)
    for section in sections:
        assert "- **Look**: " in section
        assert "- **Do**: " in section
    assert all(rule["annotations"]["runbook_url"].partition("#")[2] in text.lower() for rule in all_rules())


def all_rules() -> list[dict[str, dict[str, str]]]:
    rules: list[dict[str, dict[str, str]]] = build.rules()["groups"][0]["rules"]
    return rules


@pytest.mark.parametrize("page", ["runbook.md", "watching.md", "capacity.md"])
def test_pages_name_metrics_and_settings_that_exist(page: str) -> None:
    """Every metric and setting that a page mentions is one of the worker's."""
    text = (promql.ROOT / "docs" / page).read_text()
    assert set(re.findall(r"\bimgclust_[a-z_]+\b", text)) <= set(promql.SAMPLES)
    known = set(re.findall(r"`(WORKER_[A-Z_]+)`", settings_table()))
    assert set(re.findall(r"\bWORKER_[A-Z_]+[A-Z]\b", text)) <= known
