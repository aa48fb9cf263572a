"""Host name → addresses that may be connected to; cached briefly, never stalled by one slow domain.

`getaddrinfo` blocks for up to 5 s × 2 tries × each name server, and cannot be cancelled: a thread that asks
for a dead domain is lost for that time. So the names of one registrable domain (by the public suffix list:
`a.co.uk` and `b.co.uk` are two) are asked a few at a time, and the others wait in a queue of their own. They
are refused only once that domain has not answered for seconds; then one look-up at a time probes it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import socket
import time
from collections import OrderedDict
from collections.abc import Callable

from aiohttp.abc import AbstractResolver, ResolveResult

from imgclust.errors import FetchFailed, UrlForbidden
from imgclust.fetching.slots import Slots

THREADS = 24  # more than asyncio's own few (cores + 4), as dead domains hold some of them
PER_DOMAIN = 4  # of these, for the names of one registrable domain
SILENCE = 3.0  # seconds without any answer for a domain, after which its queue is refused
KEEP = 60.0  # seconds: shorter than the usual lifetime of a record, so a moved host is found again soon
KEEP_FAILED = 5.0  # seconds: long enough for a burst of uploads that name the same dead host
MAX_NAMES = 4096

Lookup = Callable[[str], list[str]]


def system_lookup(host: str) -> list[str]:
    """Addresses of a host by the system's resolver, in its order.

    Raises:
        OSError: there is no such name, or no answer.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@functools.lru_cache(MAX_NAMES)
def registrable_domain(host: str) -> str:
    """The domain that somebody registered: the public suffix and one label more; else the host itself.

    Only the list's suffixes of registries count, not those of companies that hand out subdomains (the
    list's private part): the names below `cloudfront.net` have the same name servers.
    """
    return _public_suffixes()(host.rstrip(".")) or host


@functools.cache
def _public_suffixes() -> Callable[[str], str | None]:
    from publicsuffixlist import PublicSuffixList  # 50 ms

    split: Callable[[str], str | None] = PublicSuffixList(only_icann=True).privatesuffix
    return split


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    addresses: tuple[str, ...]
    error: str | None
    until: float


@dataclasses.dataclass(slots=True, eq=False)
class _Domain:
    """What is known of the name servers of one domain.

    Attributes:
        asked: look-ups that run now.
        heard: when it last answered, or was first asked since.
        failing: the last look-up ended without an answer.
    """

    asked: int = 0
    heard: float = 0.0
    failing: bool = False
    timer: asyncio.TimerHandle | None = None


class CheckedResolver(AbstractResolver):
    """Resolves names for aiohttp and hands on only the addresses that `permitted` accepts.

    Args:
        permitted: whether a socket to an address may be opened.
        lookup: asks the system; blocking, runs in a thread.
        patience: seconds that a look-up may wait for its turn.
        silence: seconds, see `SILENCE`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        permitted: Callable[[str], bool],
        *,
        lookup: Lookup = system_lookup,
        patience: float = 10.0,
        silence: float = SILENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._permitted = permitted
        self._lookup = lookup
        self._patience, self._silence, self._clock = patience, silence, clock
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="resolve")
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Answer]] = {}
        self._domains: OrderedDict[str, _Domain] = OrderedDict()
        self._slots = Slots(THREADS, self._limit)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host that may be connected to.

        Raises:
            UrlForbidden: it has addresses, but none that may be.
            FetchFailed: it has none, or no name server answered.
        """
        answer = await self._answer(host)
        if answer.error is not None:
            raise FetchFailed(f"the host {host!a} was not found: {answer.error}")
        allowed = [address for address in answer.addresses if self._permitted(address)]
        if not allowed:
            raise UrlForbidden(
                f"the host {host!a} has no public address (it has {', '.join(answer.addresses[:4])}); "
                "if it should be fetched, add its network to WORKER_FETCH_ALLOW_NETWORKS (--allow-network)"
            )
        return [_result(host, address, port) for address in allowed]

    def looks_up(self, host: str) -> bool:
        """Whether a look-up of this host runs or waits: the host itself has not been asked anything then."""
        return host in self._asking

    async def close(self) -> None:
        for domain in self._domains.values():
            if domain.timer is not None:
                domain.timer.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, host: str) -> _Answer:
        known = self._answers.get(host)
        if known is not None and self._clock() < known.until:
            return known
        task = self._asking.get(host)
        if task is None:
            task = self._asking[host] = asyncio.create_task(self._ask(host))
            task.add_done_callback(lambda _: self._asking.pop(host, None))
        # one waiter's time limit must not take the answer from the others
        return await asyncio.shield(task)

    async def _ask(self, host: str) -> _Answer:
        name = registrable_domain(host)
        domain = self._domain(name)
        if self._silent(domain):
            return _Answer((), self._why_silent(name), 0.0)
        try:
            async with asyncio.timeout(self._patience) as turn, self._slots.hold(name):
                turn.reschedule(None)
                answer = await self._ask_system(host, name, domain)
        except TimeoutError:
            return _Answer((), f"no turn within {self._patience:g} s among the names of {name!a}", 0.0)
        except _SilentError as error:
            return _Answer((), str(error), 0.0)
        self._answers[host] = answer
        self._answers.move_to_end(host)
        if len(self._answers) > MAX_NAMES:
            self._answers.popitem(last=False)
        return answer

    async def _ask_system(self, host: str, name: str, domain: _Domain) -> _Answer:
        if not domain.asked and not domain.failing:
            domain.heard = self._clock()
        domain.asked += 1
        if domain.timer is None:
            self._watch(name, domain, self._silence)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host)
            domain.failing = False
            return _Answer(tuple(found), None if found else "no address", self._clock() + KEEP)
        except (OSError, UnicodeError) as error:
            domain.failing = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            reason = getattr(error, "strerror", None) or type(error).__name__
            return _Answer((), str(reason), self._clock() + KEEP_FAILED)
        finally:
            domain.asked -= 1
            if not domain.failing:
                domain.heard = self._clock()

    def _limit(self, name: str) -> int:
        domain = self._domains.get(name)
        return 1 if domain is not None and domain.failing else PER_DOMAIN

    # ── silent domains ───────────────────────────────────────────────────────────────────────────────────

    def _domain(self, name: str) -> _Domain:
        domain = self._domains.setdefault(name, _Domain())
        self._domains.move_to_end(name)
        if len(self._domains) > MAX_NAMES:
            oldest = next(iter(self._domains))
            if not self._domains[oldest].asked:
                del self._domains[oldest]
        return domain

    def _silent(self, domain: _Domain) -> bool:
        return domain.asked > 0 and self._clock() - domain.heard >= self._silence

    def _why_silent(self, name: str) -> str:
        return f"the name servers of {name!a} have not answered for {self._silence:g} s"

    def _watch(self, name: str, domain: _Domain, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        domain.timer = loop.call_later(seconds, self._refuse_if_silent, name, domain)

    def _refuse_if_silent(self, name: str, domain: _Domain) -> None:
        domain.timer = None
        if self._silent(domain):
            self._slots.refuse(name, lambda: _SilentError(self._why_silent(name)))
        if domain.asked:
            self._watch(name, domain, max(self._silence / 10, domain.heard + self._silence - self._clock()))


class _SilentError(Exception):
    """The domain did not answer while a look-up waited for its turn."""


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=family,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST,
    )
