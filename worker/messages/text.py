"""Text and time as they may appear in messages: bounded, printable, RFC 3339."""

from __future__ import annotations

import datetime as dt
import re
import time

from worker.errors import Rejected

# the years 1 to 9999, UTC: what RFC 3339 can say of a moment
MIN_TIME_MS, MAX_TIME_MS = -62_135_596_800_000, 253_402_300_799_999


def bad_event(message: str) -> Rejected:
    return Rejected("bad-event", "consume", message)


def printable(value: object, limit: int = 200) -> str:
    """A value from outside, made safe for a log line or an error text: ASCII, one line, bounded."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def readable(text: str, limit: int = 200) -> str:
    """The same for people: letters of all languages stay, and what moves the cursor, turns the
    direction or is no character is escaped."""
    cut = text[: limit + 1]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return cut if len(cut) <= limit else f"{cut[: limit - 1]}…"


def bounded(timestamp_ms: int) -> int:
    """A record's timestamp, which is any number that its producer chose, as a moment of the calendar."""
    return min(max(timestamp_ms, MIN_TIME_MS), MAX_TIME_MS)


# whole numbers all the way: floats lose a millisecond now and then
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


_MILLISECOND = dt.timedelta(milliseconds=1)


# RFC 3339: a subset of what datetime.fromisoformat takes, so its form is checked first.
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


def parse_time(value: object) -> int:
    """RFC 3339 → milliseconds since the epoch."""
    if not isinstance(value, str) or len(value) > 40 or not _RFC3339.fullmatch(value):
        raise bad_event(f'"uploaded_at" must be RFC 3339, like 2026-11-23T21:17:00Z, got {printable(value)}')
    try:
        # a leap second (…:60) is a valid RFC 3339 time that datetime does not know
        text = value.upper()
        text = f"{text[:17]}59{text[19:]}" if text[17:19] == "60" else text
        ms = (dt.datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        raise bad_event(f'"uploaded_at" is not a valid date and time: {printable(value)}') from None
    if not MIN_TIME_MS <= ms <= MAX_TIME_MS:
        raise bad_event(f'"uploaded_at" is outside of the years 1 to 9999 in UTC: {printable(value)}')
    return ms


def wall_ms() -> int:
    """Now, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def format_time(ms: int) -> str:
    """Milliseconds since the epoch → RFC 3339 with milliseconds, UTC."""
    moment = _EPOCH + ms * _MILLISECOND
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
