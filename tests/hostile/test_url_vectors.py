"""Nothing in `url_vectors` connects anywhere: as an upload's URL, as a redirect, as a second DNS answer.

A listener waits on all addresses of this machine; its count of connections is the proof.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Iterator

import aiohttp
import pytest

from imgclust.errors import FetchError, FetchFailed, UrlForbidden
from imgclust.fetching.fetcher import Fetcher
from imgclust.fetching.urls import FetchPolicy
from tests.hostile.listener import Listener
from tests.hostile.url_vectors import EVERYTHING, NAMES
from tests.support.origin import Origin, response


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    listening = Listener()
    yield listening
    listening.close()


def lookup(host: str) -> list[str]:
    """The attacker's name server."""
    if host in NAMES:
        return NAMES[host]
    raise OSError(-2, "Name or service not known")


def outcome(url: str, policy: FetchPolicy) -> FetchError | None:
    async def go() -> None:
        async with Fetcher(policy, lookup=lookup) as fetcher:
            await fetcher.fetch(url)

    try:
        asyncio.run(go())
    except FetchError as error:
        return error
    return None


def test_there_are_enough_vectors() -> None:
    """They are all different, and more than the eighty that were promised."""
    assert len(set(EVERYTHING)) == len(EVERYTHING) > 80


def test_the_listener_would_notice(listener: Listener) -> None:
    """An HTTP client without our checks does reach it, by literals and by tricks."""

    async def go() -> None:
        async with aiohttp.ClientSession() as session:
            for url in (f"http://127.0.0.1:{listener.port}/", f"http://１２７.0.0.1:{listener.port}/"):
                async with session.get(url) as answer:
                    assert await answer.read() == b"reached"

    before = listener.accepted
    asyncio.run(go())
    assert listener.accepted > before


@pytest.mark.parametrize("vector", EVERYTHING, ids=ascii)
def test_as_the_url_of_an_upload(listener: Listener, vector: str) -> None:
    """Refused before any connection, with a message that may be shown anywhere."""
    before = listener.accepted
    policy = FetchPolicy(allow_ports=(80, 443, listener.port))
    error = outcome(vector.replace("{port}", str(listener.port)), policy)
    assert isinstance(error, UrlForbidden), error
    assert not error.transient
    assert str(error).isprintable()
    assert len(str(error)) < 400
    assert listener.accepted == before


# what no header can carry cannot come as a redirect
REDIRECTS = [v for v in EVERYTHING if v and not set(v) & set("\r\n\0") and not v.startswith(" ")]
# and these are paths below the first host when they do
RELATIVE = {"127.0.0.1:{port}", "http//127.0.0.1:{port}/", "://127.0.0.1:{port}/"}


@pytest.mark.parametrize("vector", [v for v in REDIRECTS if v not in RELATIVE], ids=ascii)
def test_as_a_redirect(listener: Listener, vector: str) -> None:
    """The first host may be connected to (only its address is allowed); where it points to may not."""
    before = listener.accepted
    target = vector.replace("{port}", str(listener.port))
    location = f"Location: {target}".encode().decode("latin-1")
    with own_address_origin() as origin:
        origin.paths["/go"] = response(b"", "302 Found", location)
        policy = FetchPolicy(
            allow_networks=(ipaddress.ip_network(origin.host),),
            allow_ports=(80, 443, listener.port, origin.port),
        )
        error = outcome(origin.url("/go"), policy)
        assert origin.counts["/go"] == 1
    assert isinstance(error, UrlForbidden | FetchFailed), error
    assert str(error).isprintable()
    assert listener.accepted == before


@contextlib.contextmanager
def own_address_origin() -> Iterator[Origin]:
    try:
        origin = Origin(host="127.0.0.77")
    except OSError:
        pytest.skip("this machine has no loopback address but 127.0.0.1 (macOS)")
    with origin.running():
        yield origin


def test_the_systems_own_resolver_is_checked_too(listener: Listener) -> None:
    """`localhost` as the machine itself resolves it."""

    async def go() -> None:
        async with Fetcher(FetchPolicy(allow_ports=(listener.port,))) as fetcher:
            with pytest.raises(UrlForbidden, match="no public address"):
                await fetcher.fetch(f"http://localhost:{listener.port}/")

    before = listener.accepted
    asyncio.run(go())
    assert listener.accepted == before


def test_a_name_that_answers_differently_the_second_time(listener: Listener) -> None:
    """DNS rebinding: what is connected to is what was checked, and later answers are checked again."""
    answers: list[str] = []

    def rebinding(host: str) -> list[str]:
        answers.append(host)
        return ["192.0.2.1"] if len(answers) == 1 else ["127.0.0.1"]

    async def go() -> None:
        policy = FetchPolicy(
            allow_ports=(listener.port,), allow_networks=(ipaddress.ip_network("192.0.2.0/24"),),
            connect_timeout=0.05,
        )  # fmt: skip
        now = [0.0]
        async with Fetcher(policy, lookup=rebinding, clock=lambda: now[0]) as fetcher:
            for _ in range(3):
                with pytest.raises(FetchError):
                    await fetcher.fetch(f"http://rebind.attacker.example:{listener.port}/")
                now[0] += 3600.0

    before = listener.accepted
    asyncio.run(go())
    assert len(answers) == 3
    assert listener.accepted == before


def test_of_a_mixed_answer_only_the_public_part_is_tried(listener: Listener) -> None:
    """One good address among bad ones does not open the bad ones, not even when the good one is dead."""
    policy = FetchPolicy(
        allow_ports=(listener.port,),
        allow_networks=(ipaddress.ip_network("192.0.2.0/24"),),
        connect_timeout=0.05,
    )

    async def go() -> None:
        mixed = ["127.0.0.1", "192.0.2.1", "::1", "10.0.0.1"]
        async with Fetcher(policy, lookup=lambda host: mixed) as fetcher:
            with pytest.raises(FetchError):
                await fetcher.fetch(f"http://mixed.attacker.example:{listener.port}/")

    before = listener.accepted
    asyncio.run(go())
    assert listener.accepted == before
