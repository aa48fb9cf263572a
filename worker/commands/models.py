"""`imgclust-worker models`: which model is live, and what each worker runs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import redis
from rich.console import Console
from rich.table import Table

from worker.messages.models import (
    ROLES,
    ModelRole,
    ModelsState,
    WorkerReport,
)
from worker.messages.text import format_time, readable, wall_ms
from worker.settings.settings import Settings
from worker.tagger.model_loading import (
    read_state,
)
from worker.tagger.models_topic import REPORT_EVERY
from worker.view.client import connect, text_of
from worker.view.keys import Keys

GONE = 3 * REPORT_EVERY  # seconds without a report
POLL = 1.0
SEND_TIMEOUT = 15.0


def alive(state: ModelsState, now: int) -> dict[str, WorkerReport]:
    """Workers that have reported lately, by name."""
    return {name: r for name, r in sorted(state.reports.items()) if now - r.at <= GONE * 1000}


# ── show ─────────────────────────────────────────────────────────────────────────────────────────────────


def show(settings: Settings, *, as_json: bool | None = None, out: TextIO | None = None) -> int:
    """Show what is named live and shadow, which taxonomy feeds read, and what each worker runs.

    Raises:
        WorkerError: Kafka is away, or there is no models topic.
    """
    out = out or sys.stdout
    state, now = read_state(settings), wall_ms()
    feeds = _feeds(settings)
    if not out.isatty() if as_json is None else as_json:
        print(json.dumps(_fields(state, feeds, now)), file=out)
        return 0
    console = Console(file=out, highlight=False, soft_wrap=True, markup=False)
    for role in ROLES:
        console.print(f"{role:7} {_assigned(state, role, now)}")
    console.print(f"feeds   {feeds if isinstance(feeds, str) else feeds['reads']}")
    workers = alive(state, now)
    if not workers:
        console.print(f"no worker has reported within {GONE:g} s")
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("worker", "live", "for", "shadow", "agrees", "other", "refuses"):
        table.add_column(heading, no_wrap=heading != "refuses")
    for name, report in workers.items():
        shadow = report.shadow or {}
        refused = "; ".join(f"{role}: {reason}" for role, reason in report.refused.items())
        table.add_row(
            readable(name),
            readable(report.version),
            _age(now - report.since),
            readable(str(shadow.get("version", "–"))),
            _share(shadow.get("agreement")),
            _share(shadow.get("other")),
            readable(refused) or "–",
        )
    Console(file=out, highlight=False, markup=False).print(table)
    return 0


def _assigned(state: ModelsState, role: ModelRole, now: int) -> str:
    assignment = state.assignments.get(role)
    if assignment is None:
        return "none is set: each worker runs its WORKER_MODEL" if role == "live" else "none"
    model, before = assignment.model, assignment.before
    back = f"; before it {before}" if before else ""
    age = _age(now - assignment.at)
    return f"{model.version} in {model.folder}, taxonomy {model.taxonomy}, named {age} ago{back}"


def _share(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, float | int) else "–"


def _age(ms: int) -> str:
    seconds = max(0, ms // 1000)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _fields(state: ModelsState, feeds: str | Mapping[str, str | None], now: int) -> dict[str, Any]:
    def assigned(role: ModelRole) -> dict[str, Any] | None:
        assignment = state.assignments.get(role)
        if assignment is None:
            return None
        before = assignment.before and dataclasses.asdict(assignment.before)
        return {
            **dataclasses.asdict(assignment.model),
            "set_at": format_time(assignment.at),
            "before": before,
        }

    workers = {
        name: {**dataclasses.asdict(r), "since": format_time(r.since), "at": format_time(r.at)}
        for name, r in alive(state, now).items()
    }
    reads = feeds["taxonomy"] if not isinstance(feeds, str) else None
    return {"live": assigned("live"), "shadow": assigned("shadow"), "feeds": reads, "workers": workers}


def _feeds(settings: Settings) -> str | dict[str, str | None]:
    """What feeds read, for people and for programs; a sentence when Redis does not say."""
    try:
        value = redis_client(settings).get(Keys(settings.redis_prefix).taxonomy)
    except redis.RedisError as error:
        return f"not known: Redis does not answer ({readable(str(error))})"
    taxonomy = None if value is None else readable(text_of(value))
    return {"taxonomy": taxonomy, "reads": f"read taxonomy {taxonomy}" if taxonomy else "have no tag yet"}


def redis_client(settings: Settings) -> Any:
    return connect(settings.redis_url, settings.redis_password, timeout=3.0)
