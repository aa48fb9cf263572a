"""Structured logs on the standard library: `log.info("event", key=value)`.

One JSON object a line, or one readable line on a terminal. Values come from uploads and are hostile: they
are escaped, bounded and cleared of credentials here, so that no caller has to remember it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TextIO

import orjson

MAX_VALUE_CHARS = 500
MAX_EXCEPTION_CHARS = 8000
MAX_FIELDS = 32
MAX_ITEMS = 20

Form = Literal["text", "json"]

_SECRET_KEY = re.compile(r"passw|secret|token|credential|authorization|api_?key|private_?key", re.IGNORECASE)
_SECRET_IN_URL = re.compile(r"(?<=://)[^/\s@]*@|(?<=\?)[^\s#'\"]+(?=(?:[\s#'\"]|$))")
_NUMBERS = re.compile(r"\d+")
_PLAIN = re.compile(r"[\w.:/+@%,;<>()\[\]…*-]+")


def _text(value: str, limit: int = MAX_VALUE_CHARS) -> str:
    """One line without control, direction or lone surrogate characters, no longer than `limit`."""
    cut = value[:8192]
    if "://" in cut:  # a user's name and password, and the query: signed URLs carry their secret there
        cut = _SECRET_IN_URL.sub(lambda m: "***@" if m[0].endswith("@") else "…", cut)
    cut = cut[: limit + 1]
    if not cut.isprintable():
        cut = cut.encode("unicode_escape").decode("ascii")
    return cut if len(cut) <= limit else f"{cut[: limit - 1]}…"


def _value(value: object, depth: int = 2) -> object:
    """A value that both forms can show."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes):
        return _text(repr(value[:MAX_VALUE_CHARS]))
    if depth and isinstance(value, Mapping):
        return _fields(value, depth - 1)
    if depth and isinstance(value, list | tuple | set | frozenset):
        items = [_value(item, depth - 1) for item in list(value)[:MAX_ITEMS]]
        return items if len(value) <= MAX_ITEMS else [*items, f"… {len(value) - MAX_ITEMS} more"]
    return _text(str(value))


def _fields(fields: Mapping[Any, object], depth: int = 2) -> dict[str, object]:
    names = list(fields)[:MAX_FIELDS]
    return {
        _text(str(name), 80): "***" if _SECRET_KEY.search(str(name)) else _value(fields[name], depth)
        for name in names
    }


def _exception(record: logging.LogRecord, formatter: logging.Formatter) -> str | None:
    if not record.exc_info or record.exc_info[0] is None:
        return None
    lines = formatter.formatException(record.exc_info).splitlines()
    text = "\n".join(_text(line, 400) for line in lines)
    half = MAX_EXCEPTION_CHARS // 2  # the first frames and the error itself both matter
    return text if len(text) <= MAX_EXCEPTION_CHARS else f"{text[:half]}\n…\n{text[-half:]}"


def _message(record: logging.LogRecord) -> str:
    """What a library wrote; some give arguments that do not fit."""
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return str(record.msg)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _text(record.getMessage()),
        }
        for name, value in _fields(getattr(record, "fields", {})).items():
            line[name if name not in line else f"{name}_"] = value
        if exception := _exception(record, self):
            line["exception"] = exception
        return orjson.dumps(line).decode()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = dt.datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")[11:23]
        pairs = [f"{name}={_shown(value)}" for name, value in _fields(getattr(record, "fields", {})).items()]
        line = " ".join([moment, f"{record.levelname:<7}", _text(record.getMessage()), *pairs])
        exception = _exception(record, self)
        return line if exception is None else f"{line}\n{exception}"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return orjson.dumps(value).decode()


@dataclasses.dataclass(slots=True)
class _Kind:
    """Messages of one kind in a window: since when, how many are let through, the first, how many came."""

    since: float
    allowed: int
    first: str
    count: int = 0


class RateLimit:
    """Lets the first messages of a kind through in each `window` seconds and counts the rest.

    A kind is a logger, a level, and an event's name, not its values: `burst` of them are let through. What
    other libraries write has no name: of messages that are equal but for numbers one is let through.
    """

    MAX_KINDS = 1000

    def __init__(self, burst: int = 10, window: float = 10.0, clock: Callable[[], float] = time.monotonic):
        self._burst, self._window, self._clock = burst, window, clock
        self._kinds: dict[tuple[str, int, str], _Kind] = {}

    def admit(self, name: str, level: int, event: str, *, named: bool = True) -> bool:
        """Whether this message is to be written.

        Args:
            named: `event` is a name, and not a text of another library.
        """
        now, kind = self._clock(), (name, level, event if named else _NUMBERS.sub("#", event))
        state = self._kinds.get(kind)
        if state is None or now - state.since >= self._window:
            if len(self._kinds) >= self.MAX_KINDS:
                self._kinds.clear()
            state = self._kinds[kind] = _Kind(now, self._burst if named else 1, event)
        state.count += 1
        return state.count <= state.allowed

    def due(self, everything: bool = False) -> list[tuple[str, int, str, int]]:
        """(logger, level, event, how many were held back) of windows that are over, each once."""
        latest = self._clock() - self._window
        over = [(kind, state) for kind, state in self._kinds.items() if everything or state.since <= latest]
        for kind, _ in over:
            del self._kinds[kind]
        return [
            (name, level, state.first, state.count - state.allowed)
            for (name, level, _), state in over
            if state.count > state.allowed
        ]


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines, at most so many of a kind (logging holds the handler's lock around `emit`)."""

    def __init__(self, stream: TextIO, limit: RateLimit) -> None:
        super().__init__(stream)
        self._limit = limit

    def emit(self, record: logging.LogRecord) -> None:
        self._report()
        named = hasattr(record, "fields")
        event = str(record.msg) if named else _message(record)
        if self._limit.admit(record.name, record.levelno, event, named=named):
            super().emit(record)

    def _report(self, everything: bool = False) -> None:
        for name, level, event, count in self._limit.due(everything):
            super().emit(
                logging.LogRecord(name, level, "", 0, "%s: … %d more like this", (event, count), None)
            )

    def close(self) -> None:
        with contextlib.suppress(ValueError):  # the stream may be closed already
            self._report(everything=True)
        super().close()


class Log:
    """A logger whose messages are an event's name and fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def _write(self, level: int, event: str, fields: dict[str, object], trace: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            # the event is the message itself, never a format: a "%" in it means nothing
            self._logger.log(level, event, exc_info=trace, extra={"fields": fields}, stacklevel=3)

    def debug(self, event: str, /, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error with the traceback of the exception that is being handled."""
        self._write(logging.ERROR, event, fields, trace=True)


def get(name: str) -> Log:
    """The log of a module: `log = worker.telemetry.log.get(__name__)`."""
    return Log(name)


def configure(
    form: Form | None = None,
    *,
    stream: TextIO | None = None,
    level: int = logging.INFO,
    limit: RateLimit | None = None,
) -> None:
    """Send all logs of this process, other libraries' too, to one stream.

    Args:
        form: "text" or "json"; by default text on a terminal, else JSON.
        stream: standard error by default.
        level: of the lowest messages that are written.
        limit: how many messages of one kind are written; the rest is counted.
    """
    stream = sys.stderr if stream is None else stream
    if form is None:
        form = "text" if stream.isatty() else "json"
    handler = _Handler(stream, RateLimit() if limit is None else limit)
    handler.setFormatter(_Text() if form == "text" else _Json())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
