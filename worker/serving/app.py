"""`imgclust-worker serve`: ask with a picture or its URL, be answered with its tag.

The tag is what the stream would publish of the same upload: fetched by the same rules, decoded under the same
limits, encoded and predicted by the same model. How many wait at once is bounded: one more gets 429 at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from worker.errors import ERROR_CODES, Rejected
from worker.fetching.protocol import Failed
from worker.http.answers import DATA_HEADERS, Handler, guard, refused
from worker.http.openapi import Endpoint, Parameter, add_routes, document, tag_schemas
from worker.messages.tag import Tag
from worker.messages.text import wall_ms
from worker.messages.upload import MAX_ID_CHARS, MAX_URL_CHARS, Upload, checked, read_json
from worker.serving.engine import Answer, Engine, FullError
from worker.tagger.prediction import Predicted, tag_of
from worker.telemetry.metrics import Metrics

MAX_EVENT = 65_536  # bytes of a question in JSON
RETRY_SECONDS = 1  # after 429
SCHEMES = ("http", "https", "s3")  # `file:` is how pictures that were sent come to the fetchers

# error code → status: who asked sees whether to ask otherwise (4xx) or later (5xx)
STATUS = {
    "bad-event": 400,
    "url-forbidden": 403,
    "too-large": 413,
    "too-many-pixels": 413,
    "unsupported-format": 415,
    "decode-failed": 422,
    "encode-failed": 422,
    "not-found": 502,
    "fetch-failed": 502,
    "fetch-timeout": 504,
}

_ID = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}
_QUESTION = {
    "type": "object",
    "required": ["url"],
    "properties": {
        "url": {"type": "string", "minLength": 1, "maxLength": MAX_URL_CHARS},
        "id": {"description": "Id of the tag; default: the URL's SHA-256.", **_ID},
        "uploaded_at": {"description": "RFC 3339; default: now.", "type": "string"},
        "attributes": {
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        },
    },
}
ASK = Endpoint(
    "/v1/tag",
    "The tag of a picture",
    {"$ref": "#/components/schemas/Tag"},
    {
        200: "The tag, as the stream would publish it.",
        400: "The question is wrong.",
        403: "The URL may not be fetched.",
        408: "The picture did not arrive in time.",
        413: "Too many bytes or pixels.",
        415: "Not a picture in a supported format.",
        422: "It cannot be decoded.",
        429: "Too many requests are waiting; try again after Retry-After.",
        502: "The picture's server does not have it, or failed.",
        503: "Not ready.",
        504: "The picture's server is too slow.",
    },
    (Parameter("id", _ID, "Id of the tag, if the body is the picture; default: the picture's SHA-256."),),
    method="post",
    body={
        "application/json": _QUESTION,
        "image/*": {"type": "string", "contentMediaType": "application/octet-stream"},
        "application/octet-stream": {"type": "string", "contentMediaType": "application/octet-stream"},
    },
)
DOCUMENT = Endpoint("/v1/openapi.json", "This document", {"type": "object"}, {200: "OpenAPI 3.1."})


def openapi() -> dict[str, Any]:
    """The OpenAPI document."""
    text = "Tags of pictures, by the model and the rules of the stream."
    return document("imgclust serve", text, (ASK, DOCUMENT), tag_schemas())


class Serving:
    """The web application.

    Args:
        host: that is listened on.
        max_bytes: of a picture.
        seconds: that a request's body may take.
        tag_url: whether tags carry URLs (WORKER_TAG_URL).
    """

    def __init__(
        self, engine: Engine, *, host: str, max_bytes: int, seconds: float, tag_url: bool, metrics: Metrics
    ) -> None:
        self.engine = engine
        self._host = host
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._tag_url = tag_url
        self._metrics = metrics
        self._document = orjson.dumps(openapi())

    def application(self) -> web.Application:
        guarded = guard({**DATA_HEADERS, "Cache-Control": "no-store"}, self._host, "WORKER_SERVE")
        # one byte more than the largest picture, so that aiohttp's limit is not met first
        app = web.Application(middlewares=[guarded], client_max_size=max(self._max_bytes, MAX_EVENT) + 1)
        handlers: dict[Endpoint, Handler] = {ASK: self._ask, DOCUMENT: self._openapi}
        add_routes(app, handlers)
        return app

    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._document, content_type="application/json")

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        started = time.monotonic()
        try:
            tag = await self._answered(request)
        except web.HTTPException as error:
            self._metrics.serve_requests[_outcome(error.status)].inc()
            raise
        except asyncio.CancelledError:
            self._metrics.serve_requests["gone"].inc()
            raise
        self._metrics.serve_requests["tagged"].inc()
        self._metrics.serve_seconds.observe(time.monotonic() - started)
        return web.Response(body=tag.to_json(), content_type="application/json")

    async def _answered(self, request: web.Request) -> Tag:
        named = ASK.values(request)["id"]
        as_json = request.content_type == "application/json"
        most = MAX_EVENT if as_json else self._max_bytes
        if (request.content_length or 0) > most:
            raise web.HTTPRequestEntityTooLarge(most, request.content_length or 0)
        try:
            with self.engine.seat(0 if as_json else request.content_length or most):
                body = await self._body(request, most)
                return await (self.of_event(body) if as_json else self.of_picture(body, named))
        except FullError as error:
            raise refused(web.HTTPTooManyRequests, str(error), RETRY_SECONDS) from None

    async def _body(self, request: web.Request, most: int) -> bytes:
        try:
            async with asyncio.timeout(self._seconds):
                body = await request.read()
        except TimeoutError:
            raise refused(web.HTTPRequestTimeout, f"no body within {self._seconds:g} s") from None
        if len(body) > most:
            raise web.HTTPRequestEntityTooLarge(most, len(body))
        return body

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────

    async def of_event(self, body: bytes) -> Tag:
        """The tag of the picture that an event names: `{"url": …}`, with the other fields of an Upload.

        Raises:
            HTTPException: see `STATUS`.
        """
        try:
            event = read_json(body)
            url = event.get("url")
            default = hashlib.sha256(url.encode()).hexdigest() if isinstance(url, str) else "-"
            upload = checked({"id": default, **event}, wall_ms())
        except (Rejected, UnicodeEncodeError) as error:
            raise _failed("bad-event", str(error)) from None
        if upload.url is None:
            raise _failed("bad-event", "a deletion has no picture")
        if _scheme(upload.url) not in SCHEMES:
            raise _failed("url-forbidden", f"only {', '.join(SCHEMES)} URLs are fetched here")
        return self._tag(upload, await self.engine.ask(upload.url))

    async def of_picture(self, body: bytes, named: str | None = None) -> Tag:
        """The tag of a picture that was sent.

        Raises:
            HTTPException: see `STATUS`.
        """
        if not body:
            raise _failed("bad-event", "the body is empty: send a picture, or JSON with its url")
        upload = Upload(named or hashlib.sha256(body).hexdigest(), None, wall_ms())
        async with self.engine.picture(body) as url:
            return self._tag(upload, await self.engine.ask(url))

    def _tag(self, upload: Upload, answer: Answer) -> Tag:
        if isinstance(answer, Predicted):
            return tag_of(
                answer,
                id=upload.id,
                url=upload.url if self._tag_url else None,
                uploaded_at=upload.uploaded_at,
                tagged_at=wall_ms(),
                attributes=upload.attributes,
            )
        code = answer.code if isinstance(answer, Failed) else "encode-failed"
        raise _failed(code, answer.message)


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return "http"  # the fetchers say what is wrong with it


def _failed(code: str, message: str) -> web.HTTPException:
    """`{"error": message, "code": code}` with the code's status."""
    kinds: Mapping[int, type[web.HTTPException]] = {
        400: web.HTTPBadRequest,
        403: web.HTTPForbidden,
        415: web.HTTPUnsupportedMediaType,
        422: web.HTTPUnprocessableEntity,
        502: web.HTTPBadGateway,
        504: web.HTTPGatewayTimeout,
    }
    assert code in ERROR_CODES
    text = orjson.dumps({"error": message, "code": code}).decode()
    status = STATUS[code]
    if status == 413:
        return web.HTTPRequestEntityTooLarge(0, 0, text=text, content_type="application/json")
    return kinds[status](text=text, content_type="application/json")


def _outcome(status: int) -> str:
    if status == 429:
        return "full"
    return "refused" if status < 500 else "failed"
