"""The Open Inference Protocol (KServe v2, HTTP): health, metadata, and inference of a few pictures at once.

Gateways, autoscalers and clients of inference servers know it: what is served is a model that takes `image`
(bytes, in JSON as base64) or `url`, and gives a `tag` for each, as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from imgclust import __version__
from worker.http.answers import json_answer, refused
from worker.messages.tag import Tag
from worker.serving.app import RETRY_SECONDS, Serving
from worker.serving.engine import FullError

NAME = "imgclust"
MAX_PICTURES = 16  # in one request
INPUTS = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("image", "url")]
OUTPUTS = [{"name": "tag", "datatype": "BYTES", "shape": [-1]}]


class InferenceProtocol:
    """Its paths over the same engine.

    Args:
        ready: whether questions can be answered.
    """

    def __init__(self, serving: Serving, ready: Callable[[], bool]) -> None:
        self._serving = serving
        self._ready = ready

    def add_to(self, app: web.Application) -> None:
        model = rf"/v2/models/{NAME}"
        app.router.add_get("/v2", self._server)
        app.router.add_get("/v2/health/live", self._live)
        app.router.add_get("/v2/health/ready", self._is_ready)
        for path in (model, f"{model}/versions/{{version}}"):
            app.router.add_get(path, self._model)
            app.router.add_get(f"{path}/ready", self._is_ready)
            app.router.add_post(f"{path}/infer", self._infer)

    async def _server(self, request: web.Request) -> web.StreamResponse:
        return json_answer({"name": NAME, "version": __version__, "extensions": []})

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return json_answer({"live": True})

    async def _is_ready(self, request: web.Request) -> web.StreamResponse:
        self._check_version(request)
        ready = self._ready()
        return json_answer({"ready": ready}, 200 if ready else 503)

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self._check_version(request)
        version = self._serving.engine.inference.maker.version
        return json_answer(
            {"name": NAME, "versions": [version], "platform": NAME, "inputs": INPUTS, "outputs": OUTPUTS}
        )

    def _check_version(self, request: web.Request) -> None:
        version = self._serving.engine.inference.maker.version
        if request.match_info.get("version", version) != version:
            raise refused(web.HTTPNotFound, f"the current model is version {version}")

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        """Each picture is a question of its own; the first that fails fails the request."""
        self._check_version(request)
        try:
            with self._serving.engine.seat(request.content_length or request.app._client_max_size):
                question = orjson.loads(await request.read())
                asked = self._asked(question)
                tags = await _all(asked)
        except FullError as error:
            raise refused(web.HTTPTooManyRequests, str(error), RETRY_SECONDS) from None
        except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
            raise refused(web.HTTPBadRequest, f"no inference request: {error}") from None
        data = [tag.to_json().decode() for tag in tags]
        output = {**OUTPUTS[0], "shape": [len(data)], "data": data}
        answer = {"model_name": NAME, "model_version": tags[0].model, "outputs": [output]}
        return json_answer(answer | ({"id": question["id"]} if "id" in question else {}))

    def _asked(self, question: Any) -> list[Callable[[], Awaitable[Tag]]]:
        (given,) = question["inputs"]
        name, data = given["name"], given["data"]
        if given["datatype"] != "BYTES" or name not in ("image", "url"):
            raise ValueError("one input is expected: image or url, of datatype BYTES")
        if not isinstance(data, list) or not 1 <= len(data) <= MAX_PICTURES:
            raise ValueError(f"1 to {MAX_PICTURES} pictures are expected")
        if name == "url":
            events = [orjson.dumps({"url": url}) for url in data]
            return [lambda event=event: self._serving.of_event(event) for event in events]  # type: ignore[misc]
        bodies = [base64.b64decode(text, validate=True) for text in data]
        return [lambda body=body: self._serving.of_picture(body) for body in bodies]  # type: ignore[misc]


async def _all(asked: list[Callable[[], Awaitable[Tag]]]) -> list[Tag]:
    """Every answer; when one fails the others are given up."""
    tasks = [asyncio.ensure_future(ask()) for ask in asked]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
