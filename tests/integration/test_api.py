"""The HTTP API of the feeds over a real Redis: it answers as its OpenAPI document says."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from imgclust.fetching.urls import FetchPolicy
from tests.support.redis_server import RedisServer, running
from tests.support.tag_records import apply, record
from tests.support.waiting import PATIENCE
from worker.feed import AsyncFeed
from worker.view.client import connect_async
from worker.view.store import TagsView
from worker.wall import api
from worker.wall.app import Wall

pytestmark = pytest.mark.redis
NEGATIVE = schemathesis.GenerationMode.NEGATIVE
PATHS = ["/v1/tags/{id}", "/v1/tags", "/v1/clusters", "/v1/clusters/{n}/latest", "/v1/latest"]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def client(server: RedisServer) -> Any:
    """A Redis with 120 uploads in three clusters, one of which is empty again."""
    client = server.client()
    seconds, _ = client.time()
    at, view = int(seconds) * 1000, TagsView(client)
    apply(view, *(record(f"id{n:03}", n, at + n // 3, n % 2 - 1) for n in range(120)))
    apply(view, record("a/b?ä", 200, at, 5, name=None), record("gone", 201, at, 7))
    apply(view, record("gone", 202, at, None))
    return client


@contextlib.contextmanager
def listening(server: RedisServer, redis_timeout: float = PATIENCE) -> Iterator[str]:
    """The address of a wall over that Redis, which waits so long for its answers."""
    ready, stop, found = threading.Event(), asyncio.Event(), []

    async def serve() -> None:
        feed = AsyncFeed(connect_async(server.url, timeout=redis_timeout))
        async with Wall(feed, (), FetchPolicy(), "127.0.0.1").listening("127.0.0.1", 0) as address:
            found.append((asyncio.get_running_loop(), f"http://{address}"))
            ready.set()
            await stop.wait()
        await feed.aclose()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    loop, address = found[0]
    yield address
    loop.call_soon_threadsafe(stop.set)
    thread.join(PATIENCE)


@pytest.fixture(scope="module")
def url(server: RedisServer, client: Any) -> Iterator[str]:
    with listening(server) as address:
        yield address


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_what_the_document_says(url: str, path: str) -> None:
    """Requests that are made from the document, and broken ones, get the statuses, headers, content types
    and bodies that it names; nothing is a server error."""
    schema = schemathesis.openapi.from_url(f"{url}/v1/openapi.json")
    operation = schema[path]["GET"]

    session = requests.Session()

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=NEGATIVE))
    def ask(case: Any) -> None:
        # a cursor is opaque: no schema says which text was once made here
        opaque = {"cursor", "until"} & set(case.query or ())
        case.call_and_validate(session=session, excluded_checks=[positive_data_acceptance] if opaque else [])

    ask()


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_id_is_asked_for_by_its_name(http: httpx.Client, url: str, client: Any, upload_id: str) -> None:
    """Slashes, question marks and line breaks in an id are part of it; as a query even `.` and `..`, which
    no URL has as the last part of a path."""
    seconds, _ = client.time()
    apply(TagsView(client), record(upload_id, 1000, int(seconds) * 1000, 5))
    several = http.get("/v1/tags", params={"id": [upload_id, "id001", "nobody"]}).json()["tags"]
    assert {tag["id"] for tag in several} == {upload_id, "id001"}
    if upload_id not in (".", ".."):
        path = f"/v1/tags/{quote(upload_id, safe='')}".encode()
        answer = http.get(httpx.URL(url, raw_path=path))
        assert (answer.status_code, answer.json().get("id")) == (200, upload_id)


def test_pages_lead_to_each_other(http: httpx.Client) -> None:
    """Cursors of pages give every upload once; `until` the first page's beginning gives nothing new."""
    found, cursor = [], None
    first = http.get("/v1/latest", params={"limit": 50, "without": [5, 7]}).json()
    while True:
        query = {"limit": 50, "without": [5, 7], **({"cursor": cursor} if cursor else {})}
        page = http.get("/v1/latest", params=query).json()
        found += [tag["id"] for tag in page["tags"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert sorted(found) == [f"id{n:03}" for n in range(120)]
    query = {"limit": 50, "without": [5, 7], "until": first["newest"]}
    assert http.get("/v1/latest", params=query).json()["tags"] == []
    chosen = http.get("/v1/latest", params={"cluster": [0, 9], "limit": 200}).json()
    assert (len(chosen["tags"]), chosen["unknown"]) == (60, [9])


def test_a_cluster_that_is_empty_is_there_and_an_unknown_one_is_not(http: httpx.Client) -> None:
    """200 with no tags; 404. A cursor of another cluster is 400."""
    assert http.get("/v1/clusters/7/latest").json()["tags"] == []
    assert http.get("/v1/clusters/8/latest").status_code == 404
    cursor = http.get("/v1/clusters/0/latest?limit=1").json()["cursor"]
    wrong = http.get("/v1/clusters/-1/latest", params={"cursor": cursor})
    assert (wrong.status_code, wrong.headers["Cache-Control"]) == (400, "no-store")
    assert "the cursor is of cluster 0" in wrong.json()["error"]


def test_what_the_client_has_is_not_sent_again(http: httpx.Client) -> None:
    """Good answers may be kept for some seconds and have an ETag, with which they are 304."""
    for path, seconds in (("tags/id001", 10), ("clusters", 60), ("clusters/0/latest", 1), ("latest", 1)):
        first = http.get(f"/v1/{path}")
        assert first.headers["Cache-Control"] == f"private, max-age={seconds}"
        again = http.get(f"/v1/{path}", headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_a_slow_redis_bounds_who_may_ask(
    http: httpx.Client, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis is frozen, requests beyond the bound are refused at once and the others end as 503; then
    all is as before."""
    monkeypatch.setattr(api, "MAX_REQUESTS", 4)

    async def ask_all(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=PATIENCE) as asking:
            return await asyncio.gather(*(asking.get(f"{url}/v1/clusters") for _ in range(12)))

    with listening(server, redis_timeout=0.5) as impatient:
        server.freeze()
        try:
            answers = asyncio.run(ask_all(impatient))
        finally:
            server.thaw()
    reasons = sorted(answer.json()["error"] for answer in answers)
    assert {answer.status_code for answer in answers} == {503}
    assert reasons[0] == "4 are asking already"
    assert reasons[-1] == "Redis does not answer"
    assert all(answer.headers["Retry-After"] == "1" for answer in answers)
    assert http.get("/v1/clusters").status_code == 200
