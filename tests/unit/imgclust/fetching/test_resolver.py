"""`imgclust.fetching.resolver`: names are asked in turn, and one dead domain stalls nobody."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Coroutine

import pytest

from imgclust.errors import FetchFailed, UrlForbidden
from imgclust.fetching.resolver import (
    KEEP,
    KEEP_FAILED,
    PER_DOMAIN,
    THREADS,
    CheckedResolver,
    registrable_domain,
)
from imgclust.fetching.urls import FetchPolicy


class Names:
    """A resolver's answers, and how often each was asked for."""

    def __init__(self, answers: dict[str, list[str] | OSError]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        answer = self.answers[host]
        if isinstance(answer, OSError):
            raise answer
        return answer


def public(address: str) -> bool:
    return FetchPolicy().permits_address(address)


def run(coroutine: Coroutine[object, object, None]) -> None:
    asyncio.run(coroutine)


def test_only_public_addresses_are_handed_on() -> None:
    """Of a mixed answer the public ones are used; of a private one nothing, and the reason is said."""

    async def go() -> None:
        names = Names({"mixed.example": ["127.0.0.1", "8.8.8.8", "::1"], "rebound.example": ["10.0.0.1"]})
        resolver = CheckedResolver(public, lookup=names)
        assert [r["host"] for r in await resolver.resolve("mixed.example", 80)] == ["8.8.8.8"]
        with pytest.raises(UrlForbidden, match=r"no public address \(it has 10\.0\.0\.1\)"):
            await resolver.resolve("rebound.example", 80)
        await resolver.close()

    run(go())


def test_answers_and_failures_are_remembered_for_a_while() -> None:
    """One question per name and lifetime; failures are kept more briefly."""

    async def go() -> None:
        now = [0.0]
        names = Names({"a.example": ["8.8.8.8"], "b.example": OSError(-2, "Name or service not known")})
        resolver = CheckedResolver(public, lookup=names, clock=lambda: now[0])
        for _ in range(3):
            await resolver.resolve("a.example")
            with pytest.raises(FetchFailed, match="Name or service not known"):
                await resolver.resolve("b.example")
        assert names.asked == ["a.example", "b.example"]
        now[0] = KEEP_FAILED
        with pytest.raises(FetchFailed):
            await resolver.resolve("b.example")
        await resolver.resolve("a.example")
        now[0] = KEEP
        await resolver.resolve("a.example")
        assert names.asked == ["a.example", "b.example", "b.example", "a.example"]
        await resolver.close()

    run(go())


def test_waiters_share_a_question_and_survive_each_others_time_limits() -> None:
    """Two ask for one name at once; the first gives up; the second gets the answer of the one question."""

    async def go() -> None:
        gate = threading.Event()
        asked = []

        def lookup(host: str) -> list[str]:
            asked.append(host)
            gate.wait(60)
            return ["8.8.8.8"]

        resolver = CheckedResolver(public, lookup=lookup)
        first = asyncio.create_task(resolver.resolve("a.example"))
        second = asyncio.create_task(resolver.resolve("a.example"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert (await second)[0]["host"] == "8.8.8.8"
        assert asked == ["a.example"]
        await resolver.close()

    run(go())


class Gate:
    """Looks names up once the gate of their domain is open, and counts who asks at the same time."""

    def __init__(self, *closed: str, then: list[str] | OSError | None = None) -> None:
        self.closed = closed
        self.began, self.open = threading.Event(), threading.Event()
        self.then = then or ["8.8.8.8"]
        self.asked: list[str] = []
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, host: str) -> list[str]:
        domain = registrable_domain(host)
        with self._lock:
            self.asked.append(host)
            self.now[domain] += 1
            self.most[domain] = max(self.most[domain], self.now[domain])
        answer: list[str] | OSError = ["8.8.8.8"]
        if domain in self.closed:
            self.began.set()
            assert self.open.wait(30)
            answer = self.then
        with self._lock:
            self.now[domain] -= 1
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("a.b.example.com", "example.com"),
        ("a.example.co.uk", "example.co.uk"),
        ("d111.cloudfront.net", "cloudfront.net"),
        ("b.s3.eu-west-1.amazonaws.com", "amazonaws.com"),
        ("example.com.", "example.com"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
        ("minio.storage.svc.cluster.local", "cluster.local"),
        ("xn--bcher-kva.xn--p1ai", "xn--bcher-kva.xn--p1ai"),
    ],
)
def test_what_was_registered(host: str, domain: str) -> None:
    """By the suffixes of registries; a host without one stands for itself."""
    assert registrable_domain(host) == domain


@pytest.mark.parametrize("pattern", ["h{}.cdn.example", "shop{}.co.uk", "d{}.cloudfront.net"])
def test_many_healthy_names_of_one_suffix_are_all_found(pattern: str) -> None:
    """They wait for their turn, and not one is refused; of one domain a few are asked at once."""

    async def go() -> None:
        gate = Gate("cdn.example", "cloudfront.net")
        resolver = CheckedResolver(public, lookup=gate)
        hosts = [pattern.format(i) for i in range(200)]
        asking = [asyncio.create_task(resolver.resolve(host)) for host in hosts]
        gate.open.set()
        found = await asyncio.gather(*asking)
        assert [answer[0]["host"] for answer in found] == ["8.8.8.8"] * 200
        assert sorted(gate.asked) == sorted(hosts)
        assert max(gate.most.values()) <= PER_DOMAIN
        await resolver.close()

    run(go())


def test_a_dead_domain_stalls_nobody_and_is_refused_after_seconds() -> None:
    """Its names hold a few threads; those that wait are refused once it has been silent, others are found."""

    async def go() -> None:
        gate = Gate("dead.example", then=socket.gaierror(socket.EAI_AGAIN, "Temporary failure"))
        resolver = CheckedResolver(public, lookup=gate, silence=0.2)
        dead = [asyncio.create_task(resolver.resolve(f"h{i}.dead.example")) for i in range(100)]
        others = [f"www.shop{i}.co.uk" for i in range(3 * THREADS)]
        assert len(await asyncio.gather(*map(resolver.resolve, others))) == len(others)
        done, waiting = await asyncio.wait(dead, return_when=asyncio.FIRST_EXCEPTION)
        assert gate.most["dead.example"] == PER_DOMAIN
        assert len(waiting) == PER_DOMAIN
        assert all("'dead.example' have not answered for 0.2 s" in str(task.exception()) for task in done)
        with pytest.raises(FetchFailed, match="have not answered"):  # at once, and no thread is lost to it
            await resolver.resolve("late.dead.example")
        gate.open.set()
        with pytest.raises(FetchFailed, match="Temporary failure"):
            await asyncio.gather(*waiting)
        await resolver.close()

    run(go())


def test_a_domain_that_failed_is_probed_by_one_and_recovers() -> None:
    """After a look-up without an answer one at a time is asked; the first answer ends that."""

    async def go() -> None:
        gate = Gate("flaky.example", then=socket.gaierror(socket.EAI_AGAIN, "Temporary failure"))
        gate.open.set()
        resolver = CheckedResolver(public, lookup=gate)
        with pytest.raises(FetchFailed, match="Temporary failure"):
            await resolver.resolve("a.flaky.example")
        gate.most.clear()
        gate.then = ["8.8.8.8"]
        gate.open.clear()
        gate.began.clear()
        asking = [asyncio.create_task(resolver.resolve(f"h{i}.flaky.example")) for i in range(20)]
        await asyncio.to_thread(gate.began.wait, 30)
        assert gate.now["flaky.example"] == 1
        gate.open.set()
        assert len(await asyncio.gather(*asking)) == 20
        await resolver.close()

    run(go())


def test_a_look_up_that_gets_no_turn_in_time_ends() -> None:
    """The queue holds nobody longer than a fetch may take."""

    async def go() -> None:
        gate = Gate("slow.example")
        resolver = CheckedResolver(public, lookup=gate, patience=0.1, silence=60)
        first = [asyncio.create_task(resolver.resolve(f"h{i}.slow.example")) for i in range(PER_DOMAIN)]
        with pytest.raises(FetchFailed, match=r"no turn within 0\.1 s"):
            await asyncio.gather(*first, resolver.resolve("late.slow.example"))
        assert resolver.looks_up("h0.slow.example")
        assert not resolver.looks_up("late.slow.example")
        gate.open.set()
        await asyncio.gather(*first)
        assert "late.slow.example" not in gate.asked
        await resolver.close()

    run(go())
