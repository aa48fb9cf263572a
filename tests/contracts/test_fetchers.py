"""What the pipeline relies on in its fetchers: the same tests for the stand-ins and the pool of processes."""

from __future__ import annotations

import io
import ipaddress
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.bypass import SLOW, MemoryPool
from imgclust.fetching.urls import FetchPolicy
from imgclust.types import Pixels, Preprocessing
from tests.support import forked_fetchers
from tests.support.fake_fetchers import FakeFetchers
from tests.support.origin import Origin, Request, response
from tests.support.waiting import wait_for
from worker.fetching.pool import FetcherPool
from worker.fetching.protocol import Decoded, Failed, FetchOutcome, Job

SIDE, SLOTS = 16, 3
BRIGHTNESS = {"/dark.png": 40, "/light.png": 200}


def png(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (brightness,) * 3).save(file, "PNG")
    return file.getvalue()


class Fetchers:
    """One side: what it is given, and what comes back."""

    def __init__(self, make: Callable[[Callable[[list[FetchOutcome]], None]], Any]) -> None:
        self.outcomes: dict[int, FetchOutcome] = {}
        self.twice: list[int] = []
        self.pool = make(self._take)
        self.move: Callable[[], None] = lambda: None
        self.url: Callable[[str], str] = lambda path: f"http://x{path}"
        self.has_own_pictures = True

    def _take(self, outcomes: list[FetchOutcome]) -> None:
        for outcome in outcomes:
            if outcome.token in self.outcomes:
                self.twice.append(outcome.token)
            self.outcomes[outcome.token] = outcome

    def submit(self, tokens: range, path: str = "/dark.png") -> None:
        self.pool.submit([Job(token, self.url(path)) for token in tokens])

    def wait(self, count: int) -> None:
        def enough() -> bool:
            self.move()
            return len(self.outcomes) >= count

        wait_for(f"{count} outcomes", enough)

    def slots(self) -> list[int]:
        return [o.slot for o in self.outcomes.values() if isinstance(o, Decoded)]


def _pictures(url: Callable[[str], str]) -> dict[str, Pixels]:
    return {
        url(path): np.full((SIDE, SIDE, 3), brightness, np.uint8) for path, brightness in BRIGHTNESS.items()
    }


def _real(origin: Origin) -> Fetchers:
    policy = FetchPolicy(
        allow_networks=(ipaddress.ip_network("127.0.0.0/8"),), allow_ports=(origin.port,), per_host=64
    )
    made = Fetchers(
        lambda take: FetcherPool(
            processes=1, slots=SLOTS, preprocessing=Preprocessing(SIDE, SIDE), policy=policy, on_outcomes=take
        )
    )
    made.url = origin.url
    return made


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin({path: response(png(b)) for path, b in BRIGHTNESS.items()}).running() as server:
        yield server


@pytest.fixture(params=["fake", "memory", "real"])
def fetchers(request: pytest.FixtureRequest) -> Iterator[Fetchers]:
    if request.param == "fake":
        made = Fetchers(lambda take: FakeFetchers(SLOTS, SIDE, take))
        made.move = lambda: made.pool.finish(_pictures(made.url))
        yield made
        return
    if request.param == "memory":
        preprocessing = Preprocessing(SIDE, SIDE)
        made = Fetchers(lambda take: MemoryPool(slots=SLOTS, preprocessing=preprocessing, on_outcomes=take))
        made.has_own_pictures = False  # it answers whatever is asked with some picture
    else:
        made = _real(request.getfixturevalue("origin"))
    with forked_fetchers.used():
        made.pool.start()
        yield made
        made.pool.stop(5)


def test_each_job_ends_once_with_its_picture(fetchers: Fetchers) -> None:
    """Under its token, in a slot that holds the picture of its URL."""
    fetchers.submit(range(1, 2), "/dark.png")
    fetchers.submit(range(2, 3), "/light.png")
    fetchers.wait(2)
    for token, path in ((1, "/dark.png"), (2, "/light.png")):
        outcome = fetchers.outcomes[token]
        assert isinstance(outcome, Decoded)
        pixels = fetchers.pool.pixels(outcome.slot)
        assert (pixels.shape, pixels.dtype) == ((SIDE, SIDE, 3), np.uint8)
        if fetchers.has_own_pictures:
            assert np.all(pixels == BRIGHTNESS[path])
    assert fetchers.twice == []
    assert fetchers.pool.slots_used == 2


@pytest.mark.parametrize("fetchers", ["fake", "real"], indirect=True)  # the other fails at nothing
def test_what_cannot_be_had_fails_with_a_code(fetchers: Fetchers) -> None:
    """And holds no slot."""
    fetchers.submit(range(1, 3), "/none.png")
    fetchers.wait(2)
    failures = list(fetchers.outcomes.values())
    assert all(isinstance(f, Failed) and (f.code, f.stage) == ("not-found", "fetch") for f in failures)
    assert fetchers.pool.slots_used == 0


def test_pictures_wait_for_free_slots(fetchers: Fetchers) -> None:
    """No slot holds two pictures; each that is released is used again, until all jobs have ended."""
    fetchers.submit(range(1, 11))
    seen = 0
    while seen < 10:
        fetchers.wait(seen + 1)
        held = [o.slot for o in list(fetchers.outcomes.values())[seen:] if isinstance(o, Decoded)]
        assert len(held) == len(set(held)) <= SLOTS
        seen += len(held)
        fetchers.pool.release(held)
    assert sorted(fetchers.outcomes) == list(range(1, 11))
    assert set(fetchers.slots()) <= set(range(SLOTS))
    assert fetchers.twice == []
    wait_for("all slots are free", lambda: fetchers.pool.slots_used == 0)


def test_the_forgotten_ends_in_silence(fetchers: Fetchers, request: pytest.FixtureRequest) -> None:
    """A job that nobody wants any more has no outcome, and what comes after it is served."""
    release = threading.Event()

    async def late(reader: object, writer: Any, request: Request) -> None:
        import asyncio

        await asyncio.to_thread(release.wait, 30)

    if isinstance(fetchers.pool, FetcherPool):
        origin = request.getfixturevalue("origin")
        origin.paths["/late.png"] = late
        fetchers.submit(range(1, 4), "/late.png")
        wait_for("they are being fetched", lambda: origin.counts["/late.png"] == 3)
    elif isinstance(fetchers.pool, MemoryPool):
        fetchers.pool.submit([Job(token, SLOW + "1.example/") for token in range(1, 4)])
    else:
        fetchers.submit(range(1, 4))
    fetchers.pool.forget(range(1, 4))
    fetchers.submit(range(10, 12))
    fetchers.wait(2)
    release.set()
    assert sorted(fetchers.outcomes) == [10, 11]
