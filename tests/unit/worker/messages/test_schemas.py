"""The JSON Schemas: an event that fits the schema is read, one that does not is refused; every tag fits."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.paths import ROOT
from tests.support.strategies import ATTRIBUTES, TAGS, TEXT
from worker.errors import Rejected
from worker.messages.tag import Tag
from worker.messages.upload import MAX_ID_CHARS, MAX_URL_CHARS, parse_upload

FOLDER = ROOT / "worker" / "messages" / "schemas"
ODD = st.sampled_from([None, True, False, 0, 1, "", "x", [], {}, ["x"], {"a": None}, {"a": {"b": 1}}])
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "a\0", "\0", "a\x01\n", "x" * MAX_ID_CHARS, "x" * (MAX_ID_CHARS + 1)])
        | TEXT
        | ODD,
        "url": st.sampled_from(["https://x/", "x" * MAX_URL_CHARS, "x" * (MAX_URL_CHARS + 1)]) | ODD,
        "uploaded_at": st.sampled_from(
            ["2026-11-23T21:17:00Z", "2026-11-23t21:17:00.123456789+05:30", "2026-11-23 21:17:60z",
             "2016-12-31T23:59:60+00:00", "2016-12-31T23:59:60.5Z", "2017-01-01T00:59:60.999999999+01:00",
             "2016-12-31T23:60:00Z", "2016-12-31T23:59:61Z",
             "2026-11-23T21:17:00", "2026-13-23T21:17:00Z", "2026-11-23T24:17:00Z",
             "2026-11-23T21:17:00+24:00",
             "2026-11-23T21:17Z", "2026-11-23T21:17:00.Z", "23.11.2026", "٢026-11-23T21:17:00Z"]) | ODD,
        "deleted": st.booleans() | ODD,
        "attributes": ATTRIBUTES | ODD,
        "more": ODD,
    },
)  # fmt: skip


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((FOLDER / name).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


UPLOAD, TAG = validator("upload.schema.json"), validator("tag.schema.json")


@given(event=EVENTS)
@example(event={"id": "a", "url": "https://x/", "uploaded_at": "2026-11-23T21:17:00Z", "attributes": None})
@example(event={"id": "a", "deleted": True})
@example(event={"id": "a\0b", "url": "https://x/"})
@example(event={"id": "a", "url": "https://x/", "attributes": {"a": None, "b": 1}})
@example(event={"id": "a", "url": "https://x/", "uploaded_at": "2016-12-31T23:59:60.5+00:00"})
@hypothesis_settings(max_examples=400, deadline=None)
def test_the_schema_of_an_upload_is_what_the_code_reads(event: dict[str, Any]) -> None:
    """Valid exactly where the worker takes it."""
    try:
        parse_upload(json.dumps(event).encode(), b"k", 0)
        taken = True
    except Rejected:
        taken = False
    assert UPLOAD.is_valid(event) == taken, [error.message for error in UPLOAD.iter_errors(event)]


OPTIONAL = {"assigned", "group", "from_class"}  # fields that are absent when there is nothing to say


@given(tag=TAGS)
@hypothesis_settings(max_examples=100, deadline=None)
def test_every_tag_fits_its_schema(tag: Tag) -> None:
    """And the schema has every field that a tag has, no more, so that none is forgotten."""
    written = json.loads(tag.to_json())
    TAG.validate(written)
    optional = {
        name for name in OPTIONAL if getattr(tag, name) is not None and getattr(tag, name) is not False
    }
    assert set(written) == set(TAG.schema["required"]) | optional
    assert set(TAG.schema["properties"]) == {*TAG.schema["required"], *OPTIONAL}
    for name in TAG.schema["required"]:
        assert not TAG.is_valid({k: v for k, v in written.items() if k != name})
