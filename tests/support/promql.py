"""What the expressions of alerts and dashboards ask for, and whether the worker's metrics can answer."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

import promql_parser
from promql_parser import MatchOp

from tests.support.paths import ROOT
from worker.telemetry.metric_row import MetricRow
from worker.telemetry.metrics_table import TABLE

SAMPLES: dict[str, MetricRow] = {row.name: row for row in TABLE} | {
    f"{row.name}_{end}": row for row in TABLE if row.kind == "histogram" for end in ("bucket", "sum", "count")
}
TARGET_LABELS = {"job", "instance", "namespace"}  # Prometheus adds them
FOREIGN = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}


def script(path: str) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Every selector of an expression; a ValueError when it is no PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def problems(expression: str) -> list[str]:
    """What the worker could never answer: unknown metrics, labels that a metric has not, values that no
    label takes, counters without a rate."""
    found = []
    for selector in selectors(expression):
        if selector.name in FOREIGN:
            continue
        row = SAMPLES.get(selector.name or "")
        if row is None or (row.kind == "histogram" and selector.name == row.name):
            found.append(f"no metric {selector.name}")
            continue
        labels = {label.name: label.values for label in row.labels} | dict.fromkeys(TARGET_LABELS)
        if row.kind == "histogram":
            labels["le"] = (*(str(float(bound)) for bound in row.buckets), "+Inf")
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                found.append(f"{selector.name} has no label {matcher.name}")
                continue
            values = labels[matcher.name]
            exact = matcher.op in (MatchOp.Equal, MatchOp.NotEqual)
            if values is not None and not any(
                v == matcher.value if exact else re.fullmatch(matcher.value, v) for v in values
            ):
                found.append(f"{selector.name}: {matcher.name} is never {matcher.value}")
    return found


def names(expression: str) -> set[str]:
    """The rows of the table that an expression uses."""
    return {SAMPLES[s.name].name for s in selectors(expression) if s.name in SAMPLES}
