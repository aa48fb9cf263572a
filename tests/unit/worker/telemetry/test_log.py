"""Structured logs: both forms, hostile values, secrets, repetition."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.telemetry import log as logs
from worker.telemetry.log import MAX_EXCEPTION_CHARS, MAX_FIELDS, MAX_VALUE_CHARS, Form, RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Start = Callable[..., io.StringIO]


@pytest.fixture
def start() -> Iterator[Start]:
    """Configures logging into a buffer, and puts back what was there."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []

    def begin(form: Form = "json", **options: object) -> io.StringIO:
        stream = io.StringIO()
        logs.configure(form, stream=stream, **options)  # type: ignore[arg-type]
        return stream

    yield begin
    for handler in root.handlers:
        handler.close()
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_time_level_logger_event_and_fields(start: Start) -> None:
    """One event is one JSON object with its fields beside the standard ones."""
    stream = start()
    logs.get("worker.x").warning("fetch failed", attempt=2, code="fetch-timeout", ok=False, after=None)
    (line,) = lines(stream)
    assert str(line.pop("time")).endswith("Z")
    assert line == {"level": "warning", "logger": "worker.x", "event": "fetch failed", "attempt": 2,
                    "code": "fetch-timeout", "ok": False, "after": None}  # fmt: skip


def test_a_text_line_is_readable(start: Start) -> None:
    """On a terminal: time, level, event, and quotes only where they are needed."""
    stream = start("text")
    logs.get("worker.x").info("batch", images=64, seconds=0.0123456789, note="two words", codes=["a", "b"])
    text = stream.getvalue()
    assert text[12:] == ' INFO    batch images=64 seconds=0.0123457 note="two words" codes=["a","b"]\n'


def test_fields_cannot_pose_as_the_standard_ones(start: Start) -> None:
    """A field named like `event` or `level` is shown under another name."""
    stream = start()
    logs.get("x").info("real", level="fake", time="fake")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["level_"], line["time_"]) == ("real", "info", "fake", "fake")


@pytest.mark.parametrize("form", ["json", "text"])
@given(value=st.text(max_size=700), name=st.text(max_size=100))
def test_nothing_from_outside_breaks_a_line(form: Form, value: str, name: str) -> None:
    """Whatever an event holds, a message stays one line without control or direction characters."""
    stream = io.StringIO()
    record = logging.LogRecord("x", logging.INFO, "", 0, "event", None, None)
    record.fields = {name: value, "list": [value], "bytes": value.encode("utf-8", "replace")}
    formatter = logs._Json() if form == "json" else logs._Text()
    stream.write(formatter.format(record))
    text = stream.getvalue()
    assert text.isprintable()
    assert len(text) < 12 * MAX_VALUE_CHARS
    if form == "json":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("form", ["json", "text"])
def test_escapes_of_a_terminal_do_not_reach_it(start: Start, form: Form) -> None:
    """Escape sequences, right-to-left marks and lone surrogates in an id or an event are shown, not sent."""
    stream = start(form)
    logs.get("x").info("gone\x1b[2J", id="a\x1b[31m\r\nb\u202ec\ud800")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert not {"\x1b", "\r", "\u202e", "\ud800"} & set(text)


def test_values_are_bounded(start: Start) -> None:
    """Long strings, long lists and many fields are cut, and say so."""
    stream = start()
    logs.get("x").info("big", text="y" * 10_000, items=list(range(1000)), number=10**30,
                       **{f"f{n}": n for n in range(100)})  # fmt: skip
    (line,) = lines(stream)
    assert len(str(line["text"])) == MAX_VALUE_CHARS
    assert line["items"][-1] == "… 980 more"  # type: ignore[index]
    assert line["number"] == str(10**30)
    assert len(line) == MAX_FIELDS + 4


def test_secrets_are_not_written(start: Start) -> None:
    """Fields named like secrets, credentials in URLs, and the query of a (signed) URL are hidden."""
    stream = start()
    logs.get("x").info(
        "connecting to redis://:hunter2@host:6379/0",
        url="https://user:hunter2@host/a.jpg?signature=hunter2&x=1",
        long="https://" + "u" * 490 + ":hunter2@host/",
        password="hunter2",
        settings={"sasl.password": "hunter2", "api_key": "hunter2", "shown": "yes"},
    )
    assert "hunter2" not in stream.getvalue()
    (line,) = lines(stream)
    assert line["url"] == "https://***@host/a.jpg?…"
    assert line["settings"] == {"sasl.password": "***", "api_key": "***", "shown": "yes"}


def test_an_exception_stays_in_one_field(start: Start) -> None:
    """A traceback of many lines is one JSON line, bounded, with its first and last part."""
    stream = start()
    try:
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise ValueError("first\x1b[31m\n" + "line\n" * 5000 + "last") from error
    except ValueError:
        logs.get("x").exception("failed", id="a%s%d")
    (line,) = lines(stream)
    exception = str(line["exception"])
    assert exception.startswith("Traceback (most recent call last):\n")
    assert "KeyError: 'cause'" in exception
    assert "ValueError: first" in exception
    assert exception.endswith("last")
    assert "\x1b" not in exception
    assert len(exception) <= MAX_EXCEPTION_CHARS + 3


def test_other_libraries_are_formatted_too(start: Start) -> None:
    """Messages of the standard logging module, with arguments, and warnings, come out in the same form."""
    stream = start()
    logging.getLogger("aiohttp").error("%s of %d\n", "three", 4)
    (line,) = lines(stream)
    assert (line["event"], line["logger"]) == ("three of 4\\n", "aiohttp")


def test_the_level_holds(start: Start) -> None:
    """Messages below the level cost nothing and are not written."""
    stream = start(level=logging.WARNING)
    logs.get("x").info("not this")
    logs.get("x").debug("nor this")
    logs.get("x").warning("this")
    assert [line["event"] for line in lines(stream)] == ["this"]


def test_repetition_is_counted_instead_of_written(start: Start) -> None:
    """Of one kind of message so many are written per window; then one line says how many were left out."""
    clock = Clock()
    stream = start(limit=RateLimit(burst=3, window=10, clock=clock))
    for n in range(126):
        logs.get("x").warning("fetch failed", n=n)
    logs.get("x").warning("another kind")
    assert [line["event"] for line in lines(stream)] == ["fetch failed"] * 3 + ["another kind"]
    clock.now = 11
    logs.get("y").info("anything")
    assert lines(stream)[4]["event"] == "fetch failed: … 123 more like this"
    assert lines(stream)[4]["level"] == "warning"
    logs.get("x").warning("fetch failed", n=127)
    assert [line["event"] for line in lines(stream)[5:]] == ["anything", "fetch failed"]


def test_equal_lines_of_a_library_are_written_once(start: Start) -> None:
    """As librdkafka writes them while Kafka is away: with arguments, equal but for numbers. What was held
    back is reported under the text, and other texts of the same logger are written."""
    clock = Clock()
    stream = start(limit=RateLimit(burst=3, window=10, clock=clock))
    kafka = logging.getLogger("worker.kafka")
    for ms in range(5):
        kafka.error("%s [%s] %s", "FAIL", "rdkafka#consumer-1", f"Connect failed (after {ms}ms)")
    kafka.error("%s [%s] %s", "FAIL", "rdkafka#consumer-1", "SASL authentication failed")
    first = "FAIL [rdkafka#consumer-1] Connect failed (after 0ms)"
    assert [line["event"] for line in lines(stream)] == [
        first, "FAIL [rdkafka#consumer-1] SASL authentication failed",
    ]  # fmt: skip
    clock.now = 11
    logs.get("y").info("anything")
    assert lines(stream)[2]["event"] == f"{first}: … 4 more like this"


def test_what_was_held_back_is_told_at_the_end(start: Start) -> None:
    """Closing the handler reports the messages that no later one could report."""
    stream = start(limit=RateLimit(burst=1, window=10, clock=Clock()))
    logs.get("x").info("again")
    logs.get("x").info("again")
    logging.getLogger().handlers[0].close()
    assert [line["event"] for line in lines(stream)] == ["again", "again: … 1 more like this"]


def test_kinds_are_bounded() -> None:
    """Many different messages do not make the limiter grow without end."""
    limit = RateLimit(clock=Clock())
    for n in range(5 * RateLimit.MAX_KINDS):
        assert limit.admit("x", 20, f"event {n}")
    assert len(limit._kinds) <= RateLimit.MAX_KINDS


def test_the_form_follows_the_terminal(start: Start) -> None:
    """Without a setting, a stream that is no terminal gets JSON."""
    stream = start(None)
    logs.get("x").info("hello")
    assert lines(stream)[0]["event"] == "hello"
