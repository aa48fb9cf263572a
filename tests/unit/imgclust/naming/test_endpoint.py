"""A vision model behind an API: what is sent, what it may cost, and what its answers may be."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imgclust.errors import ImgclustError
from imgclust.model.model import ClusterModel
from imgclust.naming.endpoint import KEY, MAX_ANSWER, MAX_NAME, MAX_TOKENS, EndpointNamer, as_name
from tests.support.fitted import fitted
from tests.support.report_sample import ATTACKS, webp


class Server(ThreadingHTTPServer):
    """Answers every request with `reply`; keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.headers, self.asked = 200, {}, []  # type: ignore[var-annotated]
        self.reply: bytes = answer("bird")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.reply)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


def answer(text: Any, tokens: Any = 100) -> bytes:
    choices = [{"message": {"role": "assistant", "content": text}}]
    return json.dumps({"choices": choices, "usage": {"total_tokens": tokens}}).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def namer(server: Server) -> EndpointNamer:
    return EndpointNamer.of(f"http://127.0.0.1:{server.server_port}/v1/", "seer")


def with_pictures() -> ClusterModel:
    model = fitted().model
    typical = [image for cluster in model.clusters for image in cluster.exemplars]
    return dataclasses.replace(model, thumbnails=dict.fromkeys(typical, webp((200, 30, 30))))


def test_a_contact_sheet_is_sent(
    server: Server, namer: EndpointNamer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cluster is one request: a question, a JPEG of typical pictures, few tokens, and the key."""
    monkeypatch.setenv(KEY, "secret")
    model = with_pictures()
    assert namer.names(model) == {cluster.id: "bird" for cluster in model.clusters}
    assert len(server.asked) == namer.requests == len(model.clusters)
    assert namer.tokens == 100 * len(model.clusters)
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["max_tokens"]) == ("seer", MAX_TOKENS)
    question, picture = body["messages"][0]["content"]
    assert question["type"] == "text"
    content = picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
    sheet = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (sheet.format, sheet.size) == ("JPEG", (512, 384))


def test_no_more_requests_than_allowed(server: Server, namer: EndpointNamer) -> None:
    """The largest clusters are named first; those beyond the limit cost nothing and get no name."""
    model = with_pictures()
    limited = dataclasses.replace(namer, max_requests=2)
    found = limited.names(model)
    largest = sorted(model.clusters, key=lambda c: (-c.size, c.id))[:2]
    assert found == {cluster.id: "bird" for cluster in largest}
    assert len(server.asked) == 2


def test_no_pictures_no_request(server: Server, namer: EndpointNamer) -> None:
    """A model that keeps no pictures is not asked about."""
    assert namer.names(fitted().model) == {}
    assert not server.asked


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (b"no json", 200),
        (b"[]", 200),
        (b'{"choices": []}', 200),
        (b'{"choices": [{"message": null}]}', 200),
        (b"[" * 100_000, 200),
        (b" " * (MAX_ANSWER + 1), 200),
        (answer("bird"), 500),
    ],
)
def test_what_is_no_answer_is_an_error(
    server: Server, namer: EndpointNamer, reply: bytes, status: int
) -> None:
    """Broken, huge and failed answers end the naming with one sentence that names the endpoint."""
    server.reply, server.status = reply, status
    with pytest.raises(ImgclustError, match=r"the endpoint '127\.0\.0\.1:\d+'"):
        namer.names(with_pictures())


def test_no_redirect_is_followed(server: Server, namer: EndpointNamer) -> None:
    """Pictures and the key go to the named address alone."""
    server.status, server.headers = 307, {"Location": f"http://127.0.0.1:{server.server_port}/elsewhere"}
    with pytest.raises(ImgclustError, match="status 307"):
        namer.names(with_pictures())
    assert len(server.asked) == 1


@pytest.mark.parametrize("url", ["ftp://host/v1", "host:80", "http://user:key@host/v1", "http:///v1", ""])
def test_what_is_no_endpoint(url: str) -> None:
    """Only plain http and https addresses; a key in the address would end up in logs."""
    with pytest.raises(ImgclustError, match="the endpoint is an address like"):
        EndpointNamer.of(url, "seer")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Bird", "Bird"),
        (' "musical instrument". ', "musical instrument"),
        ("पक्षी", "पक्षी"),
        ("none", None),
        ("None.", None),
        ("", None),
        ("line\nbreak", None),
        ("bell\x07", None),
        ("\u202egpj", None),
        ("=cmd|calc", None),
        ("a" * (MAX_NAME + 1), None),
        ("https://evil.example", None),
        *((attack, None) for attack in ATTACKS),
    ],
)
def test_an_answer_is_a_name_or_nothing(text: str, name: str | None) -> None:
    """Markup, formulas, addresses, control and direction characters are no names."""
    assert as_name(text) == name


@given(st.text())
def test_any_answer_is_harmless(text: str) -> None:
    """Whatever comes back: a short line without a sign that HTML, a shell or a spreadsheet reads."""
    name = as_name(text)
    if name is not None:
        assert 0 < len(name) <= MAX_NAME
        assert name.isprintable()
        assert not set(name) & set('<>"`$;|=@\\{}')
