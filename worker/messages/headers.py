"""The headers of every record that the worker and its commands write, and their reading.

All values are UTF-8 text, numbers in decimal. A reader takes what strangers may have written: a value that is
no text is left out, and a set of headers is read whole or not at all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from worker.errors import ERROR_CODES
from worker.messages.text import format_time, readable

Header = tuple[str, bytes]
HeaderTexts = Mapping[str, str]

MAX_HEADER_TEXT = 500

# A dead letter is larger than its upload by the headers; one that no longer fits says where the upload is.
VALUE_OMITTED = ("value-omitted", b"too large to be copied; it is at source-partition, source-offset")


def key_cut(size: int, kept: int) -> Header:
    """Of a dead letter whose key did not fit."""
    return "key-cut", b"it has %d bytes, of which these are the first %d" % (size, kept)


# W3C Trace Context; versions to come may add fields. Whatever else stands there is not passed on.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,128})?")
_POSITION = re.compile(r"([0-9]{1,10}):([0-9]{1,19})")
_OFFSET = re.compile(r"[0-9]{1,19}")

BAD_EVENT = "bad-event"  # the code of a dead letter whose key is not its id


def read_headers(pairs: Mapping[str, object] | Iterable[tuple[str, object]]) -> dict[str, str]:
    """A record's headers as text: the last one of a name; what is no UTF-8 text is left out."""
    found = {}
    for name, value in pairs.items() if isinstance(pairs, Mapping) else pairs:
        if isinstance(value, str):
            found[name] = value
        elif isinstance(value, bytes):
            try:
                found[name] = value.decode()
            except UnicodeDecodeError:
                continue
    return found


def text_header(name: str, value: object) -> Header:
    """A header of printable text, bounded: what is in it may come from a stranger."""
    return name, readable(str(value), MAX_HEADER_TEXT).encode()


# ── what every result carries ────────────────────────────────────────────────────────────────────────────


class Place(Protocol):
    """A record's place and time, as `Record` and the operators' entries have them."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...


def result_headers(
    topic: bytes,
    source: Place,
    own: Iterable[Header] = (),
    content_type: bytes | None = None,
    traceparent: bytes | None = None,
) -> list[tuple[str, str | bytes | None]]:
    """All headers of a result whose upload is `source`, a record of `topic`; times in ms since the epoch."""
    headers: list[tuple[str, str | bytes | None]] = [
        ("source-topic", topic),
        ("source-partition", b"%d" % source.partition),
        ("source-offset", b"%d" % source.offset),
        ("source-timestamp", b"%d" % source.timestamp),
        *own,
    ]
    if content_type is not None:
        headers.append(("content-type", content_type))
    if traceparent is not None:
        headers.append(("traceparent", traceparent))
    return headers


@dataclasses.dataclass(frozen=True, slots=True)
class SourcePosition:
    """Where the upload of a result came from; `timestamp` in milliseconds since the epoch."""

    partition: int
    offset: int
    timestamp: int

    @classmethod
    def read(cls, headers: HeaderTexts) -> SourcePosition | None:
        """None for a record that names none: the worker did not write it."""
        try:
            return cls(
                int(headers["source-partition"]),
                int(headers["source-offset"]),
                int(headers["source-timestamp"]),
            )
        except (KeyError, ValueError):
            return None

    @property
    def position(self) -> str:
        return f"{self.partition}:{self.offset}"

    def earlier_than(self, other: SourcePosition) -> bool:
        """Whether `other` is of a later event; across partitions only the clock can tell."""
        if self.partition == other.partition:
            return self.offset < other.offset
        return self.timestamp < other.timestamp


def read_traceparent(headers: HeaderTexts) -> bytes | None:
    """The W3C trace header, where there is a proper one."""
    found = headers.get("traceparent")
    return found.encode() if found is not None and _TRACEPARENT.fullmatch(found) else None


# ── CloudEvents ──────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class CloudEvents:
    """Attributes of CloudEvents 1.0 for results, as its Kafka binding puts them into headers (binary mode).

    Attributes:
        source: a URI reference that names this stream of events.
    """

    source: str

    def pairs(self, kind: str, upload_id: str, place: Place, at: int) -> tuple[Header, ...]:
        """Of a result whose upload is at `place`; an equal result that is published again has the same id.

        Args:
            kind: "tag" or "deletion".
            at: ms since the epoch.
        """
        return (
            ("ce_specversion", b"1.0"),
            ("ce_id", b"%d:%d" % (place.partition, place.offset)),
            text_header("ce_source", self.source),
            ("ce_type", f"imgclust.{kind}".encode()),
            text_header("ce_subject", upload_id),
            ("ce_time", format_time(at).encode()),
        )


# ── pending retries ──────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class RetryHeaders:
    """What a record of the retry topic says of its upload.

    Attributes:
        attempts: tries that failed.
        not_before: when it is due, milliseconds since the epoch.
        error_code: of the last try.
        deaths: how many workers died while it was encoded alone.
    """

    attempts: int
    not_before: int
    error_code: str
    deaths: int = 0

    def pairs(self) -> tuple[Header, ...]:
        pairs = (
            ("attempt", b"%d" % self.attempts),
            ("not-before", b"%d" % self.not_before),
            ("error-code", self.error_code.encode()),
        )
        return (*pairs, ("deaths", b"%d" % self.deaths)) if self.deaths else pairs

    @classmethod
    def read(cls, headers: HeaderTexts) -> RetryHeaders:
        """
        Raises:
            ValueError: one is missing, or is no number.
        """
        try:
            return cls(
                int(headers["attempt"]),
                int(headers["not-before"]),
                headers.get("error-code", ""),
                int(headers.get("deaths", "0")),
            )
        except KeyError as error:
            raise ValueError(f"no header {error}") from None


# ── dead letters ─────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetterHeaders:
    """Why an upload is dead.

    Attributes:
        message: any text; it is escaped and cut on the way out.
        attempts: tries, the last one included; None where a record does not say.
        model: version of the model at work.
        omitted: the upload was too large to be copied; its place is the source position.
    """

    code: str
    stage: str
    message: str
    attempts: int | None
    model: str
    omitted: bool = False

    def pairs(self) -> tuple[Header, ...]:
        return (
            ("error-code", self.code.encode()),
            ("error-stage", self.stage.encode()),
            text_header("error-message", self.message),
            ("attempts", b"%d" % (self.attempts or 0)),
            ("model", self.model.encode()),
            *((VALUE_OMITTED,) if self.omitted else ()),
        )

    @classmethod
    def read(cls, headers: HeaderTexts) -> DeadLetterHeaders:
        """What there is; anybody may have written the record."""
        attempts = headers.get("attempts", "")
        return cls(
            headers.get("error-code", "?"),
            headers.get("error-stage", "?"),
            headers.get("error-message", ""),
            int(attempts) if attempts.isascii() and attempts.isdecimal() else None,
            headers.get("model", "?"),
            VALUE_OMITTED[0] in headers,
        )


# ── replays ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class ReplayHeaders:
    """What an upload that is sent again says of itself; key and value are the dead letter's.

    Attributes:
        letter: partition:offset of the dead letter.
        source: where the upload was read at first, and its time, which the new record does not have.
        error_code: of the dead letter.
        seen: offset in the uploads partition; whoever sent it knows of no later event of its id below. None:
            it does not say.
    """

    letter: str
    source: SourcePosition
    error_code: str
    seen: int | None = None

    @property
    def key_is_id(self) -> bool:
        """As with the dead letter: unless the event was bad from the start, which has its own key."""
        return self.error_code != BAD_EVENT

    def pairs(self) -> list[tuple[str, str | bytes | None]]:
        pairs: list[tuple[str, str | bytes | None]] = [
            ("replay-of", self.letter.encode()),
            ("source-partition", b"%d" % self.source.partition),
            ("source-offset", b"%d" % self.source.offset),
            ("source-timestamp", b"%d" % self.source.timestamp),
            ("error-code", self.error_code.encode()),
        ]
        return pairs if self.seen is None else [*pairs, ("replay-seen", b"%d" % self.seen)]

    @classmethod
    def read(cls, headers: HeaderTexts) -> ReplayHeaders | None:
        """None for what is no replay, or says too little: then it is an event like any other."""
        source, code = SourcePosition.read(headers), headers.get("error-code")
        if replay_of(headers) is None or source is None or code not in ERROR_CODES:
            return None
        seen = headers.get("replay-seen", "")
        return cls(headers["replay-of"], source, code, int(seen) if _OFFSET.fullmatch(seen) else None)


def replay_of(headers: HeaderTexts) -> tuple[int, int] | None:
    """The dead letter (partition, offset) that an upload replays; None when it is no replay."""
    found = _POSITION.fullmatch(headers.get("replay-of", ""))
    return None if found is None else (int(found[1]), int(found[2]))
