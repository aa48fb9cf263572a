"""Host name → addresses that may be connected to; cached briefly, never stalled by one slow domain."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from aiohttp.abc import AbstractResolver, ResolveResult

from imgclust.errors import FetchFailed, UrlForbidden

# getaddrinfo blocks for up to 5 s × 2 tries × each name server, and cannot be cancelled: threads that wait
# for a dead domain are lost for that time, so there are more of them than asyncio's own few (cores + 4) …
THREADS = 24
# … and the names of one domain (its last two labels) may hold at most so many of them.
PER_DOMAIN = 4
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


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    addresses: tuple[str, ...]
    error: str | None
    until: float


class CheckedResolver(AbstractResolver):
    """Resolves names for aiohttp and hands on only the addresses that `permitted` accepts.

    Args:
        permitted: whether a socket to an address may be opened.
        lookup: asks the system; blocking, runs in a thread.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        permitted: Callable[[str], bool],
        *,
        lookup: Lookup = system_lookup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._permitted = permitted
        self._lookup = lookup
        self._clock = clock
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="resolve")
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Answer]] = {}
        self._domains: Counter[str] = Counter()

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
                "networks can be allowed by the setting for allowed networks"
            )
        return [_result(host, address, port) for address in allowed]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, host: str) -> _Answer:
        known = self._answers.get(host)
        if known is not None and self._clock() < known.until:
            return known
        task = self._asking.get(host)
        if task is None:
            task = self._asking[host] = asyncio.create_task(self._ask(host))
        # one waiter's time limit must not take the answer from the others
        return await asyncio.shield(task)

    async def _ask(self, host: str) -> _Answer:
        domain = ".".join(host.rstrip(".").rsplit(".", 2)[-2:])
        try:
            if self._domains[domain] >= PER_DOMAIN:
                return _Answer((), f"{PER_DOMAIN} look-ups in its domain are unanswered", 0.0)
            self._domains[domain] += 1
            answer = await self._ask_system(host, domain)
        finally:
            del self._asking[host]
        self._answers[host] = answer
        self._answers.move_to_end(host)
        if len(self._answers) > MAX_NAMES:
            self._answers.popitem(last=False)
        return answer

    async def _ask_system(self, host: str, domain: str) -> _Answer:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host)
            return _Answer(tuple(found), None if found else "no address", self._clock() + KEEP)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            return _Answer((), str(reason), self._clock() + KEEP_FAILED)
        finally:
            self._domains[domain] -= 1
            if not self._domains[domain]:
                del self._domains[domain]


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
