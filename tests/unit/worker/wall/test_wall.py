"""The wall's server: what becomes a picture's source, what each reader gets, and what is refused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from imgclust.fetching.urls import FetchPolicy
from tests.support.fake_feed import FakeAsyncFeed
from tests.support.waiting import until
from worker.errors import SettingsError, StartError
from worker.http.server import Limits
from worker.messages.tag import Candidate, Tag
from worker.settings.load import load
from worker.settings.values import ImageSource
from worker.wall import app as walls
from worker.wall.app import Wall
from worker.wall.board import Board, Reading, Shown
from worker.wall.image_sources import image_policy, picture_url

HTTPS = (ImageSource("https"),)
NOW = 1_795_000_000_000


def tag(upload_id: str = "a", url: str | None = "https://cdn.example/a.jpg", cluster: int = 3) -> Tag:
    candidates = (Candidate(cluster, "cats", 0.8), Candidate(5, None, 0.1))
    return Tag(upload_id, cluster, "cats", 0.9, candidates, True, "m1", "t1", url, NOW, NOW + 210, {"n": 1})


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    ["https:", "http:", "https://cdn.example", "http://*.cdn.example:8080", "http://127.0.0.1:81"],
)
def test_a_source_is_written_as_it_was_read(text: str) -> None:
    """What an operator writes is what the browser gets."""
    assert str(ImageSource.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "data:", "blob:", "'unsafe-inline'", "cdn.example", "https://", "https:/x", "https://a/path",
        "https://a;script-src *", "https://a b", "https://a,b", "https://a:0", "https://a:99999",
        "https://a.*.example", "https://*", "https://ä.example", "https://a\n", "javascript:",
    ],
)  # fmt: skip
def test_what_could_widen_the_policy_is_no_source(text: str) -> None:
    """A setting cannot end `img-src` and begin another directive, nor allow a scheme that runs code."""
    with pytest.raises(ValueError):  # noqa: PT011
        ImageSource.parse(text)


@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_every_source_is_one_word_of_the_policy(text: str) -> None:
    """Whatever is accepted holds no separator of Content-Security-Policy."""
    try:
        source = ImageSource.parse(text)
    except ValueError:
        return
    assert not set(image_policy([source]).removeprefix("'self' ")) & set(" ;,'\"\n\r\t")
    assert ImageSource.parse(str(source)) == source


@pytest.mark.parametrize(
    ("source", "url", "covered"),
    [
        ("https:", "https://a.example:444/x", True),
        ("https:", "http://a.example/x", False),
        ("https://cdn.example", "https://cdn.example/x", True),
        ("https://cdn.example", "https://cdn.example:444/x", False),
        ("https://cdn.example", "https://evil-cdn.example/x", False),
        ("https://*.cdn.example", "https://a.b.cdn.example/x", True),
        ("https://*.cdn.example", "https://cdn.example/x", False),
        ("https://*.cdn.example", "https://evilcdn.example/x", False),
        ("http://10.0.0.1:81", "http://10.0.0.1:81/x", True),
    ],
)
def test_a_source_covers_what_a_browser_says_it_covers(source: str, url: str, covered: bool) -> None:
    """Scheme, host and port, as Content-Security-Policy compares them."""
    assert ImageSource.parse(source).covers(URL(url)) is covered


@pytest.mark.parametrize(
    "url",
    [
        None, 7, "", "javascript:alert(1)", "data:image/svg+xml,<svg onload=alert(1)>", "file:///etc/passwd",
        "//cdn.example/a", "/tag?id=a", "http://cdn.example/a", "https://user:secret@cdn.example/",
        "https://127.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/", "https://2130706433/",
        "https://cdn.example:22/", "https://cdn.example/\\@evil", "https://cdn.example/ onerror=alert(1)",
        "https://cdn.example/\u202e", "blob:https://cdn.example/1", "https://cdn.example\n.evil/",
    ],
)  # fmt: skip
def test_no_other_url_becomes_a_picture(url: object) -> None:
    """Only https URLs of public hosts on allowed ports do by default, in one form that all parsers read
    alike; a space and a direction mark are percent-encoded."""
    encoded = {
        "https://cdn.example/\u202e": "https://cdn.example/%E2%80%AE",
        "https://cdn.example/ onerror=alert(1)": "https://cdn.example/%20onerror=alert(1)",
    }
    expected = encoded.get(url) if isinstance(url, str) else None
    assert picture_url(url, HTTPS, FetchPolicy()) == expected


def test_what_the_worker_may_not_fetch_is_no_picture() -> None:
    """The worker's own rules come first: its hosts, ports and networks."""
    anywhere = (ImageSource("http"), ImageSource("https"))
    only = FetchPolicy(allow_hosts=("*.cdn.example",))
    assert picture_url("https://a.cdn.example/x?s=1", HTTPS, only) == "https://a.cdn.example/x?s=1"
    assert picture_url("https://b.example/x", HTTPS, only) is None
    assert picture_url("https://a.cdn.example/x", (), only) is None
    assert picture_url("http://10.0.0.7/x", anywhere, FetchPolicy()) is None


def test_settings_say_where_pictures_may_come_from() -> None:
    """https: by default; none; several; a wrong one is an error with its name."""
    assert load({}).wall_images == HTTPS
    assert load({}).wall == ("127.0.0.1", 9465)
    assert load({"WORKER_WALL_IMAGES": "none"}).wall_images == ()
    several = load({"WORKER_WALL_IMAGES": "https://a.example, http://127.0.0.1:81"}).wall_images
    assert [str(source) for source in several] == ["https://a.example", "http://127.0.0.1:81"]
    with pytest.raises(SettingsError, match="WORKER_WALL_IMAGES must be"):
        load({"WORKER_WALL_IMAGES": "https://a.example;script-src"})


# ── the board ────────────────────────────────────────────────────────────────────────────────────────────


def shown(number: int, count: int, *ids: str) -> Shown:
    return Shown({"id": number, "count": count}, [{"id": upload_id} for upload_id in ids])


class Redis:
    """What the board reads, changed by a test; an exception is raised instead."""

    def __init__(self) -> None:
        self.now: Reading | Exception = Reading("t1", {})
        self.looks = 0

    async def __call__(self) -> Reading:
        self.looks += 1
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


def with_board(test: Callable[[Board, Redis], Awaitable[None]]) -> None:
    async def go() -> None:
        store = Redis()
        board = Board(store, interval=0.005)
        looking = asyncio.create_task(board.run())
        try:
            async with asyncio.timeout(10):
                await test(board, store)
        finally:
            looking.cancel()

    asyncio.run(go())


def test_all_at_first_then_what_changed() -> None:
    """A watcher gets everything once; then only clusters that changed, pictures only when they did."""

    async def test(board: Board, store: Redis) -> None:
        store.now = Reading("t1", {1: shown(1, 5, "a"), 2: shown(2, 7, "b")})
        with board.watching():
            version, update = await board.after(0)
            assert update["whole"] is True
            assert update["clusters"] == [
                {"id": 1, "count": 5, "pictures": [{"id": "a"}]},
                {"id": 2, "count": 7, "pictures": [{"id": "b"}]},
            ]
            store.now = Reading("t1", {1: shown(1, 6, "a"), 2: shown(2, 7, "b")})
            version, update = await board.after(version)
            assert update == {
                "whole": False, "taxonomy": "t1", "trouble": None, "clusters": [{"id": 1, "count": 6}]
            }  # fmt: skip
            store.now = Reading("t1", {1: shown(1, 6, "a"), 2: shown(2, 8, "c", "b")})
            version, update = await board.after(version)
            assert update["clusters"] == [{"id": 2, "count": 8, "pictures": [{"id": "c"}, {"id": "b"}]}]

    with_board(test)


def test_who_is_slow_gets_all_changes_at_once() -> None:
    """Nothing is kept for a watcher: one that comes late gets the newest state of all that changed."""

    async def test(board: Board, store: Redis) -> None:
        with board.watching():
            store.now = Reading("t1", {1: shown(1, 1), 2: shown(2, 1)})
            version, _ = await board.after(0)
            seen = version
            for count in range(2, 6):
                store.now = Reading("t1", {1: shown(1, count), 2: shown(2, 1)})
                seen, _ = await board.after(seen)
            _, update = await board.after(version)
            assert update["clusters"] == [{"id": 1, "count": 5}]

    with_board(test)


def test_another_taxonomy_is_sent_as_a_whole() -> None:
    """Cluster numbers mean something else then; what was known is to be forgotten."""

    async def test(board: Board, store: Redis) -> None:
        with board.watching():
            store.now = Reading("t1", {1: shown(1, 1), 2: shown(2, 1)})
            version, _ = await board.after(0)
            store.now = Reading("t2", {1: shown(1, 1)})
            _, update = await board.after(version)
            assert (update["whole"], update["taxonomy"]) == (True, "t2")
            assert [cluster["id"] for cluster in update["clusters"]] == [1]

    with_board(test)


def test_redis_away_is_shown_until_it_is_back() -> None:
    """The last state stays, with a sentence; nothing ends."""

    async def test(board: Board, store: Redis) -> None:
        with board.watching():
            store.now = Reading("t1", {1: shown(1, 1, "a")})
            version, _ = await board.after(0)
            store.now = redis.ConnectionError("no route to 10.0.0.1")
            version, update = await board.after(version)
            assert "ConnectionError" in update["trouble"]
            assert "10.0.0.1" not in update["trouble"]
            _, late = await board.after(0)
            assert [cluster["id"] for cluster in late["clusters"]] == [1]
            store.now = Reading("t1", {1: shown(1, 1, "a")})
            _, update = await board.after(version)
            assert update["trouble"] is None

    with_board(test)


def test_redis_is_asked_only_while_somebody_looks() -> None:
    """A wall that nobody looks at costs Redis nothing."""

    async def test(board: Board, store: Redis) -> None:
        await asyncio.sleep(0.05)  # ten intervals in which nothing may happen
        assert store.looks == 0
        with board.watching():
            await board.after(0)
        await asyncio.sleep(0.05)
        seen = store.looks
        await asyncio.sleep(0.05)
        assert store.looks == seen

    with_board(test)


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def serving(feed: FakeAsyncFeed) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    page = Wall(feed, HTTPS, FetchPolicy(), loopback="127.0.0.1")
    async with page.listening("127.0.0.1", 0) as address, aiohttp.ClientSession() as client:
        yield client, f"http://{address}"


def with_wall(
    test: Callable[[FakeAsyncFeed, aiohttp.ClientSession, str], Awaitable[None]], *tags: Tag
) -> None:
    async def go() -> None:
        feed = FakeAsyncFeed(*tags)
        async with asyncio.timeout(20), serving(feed) as (client, url):
            await test(feed, client, url)

    asyncio.run(go())


async def events(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next event of a stream."""
    async for line in answer.content:
        if line.startswith(b"data: "):
            found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
            return found
    raise AssertionError("the stream has ended")


def test_every_answer_carries_the_policy() -> None:
    """The page, its files, data, and errors of all kinds: nothing inline, nothing framed, no referrer."""

    async def test(feed: FakeAsyncFeed, client: aiohttp.ClientSession, url: str) -> None:
        for path, status in {
            "/": 200, "/app.js": 200, "/wall.css": 200, "/icon.svg": 200, "/tag?id=a": 200, "/tag?id=b": 404,
            "/tag": 400, "/cluster?id=x": 400, "/cluster?id=3": 200, "/healthz": 200, "/readyz": 200,
            "/../wall.py": 404, "/%2e%2e/wall.py": 404, "/data/wall/app.js": 404,
        }.items():  # fmt: skip
            async with client.get(URL(url + path, encoded=True)) as answer:
                assert answer.status == status, path
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'; script-src 'self'; style-src 'self'; " in policy
                assert "img-src 'self' https:; connect-src 'self'" in policy
                assert "frame-ancestors 'none'" in policy
                assert "unsafe" not in policy
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Server"] == "imgclust"
                assert answer.headers["Cache-Control"] in ("no-store", "no-cache")
        async with client.post(f"{url}/tag?id=a", data=b"x") as answer:
            assert answer.status == 405

    with_wall(test, tag())


def test_only_names_of_this_machine_are_answered_on_loopback() -> None:
    """A page of the internet whose name was made to lead to 127.0.0.1 reads nothing here."""

    async def test(feed: FakeAsyncFeed, client: aiohttp.ClientSession, url: str) -> None:
        for name, status in {
            "127.0.0.1:9465": 200, "localhost": 200, "LOCALHOST:1": 200, "[::1]:80": 200,
            "evil.example": 421, "evil.example:9465": 421, "127.0.0.1.evil.example": 421, "": 421,
        }.items():  # fmt: skip
            async with client.get(f"{url}/tag?id=a", headers={"Host": name}) as answer:
                assert answer.status == status, name

    with_wall(test, tag())


def test_a_tag_says_all_that_it_says() -> None:
    """With the picture's URL as it may be loaded, or none; the URL itself is shown as it is."""

    async def test(feed: FakeAsyncFeed, client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(f"{url}/tag", params={"id": "a"}) as answer:
            found = await answer.json()
        assert found["image"] == "https://cdn.example/a.jpg"
        assert found["candidates"][0] == {"cluster": 3, "name": "cats", "score": 0.8}
        assert (found["delay"], found["novel"], found["model"]) == (0.21, True, "m1")
        async with client.get(f"{url}/tag", params={"id": "<b>&é\u202e"}) as answer:
            found = await answer.json()
        assert (found["image"], found["url"]) == (None, "javascript:alert(1)")

    with_wall(test, tag(), tag("<b>&é\u202e", "javascript:alert(1)"))


def test_a_stream_begins_with_everything_and_goes_on() -> None:
    """The first event is the whole board; a new upload is in one of the next."""

    async def test(feed: FakeAsyncFeed, client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(f"{url}/events") as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            first = await events(answer)
            assert first["whole"] is True
            assert [item["id"] for item in first["clusters"][0]["pictures"]] == ["a"]
            feed.known.tags = {"b": tag("b"), **feed.known.tags}
            found = await events(answer)
            assert found["whole"] is False
            assert [item["id"] for item in found["clusters"][0]["pictures"]] == ["b", "a"]

    with_wall(test, tag())


def test_its_requests_and_streams_are_counted() -> None:
    """`/metrics` says how requests ended and how many look."""

    async def test(feed: FakeAsyncFeed, client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(f"{url}/tag?id=a"), client.get(f"{url}/tag?id=b"):
            pass
        feed.known.away = True
        async with client.get(f"{url}/readyz"):
            pass
        feed.known.away = False
        async with client.get(f"{url}/events") as stream:
            await events(stream)
            async with client.get(f"{url}/metrics") as answer:
                shown = await answer.text()
        for outcome in ("ok", "refused", "failed"):
            assert f'imgclust_wall_requests_total{{outcome="{outcome}"}} 1' in shown
        assert "imgclust_wall_streams 1" in shown

    with_wall(test, tag())


def test_redis_away_is_a_503_and_not_a_crash() -> None:
    """Asked for a tag meanwhile, the wall says so; afterwards all is as before."""

    async def test(feed: FakeAsyncFeed, client: aiohttp.ClientSession, url: str) -> None:
        feed.known.away = True
        for path in ("/tag?id=a", "/cluster?id=3", "/readyz"):
            async with client.get(url + path) as answer:
                assert (answer.status, await answer.json()) == (503, {"error": "Redis does not answer"})
        feed.known.away = False
        async with client.get(f"{url}/tag?id=a") as answer:
            assert answer.status == 200

    with_wall(test, tag())


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream and one connection more than there may be are refused at once; a place that becomes free
    is given away again; one that never asks for anything is closed."""
    monkeypatch.setattr(walls, "MAX_STREAMS", 2)
    monkeypatch.setattr(walls, "LIMITS", Limits(connections=4, idle=0.3))

    async def test(feed: FakeAsyncFeed, client: aiohttp.ClientSession, url: str) -> None:
        host, port = "127.0.0.1", URL(url).port
        async with client.get(f"{url}/events") as one, client.get(f"{url}/events"):
            async with client.get(f"{url}/events") as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
            silent = [await asyncio.open_connection(host, port) for _ in range(2)]
            silent[0][1].write(b"GET / HTTP/1.1\r\nX-Half: ")  # and never the rest
            await asyncio.sleep(0.05)  # the silent ones are accepted: nothing of that can be seen from here
            reader, writer = await asyncio.open_connection(host, port)
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
            writer.close()
            started = time.monotonic()
            for its_reader, its_writer in silent:
                await its_reader.read()
                its_writer.close()
            assert time.monotonic() - started < 10
            one.close()

            async def served() -> bool:
                async with client.get(f"{url}/events") as again:
                    return again.status == 200

            await until("there is room again", served)

    with_wall(test, tag())


def test_an_address_that_is_taken_is_an_error() -> None:
    """The error names the address and the setting."""

    async def go() -> None:
        async with serving(FakeAsyncFeed()) as (_, url):
            taken = URL(url).port
            assert taken is not None
            with pytest.raises(StartError, match=rf"127\.0\.0\.1:{taken} .*set WORKER_WALL to"):
                async with Wall(FakeAsyncFeed(), HTTPS, FetchPolicy()).listening("127.0.0.1", taken):
                    pass

    asyncio.run(go())
