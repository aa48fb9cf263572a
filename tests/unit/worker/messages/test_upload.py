"""worker.messages.upload: the wire."""

import datetime as dt
import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import Rejected
from worker.messages.mapping import Intake, MappedIntake, plain_json
from worker.messages.mapping_syntax import parse_map
from worker.messages.tag import Candidate, Tag
from worker.messages.text import format_time, parse_time, printable, readable
from worker.messages.upload import MAX_EVENT_BYTES, Upload, parse_upload

NOW = 1_700_000_000_000
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.one_of(st.binary(max_size=300), json_values.map(orjson.dumps)),
    st.one_of(st.none(), st.binary(max_size=20)),
)
def test_anything_is_an_upload_or_a_bad_event(value: bytes, key: bytes | None) -> None:
    """No bytes whatever raise anything but `bad-event`, and what passes keeps what its type promises."""
    try:
        upload = parse_upload(value, key, NOW)
    except Rejected as error:
        assert error.code == "bad-event"
        assert str(error).isprintable()
        return
    assert 1 <= len(upload.id) <= 256
    assert upload.url is None or upload.url


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": json_values, "url": json_values, "uploaded_at": json_values, "deleted": json_values,
            "attributes": json_values,
        },
    )
)  # fmt: skip
def test_any_object_is_an_upload_or_a_bad_event(event: dict[str, object]) -> None:
    """The same for objects that have the right fields with any values in them."""
    try:
        upload = parse_upload(orjson.dumps(event), None, NOW)
    except Rejected as error:
        assert error.code == "bad-event"
        return
    assert upload.id == event["id"]
    assert all(isinstance(v, str | int | float | bool) for v in upload.attributes.values())


def test_a_full_event() -> None:
    """Every field arrives; unknown ones are ignored."""
    event = {
        "id": "a/b", "url": "https://x/y.jpg", "uploaded_at": "2026-11-23T21:17:00.5+01:00",
        "attributes": {"lang": "de", "size": 3, "nsfw": False}, "more": [1],
    }  # fmt: skip
    assert parse_upload(orjson.dumps(event), None, NOW) == Upload(
        "a/b", "https://x/y.jpg", 1795465020500, {"lang": "de", "size": 3, "nsfw": False}
    )


def test_defaults_and_deletions() -> None:
    """No `uploaded_at`: the record's time. `deleted` deletes; so does a null value, by the key's id."""
    assert parse_upload(b'{"id":"a","url":"u"}', None, NOW) == Upload("a", "u", NOW)
    assert parse_upload(b'{"id":"a","deleted":true}', None, NOW) == Upload("a", None, NOW)
    assert parse_upload(b'{"id":"a","deleted":false,"url":"u"}', None, NOW).url == "u"
    assert parse_upload(None, "ä".encode(), NOW) == Upload("ä", None, NOW)


BAD = [
    (b"", None, "not JSON"),
    (b"{", None, "not JSON"),
    (b"[]", None, "JSON object"),
    (b"NaN", None, "not JSON"),
    (b'{"url":"u"}', None, '"id" must be a string'),
    (b'{"id":"","url":"u"}', None, '"id" must have 1 to 256'),
    (b'{"id":"' + b"x" * 257 + b'","url":"u"}', None, "has 257"),
    (b'{"id":7,"url":"u"}', None, "got 7"),
    (b'{"id":"a"}', None, '"url" must be'),
    (b'{"id":"a","url":""}', None, '"url" must be'),
    (b'{"id":"a","url":["u"]}', None, '"url" must be'),
    (b'{"id":"a","url":"' + b"u" * 9000 + b'"}', None, "9000 characters"),
    (b'{"id":"a","url":"u","uploaded_at":12}', None, "RFC 3339"),
    (b'{"id":"a","url":"u","uploaded_at":"2026-02-30T00:00:00Z"}', None, "valid date and time"),
    (b'{"id":"a","url":"u","uploaded_at":"2026-W01-1T00:00:00Z"}', None, "RFC 3339"),
    (b'{"id":"a","url":"u","attributes":[]}', None, '"attributes" must be'),
    (b'{"id":"a","url":"u","attributes":{"x":{}}}', None, "attribute 'x'"),
    (b'{"id":"a","url":"u","attributes":{"x":[null]}}', None, "attribute 'x'"),
    (b'{"id":"a","deleted":"yes"}', None, '"deleted" must be'),
    (b'{"id":"a","url":"u","deleted":1}', None, '"deleted" must be'),
    (b'{"id":"a","url":"u","deleted":0.0}', None, '"deleted" must be'),
    (b'{"id":"\xff","url":"u"}', None, "not JSON"),
    (b'{"id":"a\0","url":"u"}', None, "not JSON"),
    (b'\xef\xbb\xbf{"id":"a","url":"u"}', None, "not JSON"),
    (b'{"id":"a","url":"u"}{}', None, "not JSON"),
    (b'{"id":"a","id":"b","url":"u"}', None, "'id' more than once"),
    (b'{"id":"a","\\u0069d":"b","url":"u"}', None, "'id' more than once"),
    (b'{"id":"a","url":"u","url":"u"}', None, "'url' more than once"),
    (b'{"id":"a","url":"u","more":[{"x":[{"y":1,"y":"1"}]}]}', None, "'y' more than once"),
    (b'{"id":"a","url":"u","attributes":{"n":1e999}}', None, "not JSON"),
    (b'{"id":"a","url":"u","attributes":{"n":18446744073709551616}}', None, "more than 64 bits"),
    (b'{"id":"a","url":"u","attributes":{"n":-9223372036854775809}}', None, "more than 64 bits"),
    (b'{"id":"a","url":"u","more":[ 123456789012345678901234567890]}', None, "more than 64 bits"),
    (b'{"id":"a","url":"u","attributes":{"n":' + b"9" * 60_000 + b"}}", None, "not JSON"),
    (b"[" * 1000 + b"]" * 1000, None, "nested more than 64"),
    (b'{"id":' + b"[" * 1000 + b"]" * 1000 + b"}", None, "nested more than 64"),
    (b'{"id":"a","url":"u","more":' + b'{"a":' * 900 + b"1" + b"}" * 901, None, "nested more than 64"),
    (b'{"id":"\\ud800","url":"u"}', None, "not JSON"),
    (b" " * (MAX_EVENT_BYTES + 1), None, "at most 65536"),
    (b"[" * 30_000, None, "not JSON"),
    (b'{"id":"a\\u0000b","url":"u"}', None, "no NUL"),
    (None, b"a\0", "no NUL"),
    (None, None, "the key is empty"),
    (None, b"\xff", "not UTF-8"),
    (None, b"x" * 300, "has 300"),
]


@pytest.mark.parametrize(("value", "key", "says"), BAD)
def test_bad_events_say_what_is_wrong(value: bytes | None, key: bytes | None, says: str) -> None:
    """Each kind of bad event is rejected with a sentence that names the field and the value."""
    with pytest.raises(Rejected) as caught:
        parse_upload(value, key, NOW)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "intake", [plain_json, MappedIntake({}), MappedIntake(parse_map("id=id,attributes.lang=more.lang"))]
)
def test_an_attribute_without_a_value_is_left_out(intake: Intake) -> None:
    """Null is as good as not there, with a field map and without one, and costs the upload nothing."""
    event = {"id": "a", "url": "u", "attributes": {"n": None}, "more": {"lang": None}}
    assert intake(orjson.dumps(event), b"a", NOW).attributes == {}


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2016-12-31T23:59:60Z", 1_483_228_799_000),
        ("2016-12-31T23:59:60+00:00", 1_483_228_799_000),
        ("2016-12-31T23:59:60.5Z", 1_483_228_799_500),
        ("2017-01-01T00:59:60.25+01:00", 1_483_228_799_250),
        ("2016-12-31t23:59:60z", 1_483_228_799_000),
    ],
)
def test_a_leap_second_is_a_time(text: str, ms: int) -> None:
    """With a fraction, with any offset; it counts as the second before it."""
    assert parse_time(text) == ms


def test_strictness_refuses_nothing_honest() -> None:
    """Escapes, the largest whole numbers, long floats, equal names in different objects and nesting pass."""
    value = (
        b'{"id":"a\\"\\u0001\\\\","url":"u","attributes":{"id":18446744073709551615,"url":-9223372036854775808,'
        b'"f":0.12345678901234567890123},"more":[{"id":1},{"id":"\\"id\\":"}],"deep":'
        + b"[" * 60
        + b"]" * 60
        + b"}"
    )
    upload = parse_upload(value, None, NOW)
    assert upload.id == 'a"\x01\\'
    assert upload.attributes == {"id": 2**64 - 1, "url": -(2**63), "f": 0.12345678901234567890123}


def _repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise LookupError
    return dict(pairs)


_pieces = st.sampled_from(
    ["{", "}", "[", "]", ",", ":", '"', '"a"', '"b"', '"\\u0061"', '"\\""', '"\\\\"', "1", "1" * 22, " "]
)


@given(
    st.lists(_pieces, max_size=14).map("".join) | json_values.map(lambda value: orjson.dumps(value).decode())
)
def test_equal_names_are_always_seen(text: str) -> None:
    """Whatever the shortcut, an event passes as JSON only if a slow, plain reader finds all names unique."""
    value = f'{{"id":"i","url":"u","more":{text}}}'
    try:
        json.loads(value, object_pairs_hook=_repeated)
        unique = True
    except LookupError:
        unique = False
    except ValueError:
        return  # not JSON
    try:
        parse_upload(value.encode(), None, NOW)
        passed = True
    except Rejected as error:
        passed = "more than once" not in str(error)
    except UnicodeEncodeError:
        return
    assert passed == unique


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_record_timestamp_can_be_written_down(timestamp: int) -> None:
    """A producer may choose any timestamp; the tag's `uploaded_at` is still a time that can be read back."""
    upload = parse_upload(b'{"id":"a","url":"u"}', None, timestamp)
    assert parse_time(format_time(upload.uploaded_at)) == upload.uploaded_at


def test_the_ends_of_the_calendar() -> None:
    """A time zone may push a moment out of the calendar; that is a bad event and not a crash later on."""
    assert parse_time("9999-12-31T23:59:59.999Z") == 253_402_300_799_999
    for text in ("9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"):
        with pytest.raises(Rejected, match="years 1 to 9999"):
            parse_time(text)


def test_tag_round_trip() -> None:
    """A tag survives JSON, with all its fields."""
    tag = Tag(
        id="a", cluster=-1, name=None, probability=0.0, candidates=(Candidate(3, "dogs", 0.25),), novel=True,
        model="0123456789ab", taxonomy="0123456789ab", url=None, uploaded_at=NOW, tagged_at=NOW + 1,
        attributes={"k": 1.5},
    )  # fmt: skip
    assert Tag.from_json(tag.to_json()) == tag


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"id":1}', b'"x"', b'{"id":"a","candidates":[1]}'])
def test_what_is_not_a_tag_is_a_value_error(data: bytes) -> None:
    """A reader gets one kind of error for anything that is no tag."""
    with pytest.raises(ValueError, match="not a tag"):
        Tag.from_json(data)


@given(st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC)))
def test_times_round_trip(moment: dt.datetime) -> None:
    """Any valid date and time survives formatting and parsing, to the millisecond."""
    ms = parse_time(moment.isoformat(timespec="milliseconds"))
    assert parse_time(format_time(ms)) == ms


@given(st.text(max_size=500))
def test_printable_is_one_bounded_line_of_ascii(text: str) -> None:
    """Nothing from outside can break a log line or grow it."""
    shown = printable(text)
    assert shown.removesuffix("…").isascii()
    assert shown.isprintable()
    assert len(shown) <= 200


@given(st.text(max_size=300), st.integers(2, 250))
def test_readable_is_one_bounded_line_that_people_read(text: str, limit: int) -> None:
    """Letters of every language stay as they are; nothing moves a cursor or turns the direction."""
    made = readable(text, limit)
    assert made.isprintable()
    assert len(made) <= limit
    if text.isprintable() and len(text) <= limit:
        assert made == text


def test_readable_escapes_what_is_no_letter() -> None:
    """Control and direction characters, and lone surrogates, one by one."""
    assert (
        readable("it's “größer” – 猫\x1b[31m\u202e\ud800\n") == "it's “größer” – 猫\\x1b[31m\\u202e\\ud800\\n"
    )
