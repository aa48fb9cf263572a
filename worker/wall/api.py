"""The reads of a feed over HTTP, for languages without a client: `/v1/…`, beside the wall.

Answers are JSON. Each has an ETag and says how long it may be kept; a client that has the newest gets 304.
The OpenAPI document is made from the same endpoints that route and parse (`/v1/openapi.json`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import orjson
from aiohttp import web

from worker.feed import AsyncFeed
from worker.http.answers import Handler, has_etag, refused
from worker.http.openapi import Endpoint, Parameter, Schema, add_routes, document, tag_schemas
from worker.messages.upload import MAX_ID_CHARS
from worker.reader.cursor import MAX_CLUSTERS, MAX_CURSOR_CHARS
from worker.reader.values import Page
from worker.wall.asking import ask

MAX_TAGS = 200  # in one answer
MAX_IDS = 20  # in one question: so many of the longest fit into a request's line
MAX_REQUESTS = 64  # worked on at once; one more is refused, so that a slow Redis does not fill the memory
KEEP_TAG, KEEP_CLUSTERS, KEEP_PAGE, KEEP_LATER_PAGE = 10, 60, 1, 10  # seconds that an answer may be kept

_ID: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}
_NUMBER: Schema = {"type": "integer", "minimum": -1, "maximum": 2**31 - 1}
_NUMBERS: Schema = {"type": "array", "maxItems": MAX_CLUSTERS // 2, "items": _NUMBER}
_CURSOR: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_CURSOR_CHARS,
    "pattern": "^[A-Za-z0-9_-]+$",
}
_PAGING = (
    Parameter(
        "limit", {"type": "integer", "minimum": 1, "maximum": MAX_TAGS}, "How many tags at most.", default=50
    ),
    Parameter("cursor", _CURSOR, "`cursor` of the page before: those that follow."),
    Parameter("until", _CURSOR, "`newest` of a page that was read before: only what is newer."),
)
_HEADERS = {
    "ETag": "Of this answer; send it as If-None-Match to learn whether there is another.",
    "Cache-Control": "How many seconds the answer may be kept.",
}
_COMMON = {
    304: "The client has the newest version.",
    503: "Redis does not answer, or there are too many requests.",
}
_WRONG = {400: "A parameter is wrong."}

TAG = Endpoint(
    "/v1/tags/{id}",
    "The tag of an upload",
    {"$ref": "#/components/schemas/Tag"},
    {
        200: "The tag.",
        404: "There is none: not tagged yet, deleted, a dead letter, or too old.",
        **_WRONG,
        **_COMMON,
    },
    (Parameter("id", _ID, "The upload's id, percent-encoded.", "path"),),
    headers=_HEADERS,
)
TAGS = Endpoint(
    "/v1/tags",
    "The tags of several uploads",
    {"$ref": "#/components/schemas/Tags"},
    {200: "Those that there are, in the order of the question.", **_WRONG, **_COMMON},
    (Parameter("id", {"type": "array", "maxItems": MAX_IDS, "items": _ID}, "An upload; may be repeated."),),
    headers=_HEADERS,
)
CLUSTERS = Endpoint(
    "/v1/clusters",
    "The clusters that uploads were found in so far",
    {"$ref": "#/components/schemas/Clusters"},
    {200: "The clusters.", **_COMMON},
    headers=_HEADERS,
)
OF_CLUSTER = Endpoint(
    "/v1/clusters/{n}/latest",
    "The newest tags of a cluster",
    {"$ref": "#/components/schemas/Page"},
    {200: "A page.", 404: "No upload was ever in this cluster.", **_WRONG, **_COMMON},
    (Parameter("n", _NUMBER, "The cluster's number; -1 is other.", "path"), *_PAGING),
    headers=_HEADERS,
)
LATEST = Endpoint(
    "/v1/latest",
    "The newest tags of several clusters, or of all",
    {"$ref": "#/components/schemas/Page"},
    {200: "A page.", **_WRONG, **_COMMON},
    (
        Parameter("cluster", _NUMBERS, "Only these clusters; may be repeated. Without: all."),
        Parameter("without", _NUMBERS, "Not these clusters; may be repeated."),
        *_PAGING,
    ),
    headers=_HEADERS,
)
DOCUMENT = Endpoint("/v1/openapi.json", "This document", {"type": "object"}, {200: "OpenAPI 3.1."})
ENDPOINTS = (TAG, TAGS, CLUSTERS, OF_CLUSTER, LATEST, DOCUMENT)

_SCHEMAS: dict[str, Schema] = {
    "Tags": {
        "type": "object",
        "required": ["tags"],
        "properties": {"tags": {"type": "array", "items": {"$ref": "#/components/schemas/Tag"}}},
    },
    "Clusters": {
        "type": "object",
        "required": ["taxonomy", "clusters"],
        "properties": {
            "taxonomy": {"description": "Null before the first tag.", "type": ["string", "null"]},
            "clusters": {"type": "array", "items": {"$ref": "#/components/schemas/Cluster"}},
        },
    },
    "Cluster": {
        "type": "object",
        "required": ["id", "name", "model"],
        "properties": {
            "id": _NUMBER,
            "name": {"type": ["string", "null"]},
            "model": {"description": "The model that gave the name.", "type": "string"},
            "group": {"description": "The group that it is in; null in none.", "type": ["integer", "null"]},
        },
    },
    "Page": {
        "type": "object",
        "required": ["tags", "cursor", "newest", "unknown"],
        "properties": {
            "tags": {"type": "array", "maxItems": MAX_TAGS, "items": {"$ref": "#/components/schemas/Tag"}},
            "cursor": {"description": "Of the next page; null at the end.", "type": ["string", "null"]},
            "newest": {"description": "Where this page begins, for `until`.", "type": ["string", "null"]},
            "unknown": {
                "description": "Of the clusters that were named: those that no upload was ever in.",
                "type": "array",
                "items": _NUMBER,
            },
        },
    },
}


def openapi() -> dict[str, Any]:
    """The OpenAPI document of the endpoints."""
    return document(
        "imgclust feeds",
        "Reads what the worker keeps in Redis: tags of uploads, clusters, and their newest uploads.",
        ENDPOINTS,
        {**tag_schemas(), **_SCHEMAS},
    )


class Api:
    """The endpoints over one feed."""

    def __init__(self, feed: AsyncFeed) -> None:
        self._feed = feed
        self._document = orjson.dumps(openapi())
        self._open = 0

    def add_to(self, app: web.Application) -> None:
        handlers: dict[Endpoint, Handler] = {
            TAG: self._tag,
            TAGS: self._tags,
            CLUSTERS: self._clusters,
            OF_CLUSTER: self._of_cluster,
            LATEST: self._latest,
            DOCUMENT: self._openapi,
        }
        add_routes(app, {endpoint: self._bounded(handler) for endpoint, handler in handlers.items()})

    async def _tag(self, request: web.Request) -> web.StreamResponse:
        upload_id = TAG.values(request)["id"]
        found = await ask(self._feed.get([upload_id]))
        if upload_id not in found:
            raise refused(web.HTTPNotFound, TAG.answers[404])
        return _answer(request, found[upload_id].to_json(), KEEP_TAG)

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        found = await ask(self._feed.get(TAGS.values(request)["id"]))
        tags = [orjson.Fragment(tag.to_json()) for tag in found.values()]
        return _answer(request, orjson.dumps({"tags": tags}), KEEP_TAG)

    async def _clusters(self, request: web.Request) -> web.StreamResponse:
        taxonomy = await ask(self._feed.taxonomy())
        found = await ask(self._feed.clusters(taxonomy)) if taxonomy else {}
        clusters = [dataclasses.asdict(cluster) for cluster in found.values()]
        return _answer(request, orjson.dumps({"taxonomy": taxonomy, "clusters": clusters}), KEEP_CLUSTERS)

    async def _of_cluster(self, request: web.Request) -> web.StreamResponse:
        values = OF_CLUSTER.values(request)
        page = await self._page(values["n"], (), values)
        if page.unknown:
            raise refused(web.HTTPNotFound, OF_CLUSTER.answers[404])
        return self._shown(request, page, values)

    async def _latest(self, request: web.Request) -> web.StreamResponse:
        values = LATEST.values(request)
        page = await self._page(values["cluster"] or None, values["without"], values)
        return self._shown(request, page, values)

    async def _page(self, clusters: int | list[int] | None, without: Any, values: dict[str, Any]) -> Page:
        limit, cursor, until = values["limit"], values["cursor"], values["until"]
        try:
            return await ask(self._feed.latest(clusters, limit, cursor, without=without, until=until))
        except ValueError as error:
            raise refused(web.HTTPBadRequest, str(error)) from None

    def _shown(self, request: web.Request, page: Page, values: dict[str, Any]) -> web.Response:
        tags = [orjson.Fragment(tag.to_json()) for tag in page.tags]
        shown = {"tags": tags, "cursor": page.cursor, "newest": page.newest, "unknown": page.unknown}
        return _answer(request, orjson.dumps(shown), KEEP_LATER_PAGE if values["cursor"] else KEEP_PAGE)

    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        return _answer(request, self._document, KEEP_CLUSTERS)

    def _bounded(self, handler: Handler) -> Handler:
        async def bounded(request: web.Request) -> web.StreamResponse:
            if self._open >= MAX_REQUESTS:
                raise refused(web.HTTPServiceUnavailable, f"{MAX_REQUESTS} are asking already", retry=1)
            self._open += 1
            try:
                return await handler(request)
            finally:
                self._open -= 1

        return bounded


def _answer(request: web.Request, body: bytes, keep: int) -> web.Response:
    """The body as JSON, or 304 where the client has it already.

    Args:
        keep: seconds that it may be kept.
    """
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": f"private, max-age={keep}"}
    if has_etag(request, tag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)
