"""Records of the uploads topic → uploads, whatever they look like: `WORKER_UPLOADS_MAP`.

    id=$key.id|after.id, url='https://cdn.example/{after.bucket}/{after.path}', deleted=op==d,
    uploaded_at=after.created_at, attributes.lang=after.lang, attributes.source='photos'

Each field of an upload is taken from the first of its sources, separated by `|`, that has a value:

- a path: names and list positions with dots between; `"…"` around a name that has other characters;
- `$key`: the record's key as text, and `$key.…` a path in it (only for `id`); `$timestamp`: the record's;
- a text in `'…'`, in which `{path}` stands for a value. In a URL it is percent-encoded, and so cannot make
  another host of it.

`deleted` may compare: `op==d`, `status==gone|banned`. Fields that are not named are read where they are in an
Upload. Numbers are taken as ids, and as times in seconds, ms, µs or ns since the epoch, by their size.

Parsed once, at the start; what an event makes of it is checked like any other (`messages.checked`).
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from worker.errors import Rejected
from worker.messages.mapping_syntax import FIELDS, KEY, TIMESTAMP, FieldSource, Path, Text, paths
from worker.messages.text import bad_event, bounded, format_time
from worker.messages.upload import Upload, checked, id_from_key, parse_upload, read_json

Decode = Callable[[bytes], Mapping[str, Any]]
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# by the size of a number: what it counts since the epoch. Seconds reach the year 5138, ms begin in 1973.
_UNITS = ((1e11, 1000.0), (1e14, 1.0), (1e17, 1e-3), (float("inf"), 1e-6))


class Intake(Protocol):
    """Reads one record of the uploads topic.

    Args:
        value: None is a deletion.
        known_id: of a pending retry, whose key is no longer the source's.

    Raises:
        Rejected: with the code `bad-event`, for everything that is not an upload.
    """

    def __call__(
        self, value: bytes | None, key: bytes | None, timestamp_ms: int, known_id: str | None = None
    ) -> Upload: ...


def plain_json(
    value: bytes | None, key: bytes | None, timestamp_ms: int, known_id: str | None = None
) -> Upload:
    """Events that are Uploads already."""
    return parse_upload(value, key, timestamp_ms)


# ── the map's text ───────────────────────────────────────────────────────────────────────────────────────


# ── an event through the map ─────────────────────────────────────────────────────────────────────────────


class MappedIntake:
    """Records in any format, their fields taken from where the map says.

    Args:
        fields: of `parse_map`; empty for events that have the fields of an Upload.
        decode: a record's value, or a key in the same format, as a mapping; raises Rejected.
    """

    def __init__(self, fields: Mapping[str, FieldSource], decode: Decode = read_json) -> None:
        self._fields = {**{name: FieldSource((Path("", (name,)),)) for name in FIELDS}, **fields}
        if any(name.startswith("attributes.") for name in fields) and "attributes" not in fields:
            del self._fields["attributes"]
        self._decode = decode
        self._key_is_id = all(path.root != KEY for path in paths(self._fields["id"]))

    def __call__(
        self, value: bytes | None, key: bytes | None, timestamp_ms: int, known_id: str | None = None
    ) -> Upload:
        timestamp_ms = bounded(timestamp_ms)
        record = _Record({} if value is None else self._decode(value), key, timestamp_ms, self._decode)
        upload_id = _as_id(record.first(self._fields["id"])) if known_id is None else known_id
        if value is None:  # a tombstone has nothing but its key
            if upload_id is None and self._key_is_id:
                upload_id = id_from_key(key)
            return checked({"id": upload_id, "deleted": True}, timestamp_ms)
        event: dict[str, Any] = {"id": upload_id}
        attributes: dict[str, Any] = {}
        for name, source in self._fields.items():
            if name == "deleted":
                event["deleted"] = record.holds(source)
            elif name == "uploaded_at":
                event[name] = _as_time(record.first(source))
            elif name == "url":
                event[name] = record.first(source, url=True)
            elif name == "attributes":
                attributes |= _as_attributes(record.first(source))
            elif name != "id":
                found = record.first(source)
                if found is not None:
                    attributes[name.removeprefix("attributes.")] = found
        return checked({**event, "attributes": attributes}, timestamp_ms)


class _Record:
    """One record, and what its paths lead to."""

    def __init__(
        self, event: Mapping[str, Any], key: bytes | None, timestamp_ms: int, decode: Decode
    ) -> None:
        self._event = event
        self._key = key
        self._timestamp = timestamp_ms
        self._decode = decode

    def first(self, source: FieldSource, *, url: bool = False) -> Any:
        """The value of the first alternative that has one; None if none has."""
        for alternative in source.alternatives:
            found = self._at(alternative) if isinstance(alternative, Path) else self._fill(alternative, url)
            if found is not None:
                return found
        return None

    def holds(self, source: FieldSource) -> Any:
        """Whether a comparison holds; without one, what is there."""
        found = self.first(source)
        if source.equals is None:
            return found
        return (
            found is not None
            and (str(found).lower() if isinstance(found, bool) else str(found)) in source.equals
        )

    def _fill(self, text: Text, url: bool) -> str | None:
        filled = ""
        for part in text.parts:
            if isinstance(part, str):
                filled += part
                continue
            found = self._at(part)
            if found is None:
                return None
            if isinstance(found, bool) or not isinstance(found, str | int | float):
                raise bad_event(f"{_name(part)} is used in a template, but is neither text nor number")
            # up to the path, a slash would end the host and begin a path: another host than the one meant
            in_path = url and "/" in filled.partition("://")[2]
            filled += urllib.parse.quote(str(found), safe="/" if in_path else "") if url else str(found)
        return filled

    def _at(self, path: Path) -> Any:
        if path.root == TIMESTAMP:
            return self._timestamp
        found: Any = self._event
        if path.root == KEY:
            found = self._key_text() if not path.steps else self._key_event()
        for step in path.steps:
            if isinstance(found, Mapping):
                found = found.get(step)
            elif isinstance(found, Sequence) and not isinstance(found, str | bytes) and step.isdecimal():
                found = found[int(step)] if int(step) < len(found) else None
            else:
                return None
        return _plain(found)

    def _key_text(self) -> str | None:
        if self._key is None:
            return None
        try:
            return self._key.decode()
        except UnicodeDecodeError:
            return None

    def _key_event(self) -> Mapping[str, Any] | None:
        """A key that is an event itself, as change data capture writes it; None for any other."""
        if self._key is None:
            return None
        try:
            return self._decode(self._key) if self._key[:1] == b"\0" else read_json(self._key)
        except Rejected:
            return None


def _name(path: Path) -> str:
    return ".".join((path.root, *path.steps)).lstrip(".")


def _plain(value: Any) -> Any:
    """What formats with more types than JSON have, in the types that JSON has."""
    if isinstance(value, dt.datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return format_time((moment - _EPOCH) // dt.timedelta(milliseconds=1))
    if isinstance(value, dt.date | uuid.UUID):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return float(value)
    return value


def _as_id(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_time(value: Any) -> Any:
    """RFC 3339 for a number since the epoch; anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value, re.ASCII):  # a 64-bit number of protobuf
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value
    scale = next(scale for limit, scale in _UNITS if abs(value) < limit)
    return format_time(bounded(round(value * scale)))


def _as_attributes(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise bad_event('"attributes" must be an object of strings, numbers and booleans')
    return {name: _plain(item) for name, item in value.items()}
