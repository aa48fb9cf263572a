"""Uploads on their way, by the token of their current try and by their id."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from worker.messages.record import Record
from worker.messages.upload import Upload
from worker.telemetry.tracing import UploadTrace


@dataclasses.dataclass(slots=True, eq=False)
class Work:
    """One upload on its way. `token` names the current try; a result with another token is stale.

    Attributes:
        attempts: tries, this one included.
        stored: the retry topic has a record of it.
        deaths: workers that died while it was encoded with nothing beside it.
        not_before: of a retry, milliseconds since the epoch.
        on_end: called when its end is safe, or when it ends without a result.
        trace: when it is traced.
    """

    upload: Upload
    record: Record
    attempts: int = 0
    token: int = 0
    stored: bool = False
    deaths: int = 0
    not_before: int = 0
    on_end: Callable[[], None] | None = None
    trace: UploadTrace | None = None

    @property
    def place(self) -> tuple[int, str]:
        return self.record.partition, self.upload.id

    @property
    def key(self) -> bytes:
        """Of its records."""
        return self.upload.id.encode()


class InFlight:
    """From the moment in which an upload is taken in until it ends or waits for another try.

    At most one of an id in a partition: its last event wins. Events of one id in two partitions, which have
    no order, are two uploads. A token is known while its try is under way.

    Attributes:
        nbytes: of the records' values.
    """

    def __init__(self) -> None:
        self._tokens = itertools.count(1)
        self._by_token: dict[int, Work] = {}
        self._fetching: dict[int, Work] = {}  # by token
        self.nbytes = 0
        self._unwanted: list[int] = []
        self._by_id: dict[tuple[int, str], Work] = {}

    def __len__(self) -> int:
        """Tries that are under way."""
        return len(self._by_token)

    def begin(self, work: Work) -> None:
        self._by_id[work.place] = work
        self.nbytes += len(work.record.value or b"")

    def holds(self, work: Work) -> bool:
        return self._by_id.get(work.place) is work

    def sent(self, work: Work) -> None:
        """A new try is under way."""
        work.token = next(self._tokens)
        work.attempts += 1
        self._by_token[work.token] = self._fetching[work.token] = work

    def fetched(self, token: int) -> Work | None:
        """A fetch has come to an end; None when nobody waits for it any more. From any thread: a fetch ends
        here or is unwanted, never both."""
        return self._fetching.pop(token, None)

    def find(self, token: int) -> Work | None:
        """May be asked from any thread."""
        return self._by_token.get(token)

    def back(self, token: int) -> Work | None:
        """A try has ended; None when nobody waits for it any more."""
        self._fetching.pop(token, None)
        return self._by_token.pop(token, None)

    def end(self, work: Work) -> None:
        del self._by_id[work.place]
        self.nbytes -= len(work.record.value or b"")
        self._by_token.pop(work.token, None)
        if self._fetching.pop(work.token, None) is not None:
            self._unwanted.append(work.token)

    def take_unwanted(self) -> list[int]:
        """Fetches that were under way when their upload ended."""
        tokens, self._unwanted = self._unwanted, []
        return tokens

    def latest(self, partition: int, upload_id: str) -> Work | None:
        return self._by_id.get((partition, upload_id))

    def of(self, partitions: set[int]) -> list[Work]:
        return [work for work in self._by_id.values() if work.record.partition in partitions]

    def any_under_way(self, partitions: set[int]) -> bool:
        return any(work.record.partition in partitions for work in self._by_token.values())
