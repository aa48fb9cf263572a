"""`imgclust-worker serve`: real fetchers, a real server of pictures, real HTTP; the encoder is a stand-in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import ipaddress
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from imgclust.fetching.urls import FetchPolicy
from imgclust.types import Floats, Pixels
from tests.support.fake_encoder import FakeEncoder, FakeModel
from tests.support.origin import Origin, response, silence
from tests.support.waiting import until
from worker.http.server import listening
from worker.messages.tag import Tag
from worker.serving.app import Serving
from worker.serving.engine import Bounds, Engine
from worker.serving.inference_protocol import InferenceProtocol
from worker.tagger.tagger import Fetching
from worker.telemetry.metrics import Metrics


def picture(brightness: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), brightness, np.uint8)).save(out, "PNG")
    return out.getvalue()


class Gate(FakeEncoder):
    """An encoder that waits while the gate is shut."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.open = threading.Event()
        self.open.set()

    def encode(self, pixels: Pixels) -> Floats:
        assert self.open.wait(60)
        return super().encode(pixels)


class Server:
    """A served engine and what it is asked with."""

    def __init__(self, engine: Engine, metrics: Metrics, encoder: Gate, url: str, origin: Origin) -> None:
        self.engine, self.metrics, self.encoder, self.url = engine, metrics, encoder, url
        self.pictures = f"http://127.0.0.1:{origin.port}"
        self.http = aiohttp.ClientSession()

    async def ask(self, **request: Any) -> tuple[int, Any]:
        params = request.pop("params", {})
        async with self.http.post(f"{self.url}/v1/tag", params=params, **request) as answer:
            return answer.status, await answer.json()

    async def tag(self, **request: Any) -> Tag:
        params = request.pop("params", {})
        async with self.http.post(f"{self.url}/v1/tag", params=params, **request) as answer:
            assert answer.status == 200, await answer.text()
            return Tag.from_json(await answer.read())

    def count(self, outcome: str) -> float:
        return self.metrics.value("imgclust_serve_requests_total", outcome=outcome) or 0.0


@contextlib.asynccontextmanager
async def serving(folder: Path, origin: Origin, questions: int, seconds: float) -> AsyncIterator[Server]:
    policy = FetchPolicy(
        allow_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        allow_ports=(origin.port,),
        max_bytes=100_000,
        total_timeout=30,
    )
    fetching = Fetching(1, 64, 8, 1_000_000, 10.0, policy)
    metrics, encoder = Metrics(), Gate(bad=frozenset({9}))
    bounds = Bounds(questions, 10_000_000)
    engine = Engine(
        fetching, bounds, folder, FakeModel(), encoder, max_batch=8, max_wait=0.005, metrics=metrics
    )
    engine.start()
    app = Serving(engine, host="127.0.0.1", max_bytes=100_000, seconds=seconds, tag_url=True, metrics=metrics)
    web = app.application()
    InferenceProtocol(app, lambda: not engine.broken.done()).add_to(web)
    async with listening(web, "127.0.0.1", 0, setting="WORKER_SERVE") as address:
        server = Server(engine, metrics, encoder, f"http://{address}", origin)
        async with server.http:
            yield server
    encoder.open.set()
    engine.stop()


def with_server(
    folder: Path, test: Callable[[Server], Awaitable[None]], questions: int = 16, seconds: float = 10.0
) -> None:
    async def go() -> None:
        async with asyncio.timeout(90), serving(folder, origin, questions, seconds) as server:
            await test(server)

    with Origin({"/7.png": response(picture(7)), "/silent": silence}).running() as origin:
        asyncio.run(go())
    assert list(folder.iterdir()) == []


def test_a_picture_and_its_url_have_the_same_tag(tmp_path: Path) -> None:
    """Sent or named, alone or among others: the same prediction; id and attributes are the asker's."""

    async def test(server: Server) -> None:
        sent = await server.tag(data=picture(7), headers={"Content-Type": "image/png"})
        url = f"{server.pictures}/7.png"
        named = await server.tag(json={"url": url, "id": "a", "attributes": {"n": 1}})
        assert (sent.cluster, sent.candidates, sent.model) == (7, named.candidates, named.model)
        assert (named.id, named.url, named.attributes) == ("a", url, {"n": 1})
        assert (len(sent.id), sent.url) == (64, None)
        many = await asyncio.gather(
            *(server.tag(data=picture(n), params={"id": f"p{n}"}) for n in range(10, 26))
        )
        assert [(tag.id, tag.cluster) for tag in many] == [(f"p{n}", n) for n in range(10, 26)]
        assert max(server.encoder.batches) > 1
        assert server.count("tagged") == 18
        assert server.metrics.value("imgclust_stage_in_progress", stage="fetch") == 0

    with_server(tmp_path, test)


def test_what_cannot_be_tagged_says_why(tmp_path: Path) -> None:
    """Each kind of failure has its status and its error code; nothing of it disturbs the next."""

    async def test(server: Server) -> None:
        png = picture(1)
        other_file = tmp_path / "x"
        for request, expected in (
            ({"data": b"no picture at all"}, (415, "unsupported-format")),
            ({"data": png[: len(png) // 2]}, (422, "decode-failed")),
            ({"data": picture(9)}, (422, "encode-failed")),
            ({"data": b"x" * 100_001}, (413, None)),
            ({"data": b""}, (400, "bad-event")),
            ({"data": png, "params": {"id": "x" * 257}}, (400, None)),
            ({"json": {"url": "http://10.0.0.1/"}}, (403, "url-forbidden")),
            ({"json": {"url": other_file.as_uri()}}, (403, "url-forbidden")),
            ({"json": {"url": f"FILE://{other_file}"}}, (403, "url-forbidden")),
            ({"json": {"url": f"{server.pictures}/none"}}, (502, "not-found")),
            ({"json": {"id": "a"}}, (400, "bad-event")),
            ({"json": {"id": "a", "deleted": True}}, (400, "bad-event")),
            ({"json": {"url": "\ud800"}}, (400, "bad-event")),
            ({"json": [1]}, (400, "bad-event")),
            ({"data": b"{", "headers": {"Content-Type": "application/json"}}, (400, "bad-event")),
            ({"json": {"url": "http://h/" + "x" * 70_000}}, (413, None)),
        ):
            status, body = await server.ask(**request)
            assert (status, body.get("code")) == expected, (request, body)
            assert body["error"]
        assert (await server.tag(data=picture(3))).cluster == 3
        assert (server.count("tagged"), server.count("failed")) == (1, 1)

    with_server(tmp_path, test)


def test_when_full_the_next_is_refused_at_once(tmp_path: Path) -> None:
    """With every seat taken: 429 with Retry-After; who has a seat is answered when the encoder goes on."""

    async def test(server: Server) -> None:
        server.encoder.open.clear()
        asked = [asyncio.create_task(server.tag(data=picture(n))) for n in range(20, 24)]

        async def full() -> bool:
            return server.engine.waiting == 4

        await until("every seat is taken", full)
        async with server.http.post(f"{server.url}/v1/tag", data=picture(1)) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        assert server.metrics.value("imgclust_serve_requests_total", outcome="full") == 1
        server.encoder.open.set()
        assert [(await task).cluster for task in asked] == [20, 21, 22, 23]
        assert server.engine.idle.is_set()

    with_server(tmp_path, test, questions=4)


def test_who_leaves_makes_room(tmp_path: Path) -> None:
    """A question whose asker has gone gives up its seat, and its picture is not fetched any more."""

    async def test(server: Server) -> None:
        asked = asyncio.create_task(server.ask(json={"url": f"{server.pictures}/silent"}))

        async def seated() -> bool:
            return server.engine.waiting == 1

        await until("it waits", seated)
        asked.cancel()
        await asyncio.wait_for(server.engine.idle.wait(), 30)
        assert (await server.tag(data=picture(4))).cluster == 4
        assert server.count("gone") == 1
        assert server.metrics.value("imgclust_stage_in_progress", stage="fetch") == 0

    with_server(tmp_path, test, questions=1)


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    """A picture that is announced and not sent keeps its seat for the limit, not for ever."""

    async def test(server: Server) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = "POST /v1/tag HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
        writer.write(head.encode() + b"only this")
        assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert (await server.tag(data=picture(5))).cluster == 5

    with_server(tmp_path, test, questions=1, seconds=0.3)


def test_another_model_answers_from_then_on(tmp_path: Path) -> None:
    """A change of the model reaches those who ask as it reaches the stream."""

    class Next(FakeModel):
        version = taxonomy = "ba9876543210"

    async def test(server: Server) -> None:
        assert (await server.tag(data=picture(1))).model == "0123456789ab"
        await asyncio.to_thread(server.engine.inference.use, Next())
        assert (await server.tag(data=picture(1))).model == "ba9876543210"
        async with server.http.get(f"{server.url}/v2/models/imgclust") as answer:
            assert (await answer.json())["versions"] == ["ba9876543210"]
        async with server.http.get(f"{server.url}/v2/models/imgclust/versions/0123456789ab") as answer:
            assert answer.status == 404

    with_server(tmp_path, test)


def test_the_open_inference_protocol(tmp_path: Path) -> None:
    """Health, metadata, and inference of several pictures, as KServe's v2 describes them."""

    async def test(server: Server) -> None:
        async def get(path: str) -> tuple[int, Any]:
            async with server.http.get(server.url + path) as answer:
                return answer.status, await answer.json()

        assert await get("/v2/health/live") == (200, {"live": True})
        assert await get("/v2/health/ready") == (200, {"ready": True})
        assert await get("/v2/models/imgclust/ready") == (200, {"ready": True})
        assert (await get("/v2/models/other/ready"))[0] == 404
        assert (await get("/v2"))[1]["name"] == "imgclust"
        status, model = await get("/v2/models/imgclust")
        assert (status, model["outputs"][0]) == (200, {"name": "tag", "datatype": "BYTES", "shape": [-1]})
        data = [base64.b64encode(picture(n)).decode() for n in (11, 12)]
        tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": data}
        infer = f"{server.url}/v2/models/imgclust/infer"
        async with server.http.post(infer, json={"id": "q", "inputs": [tensor]}) as answer:
            found = await answer.json()
        (output,) = found["outputs"]
        assert (found["id"], found["model_version"], output["shape"]) == ("q", "0123456789ab", [2])
        assert [Tag.from_json(text.encode()).cluster for text in output["data"]] == [11, 12]
        for wrong in ([], [tensor, tensor], [{**tensor, "data": ["!"]}], [{**tensor, "name": "x"}],
                      [{**tensor, "data": [7]}], [7], None):  # fmt: skip
            async with server.http.post(infer, json={"inputs": wrong}) as answer:
                assert answer.status == 400, wrong
        url = {"name": "url", "datatype": "BYTES", "shape": [1], "data": [f"{server.pictures}/none"]}
        async with server.http.post(infer, json={"inputs": [url]}) as answer:
            assert answer.status == 502

    with_server(tmp_path, test)


def test_a_broken_encoder_ends_the_service(tmp_path: Path) -> None:
    """When not even a grey picture can be encoded the process has to be replaced: nobody is told "ready"."""

    async def test(server: Server) -> None:
        server.encoder.broken = True
        asked = asyncio.create_task(server.ask(data=picture(1)))
        assert "device lost" in str(await asyncio.wait_for(asyncio.shield(server.engine.broken), 30))
        asked.cancel()
        async with server.http.get(f"{server.url}/v2/health/ready") as answer:
            assert answer.status == 503

    with_server(tmp_path, test)


def test_every_answer_is_what_the_document_says(tmp_path: Path) -> None:
    """Questions that are made from the OpenAPI document, and broken ones, get the statuses, content types and
    bodies that it names. That a picture's server fails, or that a text is no URL, is said of the picture."""

    def fuzz(url: str) -> None:
        operation = schemathesis.openapi.from_url(f"{url}/v1/openapi.json")["/v1/tag"]["POST"]
        negative = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
        session = requests.Session()

        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy() | negative)
        def ask(case: Any) -> None:
            case.call_and_validate(
                session=session, excluded_checks=[positive_data_acceptance, not_a_server_error]
            )

        ask()

    async def test(server: Server) -> None:
        await asyncio.to_thread(fuzz, server.url)
        assert (await server.tag(data=picture(6))).cluster == 6

    with_server(tmp_path, test)
