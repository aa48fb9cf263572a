"""`imgclust-worker explain ID`: where an upload is and why, from the topics and Redis."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO

import redis

from worker import wiring
from worker.commands.history import Fields, Found, look, outcomes
from worker.kafka.scanner import Entry, Scanner
from worker.messages.text import printable, readable
from worker.settings.settings import Settings
from worker.view.client import RedisTrouble, connect, parse_pair
from worker.view.keys import Keys
from worker.view.store import TagsView
from worker.wiring import formats


def explain(
    settings: Settings,
    upload_id: str,
    *,
    since: float | None = None,
    as_json: bool | None = None,
    out: TextIO | None = None,
) -> int:
    """Report what became of every event of an id that is still there.

    Args:
        since: look only at events of the last so many seconds, which is faster; None: at all that the uploads
            topic still has.
        as_json: None: by whether `out` is a terminal.

    Returns:
        The exit code: 0, or 1 when no topic knows the id.

    Raises:
        WorkerError: Kafka is away, or does not let us read.
    """
    out = out or sys.stdout
    as_json = not out.isatty() if as_json is None else as_json
    with Scanner(wiring.connection(settings), settings.group_id, formats(settings)) as scanner:
        found = look(scanner, settings, upload_id, since)
    now = time.time_ns() // 1_000_000
    story = outcomes(found, now)
    view = in_view(settings, upload_id, found.tags)
    if as_json:
        print(json.dumps({"id": upload_id, "events": story, "view": view}, ensure_ascii=True), file=out)
    else:
        for line in _lines(upload_id, found, story, view):
            print(line, file=out)
    return 1 if found.nothing else 0


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────────────


def in_view(settings: Settings, upload_id: str, tags: list[Entry]) -> Fields:
    """What Redis has of the id, beside the last record that the tags topic has of it."""
    keys = Keys(settings.redis_prefix)
    last = tags[-1] if tags else None
    client: Any = connect(settings.redis_url, settings.redis_password, timeout=3.0)
    with contextlib.closing(client):
        try:
            position, tag = client.hmget(keys.tag(upload_id), "position", "tag")
            view = TagsView(client, settings.redis_prefix)
            view_at = None if last is None else view.reached([last.partition])[last.partition]
        except redis.RedisError as error:
            return {"state": "unknown", "why": f"Redis: {printable(str(error))}"}
        except RedisTrouble as error:
            return {"state": "unknown", "why": str(error)}
    here = parse_pair(position)
    shown = None if here is None else f"{here[0]}:{here[1]}"
    if last is None:
        return {"state": "absent" if here is None else "there", "position": shown,
                "why": "the tags topic has no record of it"}  # fmt: skip
    if here == (last.partition, last.offset):
        state = "there" if tag is not None else "deleted" if last.value is None else "expired"
        return {"state": state, "position": shown}
    if view_at is None or view_at.offset <= last.offset:
        far = "nothing" if view_at is None or view_at.offset < 0 else f"{last.partition}:{view_at.offset}"
        return {"state": "behind", "position": shown,
                "why": f"the view has read up to {far}, the tag is at {last.position}"}  # fmt: skip
    if here is None:
        return {"state": "expired", "position": None,
                "why": "30 days after uploaded_at, a deletion after 7"}  # fmt: skip
    return {"state": "there", "position": shown, "why": f"the topic's last record is {last.position}"}


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────


def _lines(upload_id: str, found: Found, story: list[Fields], view: Fields) -> Iterable[str]:
    yield f"id      {readable(upload_id, 300)}"
    if found.nothing:
        yield "topics  none of the four has a record of it (ids are case-sensitive; retention takes old ones)"
    if found.trouble is not None:
        yield f"note    {_safe(found.trouble)}"
    for event in story:
        yield f"event   {event['event']}  {event['sent']}  {_safe(event['kind'])}"
        rest = {k: v for k, v in event.items() if k not in ("event", "sent", "kind", "outcome", "why")}
        yield f"        → {event['outcome']}" + _pairs(rest)
        if event.get("why"):
            yield f"          {_safe(event['why'])}"
    yield f"view    {view['state']}" + _pairs({"position": view.get("position")})
    if view.get("why"):
        yield f"        {_safe(view['why'])}"


def _pairs(fields: Fields) -> str:
    shown = [f"{name} {_safe(value)}" for name, value in fields.items() if value is not None]
    return f"  ({', '.join(shown)})" if shown else ""


def _safe(value: object) -> str:
    """Text that may come from a stranger, for a terminal."""
    return readable(str(value), 500)
