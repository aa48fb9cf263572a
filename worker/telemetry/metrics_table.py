"""Every metric of the worker in one table, of which the registry and the README's table are made."""

from __future__ import annotations

from types import ModuleType

from worker.telemetry import model_metrics, service_metrics, upload_metrics
from worker.telemetry.metric_row import MetricRow


def _rows(module: ModuleType) -> list[MetricRow]:
    return [value for value in vars(module).values() if isinstance(value, MetricRow)]


TABLE = (*_rows(upload_metrics), *_rows(model_metrics), *_rows(service_metrics))


def metrics_table() -> str:
    """The README's table of metrics, in Markdown."""
    lines = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for row in TABLE:
        labels = ", ".join(f"`{label.name}`" for label in row.labels) or "–"
        lines.append(f"| `{row.name}` | {row.kind} | {row.unit} | {labels} | {row.help} |")
    return "\n".join(lines) + "\n"
