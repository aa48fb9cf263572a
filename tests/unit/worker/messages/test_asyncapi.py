"""The AsyncAPI document: valid by the specification's own schema, and true of what is written."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given

from tests.support.paths import ROOT
from tests.support.strategies import TAGS
from worker.messages.asyncapi import document
from worker.messages.headers import (
    CloudEvents,
    DeadLetterHeaders,
    RetryHeaders,
    SourcePosition,
    read_headers,
    result_headers,
)
from worker.messages.tag import Tag

TOPICS = {name: name for name in ("uploads", "tags", "retry", "dlq", "embeddings", "models")}
DOCUMENT = document(TOPICS)
MESSAGES = DOCUMENT["components"]["messages"]
PLACE = SourcePosition(2, 17, 1_795_000_000_000)


def test_it_is_a_document_of_asyncapi_3() -> None:
    """By the schema that the specification publishes, and every reference leads somewhere."""
    schema = json.loads((ROOT / "tests/support/schemas/asyncapi-3.0.0.json").read_text())
    jsonschema.Draft7Validator(schema).validate(DOCUMENT)
    broken = json.loads(json.dumps(DOCUMENT))
    broken["operations"]["publishTags"]["action"] = "publish"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(broken)

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [r for k, v in value.items() for r in ([v] if k == "$ref" else references(v))]
        return [r for item in value for r in references(item)] if isinstance(value, list) else []

    found = references(DOCUMENT)
    assert found
    for reference in found:
        place = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


@given(TAGS)
def test_every_tag_fits_its_message(tag: Tag) -> None:
    """The payload's schema is whole: no reference is left that only its file had."""
    jsonschema.Draft202012Validator(MESSAGES["tag"]["payload"]["schema"]).validate(json.loads(tag.to_json()))


@pytest.mark.parametrize(
    ("message", "pairs"),
    [
        ("tag", ()),
        ("tag", CloudEvents("/uploads").pairs("tag", "ä b", PLACE, 0)),
        ("retry", RetryHeaders(2, 5, "fetch-failed").pairs()),
        ("deadLetter", DeadLetterHeaders("bad-event", "consume", "x", 1, "m").pairs()),
        ("embedding", ()),
    ],
)
def test_what_is_written_fits_its_headers(message: str, pairs: Any) -> None:
    """And none is written that the document does not name."""
    written = read_headers(result_headers(b"uploads", PLACE, pairs, b"application/json"))
    schema = MESSAGES[message]["headers"]
    jsonschema.Draft202012Validator({**schema, "additionalProperties": False}).validate(written)


def test_cloudevents_as_its_kafka_binding_says() -> None:
    """The required attributes, as headers that begin with `ce_`; an equal result has the same id."""
    pairs = dict(CloudEvents("/imgclust").pairs("deletion", "a", PLACE, 1_795_000_000_000))
    assert pairs == {
        "ce_specversion": b"1.0",
        "ce_id": b"2:17",
        "ce_source": b"/imgclust",
        "ce_type": b"imgclust.deletion",
        "ce_subject": b"a",
        "ce_time": b"2026-11-18T11:06:40.000Z",
    }
