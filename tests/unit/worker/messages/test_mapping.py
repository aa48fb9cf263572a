"""worker.messages.mapping: fields of an upload from anywhere in an event, and nothing where it must not
be."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import re
import urllib.parse
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import ROOT
from worker.errors import Rejected
from worker.messages.mapping import MappedIntake, plain_json
from worker.messages.mapping_syntax import MapError, parse_map
from worker.messages.text import parse_time
from worker.messages.upload import Upload, parse_upload

WHEN = 1_800_000_000_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def read(text: str, event: Any, key: bytes | None = b"k", known_id: str | None = None) -> Upload:
    value = None if event is None else json.dumps(event).encode()
    return MappedIntake(parse_map(text))(value, key, WHEN, known_id)


EVENT = {
    "photo": {"id": 17, "cdn": {"original": "https://cdn.example/17.jpg"}, "tags": ["a"], "user.id": "u"},
    "bucket": "b/../x", "path": "dir/a b.jpg", "state": "ready", "size": 3.5, "public": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id=photo.id,url=photo.cdn.original", Upload("17", "https://cdn.example/17.jpg", WHEN)),
        (
            """id=photo."user.id" , url = photo.cdn.small | photo.cdn.original,
               attributes.first=photo.tags.0, attributes.none=photo.tags.9, attributes."ab"='x {{{size}}}'""",
            Upload("u", "https://cdn.example/17.jpg", WHEN, {"first": "a", "ab": "x {3.5}"}),
        ),
        ("id=$key,url=photo.cdn.original", Upload("k", "https://cdn.example/17.jpg", WHEN)),
        (
            "id='p-{photo.id}', url='https://cdn.example/{path}?of={bucket}', uploaded_at=$timestamp",
            Upload("p-17", "https://cdn.example/dir/a%20b.jpg?of=b/../x", WHEN),
        ),
        ("id=photo.id,deleted=state==gone|ready", Upload("17", None, WHEN)),
        ("id=photo.id,deleted=public==true", Upload("17", None, WHEN)),
        ("id=photo.id,deleted=public", Upload("17", None, WHEN)),
    ],
)
def test_fields_come_from_where_the_map_says(text: str, expected: Upload) -> None:
    """Paths, alternatives, constants, texts with values, comparisons."""
    assert read(text, EVENT) == expected


@pytest.mark.parametrize(
    "host", ["evil.example/", "a@evil.example", "evil.example:99", "evil.example?", "x#"]
)
def test_a_value_makes_no_other_host_of_a_url(host: str) -> None:
    """What an uploader writes stays inside of its place in the URL: the host ends where the map ends it."""
    url = read("id=$key,url='https://{host}.cdn.example/{file}'", {"host": host, "file": "../@b?c#d"}).url
    parts = urllib.parse.urlsplit(url or "")
    assert parts.netloc.endswith(".cdn.example")
    assert "@" not in parts.netloc
    assert (parts.path, parts.query, parts.fragment) == ("/../%40b%3Fc%23d", "", "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_700_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
        (1_700_000_000_123_456, "2023-11-14T22:13:20.123Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123Z"),
        ("1700000000123", "2023-11-14T22:13:20.123Z"),
        (1_700_000_000.5, "2023-11-14T22:13:20.500Z"),
        ("2023-11-14T23:13:20+01:00", "2023-11-14T22:13:20Z"),
    ],
)
def test_times_are_numbers_of_any_unit_or_rfc_3339(value: object, expected: str) -> None:
    """Seconds, milli-, micro- and nanoseconds since the epoch are told apart by their size."""
    assert read("id=$key,uploaded_at=at", {"url": "https://x/", "at": value}).uploaded_at == parse_time(
        expected
    )


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("id=photo.tags,url=path", EVENT),
        ("id=photo.nothing,url=path", EVENT),
        ("id=photo.id,url=photo.cdn", EVENT),
        ("id=public,url=path", EVENT),
        ("id=photo.id,url='https://x/{photo.tags}'", EVENT),
        ("id=photo.id,url=path,attributes=photo.tags", EVENT),
        ("id=photo.id,url=path,attributes.all=photo.cdn", EVENT),
        ("id=photo.id,deleted=state", EVENT),
        ("id=photo.id,url=path,uploaded_at=state", EVENT),
        ("id=photo.id,url=path", [EVENT]),
    ],
)
def test_what_is_no_upload_is_a_bad_event(text: str, event: Any) -> None:
    """A wrong type or a missing value where the map points to: `bad-event`, as without a map."""
    with pytest.raises(Rejected) as caught:
        read(text, event)
    assert caught.value.code == "bad-event"


@given(event=JSON, key=st.none() | st.binary(max_size=20))
def test_whatever_an_event_holds_it_is_an_upload_or_a_bad_event(event: Any, key: bytes | None) -> None:
    """No event and no key, however strange, gets anything else out of a map."""
    text = "id=$key.a|a.b|0,url='{a}/{b.0}'|b,attributes=c,deleted=d==x,uploaded_at=b"
    try:
        upload = read(text, event, key)
    except Rejected as error:
        assert error.code == "bad-event"
    else:
        assert 1 <= len(upload.id) <= 256


@given(
    event=st.dictionaries(st.sampled_from(["id", "url", "uploaded_at", "deleted", "attributes", "x"]), JSON)
)
def test_an_empty_map_reads_what_is_read_without_one(event: dict[str, Any]) -> None:
    """Fields that are not named are where they are in an Upload; only numbers pass as ids and times."""
    value = json.dumps(event).encode()
    try:
        plain: Upload | str = parse_upload(value, b"k", WHEN)
    except Rejected as error:
        plain = error.code
    try:
        mapped: Upload | str = MappedIntake({})(value, b"k", WHEN)
    except Rejected as error:
        mapped = error.code
    loose = any(isinstance(event.get(name), int | str) for name in ("id", "uploaded_at"))
    assert mapped == plain or loose


def test_a_deletion_has_its_id_from_the_key() -> None:
    """A tombstone's key is the id as it stands, or what the map finds in it; a retry's id is known."""
    assert read("url=photo.url", None, b"k") == Upload("k", None, WHEN)
    assert read("id=$key.id|$key", None, b'{"id": 5}') == Upload("5", None, WHEN)
    assert read("id=$key.id|$key", None, b"5") == Upload("5", None, WHEN)
    assert read("id=$key.payload.id", None, b'{"payload": {"id": "x"}}').id == "x"
    assert read("id=$key.id,url=url", {"url": "https://x/"}, b"5", known_id="5").id == "5"
    for key in (None, b"", b"{}", b"[1]", b"\xff", b'{"id": true}'):
        with pytest.raises(Rejected):
            read("id=$key.id", None, key)
    with pytest.raises(Rejected):
        read("url=photo.url", None, b"\xff")


def test_other_formats_types_are_taken_as_jsons() -> None:
    """What Avro's logical types become in Python: times, decimals, UUIDs."""
    unique = uuid.UUID(int=7)
    event = {
        "id": unique, "url": "https://x/", "at": dt.datetime(2026, 1, 2, 3, 4, 5, 6000, dt.UTC),
        "attributes": {"price": decimal.Decimal("1.5"), "day": dt.date(2026, 1, 2), "gone": None},
    }  # fmt: skip
    upload = MappedIntake(parse_map("uploaded_at=at"), lambda _: event)(b"", None, WHEN)
    assert upload.id == str(unique)
    assert upload.uploaded_at == parse_time("2026-01-02T03:04:05.006Z")
    assert upload.attributes == {"price": 1.5, "day": "2026-01-02"}
    for wrong in (b"raw", math.nan):
        with pytest.raises(Rejected):
            MappedIntake({}, lambda _, w=wrong: {**event, "id": w})(b"", None, WHEN)
        with pytest.raises(Rejected):
            MappedIntake({}, lambda _, w=wrong: {**event, "uploaded_at": w})(b"", None, WHEN)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"), ("photo=id", "'photo' is not a field of an upload"), ("id", "'=' after id is"),
        ("id=", "a path or a text for id is missing before the end"), ("id=a,id=b", "id is there twice"),
        ("id=a url=b", "',' is missing before 'url'"), ("id=a..b", "a name after '.'"), ("id=$no", "$no"),
        ("url=$key", "which only id can be"), ("url='https://{$key.a}'", "which only id can be"),
        ("id=a==b", "only deleted can"), ("url='a{b'", "a single '{'"), ("url='{a b}'", "'}' is missing"),
        ("id=?", "'?' is not understood"), ("attributes.=a", "the name of the attribute is missing"),
        ("deleted=a==", "a value after '=='"), ("url='open", "is not understood"),
    ],
)  # fmt: skip
def test_a_wrong_map_is_refused_with_the_place(text: str, said: str) -> None:
    """The sentence has what is missing or too much."""
    with pytest.raises(MapError) as caught:
        parse_map(text)
    assert said in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_map_or_refused(text: str) -> None:
    """Nothing else comes out of parsing."""
    try:
        assert parse_map(text)
    except MapError as error:
        assert str(error)


def test_json_behind_a_schema_number_is_read() -> None:
    """What serialisers of JSON Schema write, with five bytes before the JSON; only once."""
    event = b'{"id": "a", "url": "https://x/"}'
    assert plain_json(b"\0\0\0\0\7" + event, None, WHEN) == plain_json(event, None, WHEN)
    for wrong in (b"\0\0\0\0\7", b"\0" * 60_000, b"\0\0\0\0\7" * 9 + event, b"\0\0\0\0\7[1]"):
        with pytest.raises(Rejected):
            plain_json(wrong, None, WHEN)


def documented() -> list[tuple[str, bytes | None, bytes, dict[str, Any]]]:
    """(map, key, value, upload) of every example in docs/events.md."""
    page = (ROOT / "docs" / "events.md").read_text()
    found = []
    for block in re.findall(r"^```map\n(.*?)^```", page, re.S | re.M):
        text, key, value = "", None, b""
        for line in block.splitlines():
            if line.startswith("WORKER_UPLOADS_MAP="):
                text = line.partition("=")[2]
            elif line.startswith("key "):
                key = line.removeprefix("key ").encode()
            elif line.startswith("→ "):
                found.append((text, key, value, json.loads(line.removeprefix("→ "))))
            else:
                value = line.encode()
    return found


@pytest.mark.parametrize(("text", "key", "value", "expected"), documented())
def test_the_examples_of_the_documentation(
    text: str, key: bytes | None, value: bytes, expected: dict[str, Any]
) -> None:
    """Maps, Debezium's change events and tombstones, as docs/events.md shows them."""
    upload = MappedIntake(parse_map(text))(None if value == b"null" else value, key, WHEN)
    assert upload == parse_upload(json.dumps(expected).encode(), None, WHEN)


def test_the_documentation_has_examples() -> None:
    """One of a plain map, three of Debezium."""
    assert len(documented()) == 4
