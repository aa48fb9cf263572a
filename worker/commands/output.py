"""How commands print: progress on a terminal, times, JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping

from rich.console import Console

from worker.kafka.scanner import Progress
from worker.messages.text import MIN_TIME_MS, format_time


def to_json(fields: Mapping[str, object]) -> str:
    """One line of ASCII: what is in it may come from a stranger, and may end up on a terminal."""
    return json.dumps(fields, ensure_ascii=True)


def when(ms: int) -> str:
    """A record's timestamp as text; producers choose it, so it may lie outside of the calendar."""
    return format_time(ms) if MIN_TIME_MS <= ms < 253_402_300_800_000 else str(ms)


@contextlib.contextmanager
def watching(what: str) -> Iterator[Progress | None]:
    """How far a long read is, on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with Console(stderr=True).status(what) as status:
        yield lambda done, total: status.update(f"{what}: {done:,} of {total:,}")
