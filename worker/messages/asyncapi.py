"""An AsyncAPI 3 document of all topics, made from the schemas and from what writes the headers.

`docs/schemas/asyncapi.json` shows it; topics have the names of the default settings there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

from imgclust import __version__
from worker.errors import ERROR_CODES
from worker.messages import embedding
from worker.messages.headers import (
    CloudEvents,
    DeadLetterHeaders,
    ReplayHeaders,
    RetryHeaders,
    SourcePosition,
    result_headers,
)

Document = dict[str, Any]

_PLACE = SourcePosition(0, 0, 0)
_TEXT = {"type": "string"}
_RESULT = result_headers(b"", _PLACE, (), b"", b"")
_OPTIONAL = {"content-type", "traceparent", "deaths"}
_MEANING = {
    "source-timestamp": "of the upload's record, milliseconds since the epoch",
    "not-before": "when it is due, milliseconds since the epoch",
    "traceparent": "W3C Trace Context, when the upload had one",
    "replay-of": "partition:offset of the dead letter",
}


def document(topics: dict[str, str]) -> Document:
    """The document.

    Args:
        topics: the names of the topics `uploads`, `tags`, `retry`, `dlq`, `embeddings` and `models`.
    """
    replay = ReplayHeaders("0:0", _PLACE, "not-found", 0).pairs()
    retry = RetryHeaders(1, 0, "not-found", 1).pairs()
    dead = DeadLetterHeaders("not-found", "fetch", "", 1, "").pairs()
    cloud = CloudEvents("/").pairs("tag", "a", _PLACE, 0)
    messages = {
        "upload": _message("Upload", "An upload; a null value deletes the id of the key.",
            "application/json", _file("upload"), _headers([*replay, ("traceparent", b"")], optional=True)),
        "tag": _message("Tag", "What an upload shows; null for a deleted upload.",
            "application/json", _file("tag"), _headers([*_RESULT, *cloud], optional=("ce_",))),
        "retry": _message("Pending retry", "The upload unchanged; null when it is decided.",
            "application/json", _file("upload"), _headers([*_RESULT, *retry])),
        "deadLetter": _message("Dead letter", "The upload unchanged, byte for byte.",
            "application/octet-stream", {}, _headers([*_RESULT, *dead])),
        "embedding": _message("Embedding",
            "A line of JSON, a newline, and the embedding's float16 numbers, little-endian.",
            embedding.CONTENT_TYPE.decode(), {}, _headers(_RESULT)),
        "model": _message("Model", "Which model is live, which its shadow, and what each worker runs.",
            "application/json", {"type": "object"}, None),
    }  # fmt: skip
    carried = {"uploads": "upload", "tags": "tag", "retry": "retry", "dlq": "deadLetter",
               "embeddings": "embedding", "models": "model"}  # fmt: skip
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "imgclust",
            "version": __version__,
            "description": "Upload events in, cluster tags out; results go to the partition of their upload.",
        },
        "channels": {name: _channel(topics[name], message) for name, message in carried.items()},
        "operations": {
            "takeUploads": _operation("receive", "uploads"),
            "publishTags": _operation("send", "tags"),
            "keepRetries": _operation("send", "retry"),
            "takeRetries": _operation("receive", "retry"),
            "publishDeadLetters": _operation("send", "dlq"),
            "keepEmbeddings": _operation("send", "embeddings"),
            "followModels": _operation("receive", "models"),
        },
        "components": {"messages": messages},
    }


def _file(name: str) -> Document:
    """A JSON Schema whose references lead into the document that it is put into."""
    text = resources.files("worker.messages").joinpath(f"schemas/{name}.schema.json").read_text()
    schema: Document = json.loads(text)
    parts = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            where = value.get("$ref")
            if isinstance(where, str):
                rest = {key: item for key, item in value.items() if key != "$ref"}
                return {**whole(parts[where.rpartition("/")[2]]), **rest}
            return {key: whole(item) for key, item in value.items()}
        return [whole(item) for item in value] if isinstance(value, list) else value

    found: Document = whole(schema)
    return found


def _headers(pairs: Iterable[tuple[str, Any]], optional: bool | tuple[str, ...] = ()) -> Document:
    """Headers are UTF-8 text, numbers in decimal."""
    names = list(dict.fromkeys(name for name, _ in pairs))
    properties = {name: {**_TEXT, **_described(name)} for name in names}
    prefixes = optional if isinstance(optional, tuple) else ("",)
    needed = [n for n in names if n not in _OPTIONAL and not (prefixes and n.startswith(prefixes))]
    return {"type": "object", "properties": properties, **({"required": needed} if needed else {})}


def _described(name: str) -> Document:
    if name == "error-code":
        return {"enum": list(ERROR_CODES)}
    return {"description": _MEANING[name]} if name in _MEANING else {}


def _message(
    title: str, summary: str, content_type: str, payload: Document, headers: Document | None
) -> Document:
    found: Document = {"title": title, "summary": summary, "contentType": content_type}
    if payload:
        found["payload"] = {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": payload,
        }
    if headers is not None:
        found["headers"] = headers
    key = {"type": "string", "description": "the upload's id"}
    return {**found, "bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}}}


def _channel(topic: str, message: str) -> Document:
    return {"address": topic, "messages": {message: {"$ref": f"#/components/messages/{message}"}}}


def _operation(action: str, channel: str) -> Document:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}
