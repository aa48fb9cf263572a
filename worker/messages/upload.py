"""The wire: what an upload event and a tag look like, and nothing about Kafka.

Everything in an upload is hostile: sizes and types are checked here, once, and what leaves this module
is either an `Upload` whose fields hold what they promise or a `Rejected`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

from worker.messages.text import bad_event, bounded, parse_time, printable

SCHEMA = 1
MAX_EVENT_BYTES = 64 * 1024
MAX_ID_CHARS = 256
MAX_URL_CHARS = 8192
SCHEMA_PREFIX = 5  # bytes: 0, and the number of the schema in a registry
MAX_NESTING = 64  # far below where Python's own recursion ends, which deep values from strangers would meet


Attribute = str | int | float | bool


@dataclasses.dataclass(frozen=True, slots=True)
class Upload:
    """A new-upload event; `url` is None when the upload is gone.

    Attributes:
        id: 1–256 characters, none of them NUL.
        url: where the image is, unchecked beyond type and length; None for a deletion.
        uploaded_at: milliseconds since the epoch.
        attributes: passed on to the tag, unread.
    """

    id: str
    url: str | None
    uploaded_at: int
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)

    @property
    def deleted(self) -> bool:
        return self.url is None


def _id(value: object) -> str:
    if not isinstance(value, str):
        raise bad_event(f'"id" must be a string of 1 to {MAX_ID_CHARS} characters, got {printable(value)}')
    if not 1 <= len(value) <= MAX_ID_CHARS:
        raise bad_event(f'"id" must have 1 to {MAX_ID_CHARS} characters, has {len(value)}')
    if "\0" in value:
        raise bad_event(f'"id" must have no NUL character, got {printable(value)}')
    return value


def id_from_key(key: bytes | None) -> str:
    if not key:
        raise bad_event("a deletion (null value) needs the upload's id as the record's key; the key is empty")
    try:
        return _id(key.decode())
    except UnicodeDecodeError:
        raise bad_event(f"the record's key is not UTF-8: {printable(key)}") from None


def _attributes(value: object) -> Mapping[str, Attribute]:
    """Those that have a value: null is as good as not there."""
    if not isinstance(value, dict):
        raise bad_event(
            f'"attributes" must be an object of strings, numbers and booleans, got {printable(value)}'
        )
    missing = False
    for name, item in value.items():
        missing = missing or item is None
        if not (item is None or isinstance(item, str | int | float | bool)):
            raise bad_event(
                f"attribute {printable(name, 80)} must be a string, a number or a boolean, "
                f"got {printable(item, 80)}"
            )
    return {name: item for name, item in value.items() if item is not None} if missing else value


_LONG_INTEGER = re.compile(rb"[:,\[\s-]\d{19}")
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1


def read_json(value: bytes) -> dict[str, Any]:
    """A JSON object that every reader understands in the same way.

    orjson keeps the last of equal names and rounds whole numbers beyond 64 bits, silently. Both are seen only
    by reading again, which takes ten times as long; so that is done only where it may be needed. An object
    whose names are unique has two quotation marks for each string, unless some are escaped.

    Raises:
        Rejected: with the code `bad-event`: too large, no JSON object, or read in two ways.
    """
    if len(value) > MAX_EVENT_BYTES:
        raise bad_event(f"the event has {len(value)} bytes, at most {MAX_EVENT_BYTES} are read")
    try:
        event: Any = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        # no JSON begins with 0: it is a schema registry's number of the schema, with the JSON behind it
        if value[:1] == b"\0" != value[SCHEMA_PREFIX : SCHEMA_PREFIX + 1]:
            return read_json(value[SCHEMA_PREFIX:])
        raise bad_event(f"the event is not JSON: {printable(str(error))}") from None
    if 2 * _strings(event) != value.count(b'"') or b"\\" in value or _LONG_INTEGER.search(value):
        json.loads(value, object_pairs_hook=_unique, parse_int=_integer)
    if not isinstance(event, dict):
        raise bad_event(f"the event must be a JSON object, got {printable(event)}")
    return event


def _strings(value: object) -> int:
    """How many strings a JSON value holds, names included."""
    count, level = 0, [value]
    for _ in range(MAX_NESTING):
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                count += 1
            elif isinstance(item, dict):
                count += len(item)
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return count
        level = below
    raise bad_event(f"the event is nested more than {MAX_NESTING} deep")


def _unique(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise bad_event(f"the event has the name {printable(twice, 80)} more than once in one object")


def _integer(digits: str) -> None:
    if len(digits) > 20 or not _MIN_INTEGER <= int(digits) <= _MAX_INTEGER:
        raise bad_event(f"the event holds a whole number of more than 64 bits: {printable(digits, 80)}")


def parse_upload(value: bytes | None, key: bytes | None, timestamp_ms: int) -> Upload:
    """Read an upload event.

    Args:
        value: the record's value; None (a tombstone) deletes the id that the key names.
        key: the record's key.
        timestamp_ms: the record's timestamp, the default of `uploaded_at`; any number, producers choose it.

    Raises:
        Rejected: with the code `bad-event`, for everything that is not an Upload.
    """
    timestamp_ms = bounded(timestamp_ms)
    if value is None:
        return Upload(id_from_key(key), None, timestamp_ms)
    return checked(read_json(value), timestamp_ms)


def checked(event: Mapping[str, Any], timestamp_ms: int) -> Upload:
    """An upload from its fields, whatever format they came in.

    Args:
        timestamp_ms: the default of `uploaded_at`.

    Raises:
        Rejected: with the code `bad-event`, for everything that is not an Upload.
    """
    upload_id = _id(event.get("id"))
    when = event.get("uploaded_at")
    uploaded_at = timestamp_ms if when is None else parse_time(when)
    deleted = event.get("deleted")
    if not (deleted is None or isinstance(deleted, bool)):
        raise bad_event(f'"deleted" must be true or false, got {printable(deleted)}')
    if deleted:
        return Upload(upload_id, None, uploaded_at)
    url = event.get("url")
    if not isinstance(url, str) or not url:
        raise bad_event(f'"url" must be a non-empty string, got {printable(url)}')
    if len(url) > MAX_URL_CHARS:
        raise bad_event(f'"url" has {len(url)} characters, at most {MAX_URL_CHARS} are read')
    attributes = event.get("attributes")
    return Upload(upload_id, url, uploaded_at, {} if attributes is None else _attributes(attributes))
