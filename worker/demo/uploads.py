"""What the demo sends, what it expects of each upload, and whether that is what came back. Pure.

An upload is known by its position in the uploads topic (partition, offset), which every result names in its
headers; so also an event without an id is accounted for.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

from worker.messages.tag import Tag
from worker.messages.text import printable

TAGGED, DELETED, SUPERSEDED = "tagged", "deleted", "superseded"
CALM_SHARE = 0.05  # of the uploads: sent one after another at the end, so that none waits for another
MAX_CALM = 50
SHOWN = 8  # problems that are written out

Position = tuple[int, int]  # partition and offset in the uploads topic


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One record for the uploads topic.

    Attributes:
        key: of the record, also what decides its partition.
        value: the record's value; None deletes the upload.
        expected: how it has to end: `TAGGED`, `DELETED`, `SUPERSEDED`, or the error code of its dead letter.
            One that is `SUPERSEDED` is superseded by the next event.
        image: the number of its picture; None where there is no good one.
        after: the number of an event that has to have ended before this one is sent.
        calm: sent alone, so that its latency is that of an idle worker.
    """

    key: str
    value: bytes | None
    expected: str = TAGGED
    image: int | None = None
    after: int | None = None
    calm: bool = False


def upload(name: str, url: object, **more: object) -> bytes:
    return json.dumps({"id": name, "url": url, **more}).encode()


def broken_events(broken_url: Callable[[str], str]) -> list[Event]:
    """The uploads that must not become tags, each with the code that its dead letter has to carry."""
    urls = {
        "missing": (broken_url("missing"), "not-found"),
        "server-error": (broken_url("error"), "fetch-failed"),
        "truncated": (broken_url("truncated"), "decode-failed"),
        "text-as-jpg": (broken_url("text"), "unsupported-format"),
        "too-many-pixels": (broken_url("huge"), "too-many-pixels"),
        "too-long": (broken_url("long"), "too-large"),
        "metadata-service": ("http://169.254.169.254/latest/meta-data/", "url-forbidden"),
        "local-file": ("file:///etc/passwd", "url-forbidden"),
    }
    events = [Event(name, upload(name, url), code) for name, (url, code) in urls.items()]
    no_url = json.dumps({"id": "no-url", "attributes": {}}).encode()
    return [
        *events,
        Event("not-json", b"{this is not JSON", "bad-event"),
        Event("no-url", no_url, "bad-event"),
    ]


def plan(
    images: int, uploads: int, url: Callable[[int], str], broken_url: Callable[[str], str], seed: int = 0
) -> list[Event]:
    """All events in the order in which they are sent.

    Args:
        images: pictures that there are, at least 1.
        uploads: good uploads at least; every picture is sent at least once.
        url, broken_url: of the image server.
        seed: of the order.
    """
    shuffle = random.Random(seed)  # noqa: S311
    uploads = max(uploads, images)
    numbers: list[int] = []
    while len(numbers) < uploads:
        numbers += shuffle.sample(range(images), images)
    calm = min(MAX_CALM, round(uploads * CALM_SHARE))
    events = [
        Event(
            f"upload-{i:06d}", upload(f"upload-{i:06d}", url(number)), image=number, calm=i >= uploads - calm
        )
        for i, number in enumerate(numbers[:uploads])
    ]
    return _sprinkled(events, uploads - calm, broken_url)


def _sprinkled(good: list[Event], busy: int, broken_url: Callable[[str], str]) -> list[Event]:
    """Broken and special events between the first `busy` good ones, evenly."""
    twice = [
        Event("twice", upload("twice", broken_url("slow")), SUPERSEDED),
        Event("twice", upload("twice", broken_url("after-slow")), image=0),
    ]
    gone = Event(
        "gone", good[0].value and upload("gone", json.loads(good[0].value)["url"]), image=good[0].image
    )
    groups = [twice, [gone], *([event] for event in broken_events(broken_url))]
    events: list[Event] = []
    before = 0
    for number, group in enumerate(groups, 1):
        until = busy * number // (len(groups) + 1)
        events += [*good[before:until], *group]
        before = until
    events += good[before:busy]
    events.append(Event("gone", None, DELETED, after=events.index(gone)))
    return events + good[busy:]


@dataclasses.dataclass(frozen=True, slots=True)
class UploadResult:
    """One record of the tags or the dead letters topic.

    Attributes:
        outcome: `TAGGED`, `DELETED`, or the error code of a dead letter.
        seconds: from the upload's record to this one.
        tag: of a tagged upload.
        message: the reason that a dead letter carries.
        value: the record's value.
    """

    outcome: str
    seconds: float
    value: bytes | None
    tag: Tag | None = None
    message: str = ""


class Ledger:
    """Which events were sent, how each ended, and what is wrong with that.

    Sending and results may be reported in any order: a result can be read before its upload is acknowledged.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.results: dict[int, UploadResult] = {}  # by the event's number
        self.repeated = 0  # equal results that came once more, which at-least-once delivery allows
        self._numbers: dict[Position, int] = {}
        self._early: dict[Position, list[UploadResult]] = {}
        self._wrong: list[str] = []
        self.calm = sum(event.calm for event in events)
        self._to_be_superseded = [n for n, event in enumerate(events) if event.expected == SUPERSEDED]

    def sent(self, number: int, position: Position) -> None:
        """Kafka has taken event `number`."""
        self._numbers[position] = number
        for result in self._early.pop(position, ()):
            self._take(number, result)

    def ended(self, position: Position, result: UploadResult) -> None:
        """A result for the upload at `position` was read."""
        number = self._numbers.get(position)
        if number is None:
            self._early.setdefault(position, []).append(result)
        else:
            self._take(number, result)

    def _take(self, number: int, result: UploadResult) -> None:
        known = self.results.setdefault(number, result)
        if known is result:
            return
        self.repeated += 1
        if not _equal(known, result):
            self._wrong.append(f"{self._named(number)} ended twice: {known.outcome}, then {result.outcome}")

    def is_done(self, number: int) -> bool:
        """Whether an event has ended: by its result, or by that of the event that supersedes it."""
        return number in self.results or (
            self.events[number].expected == SUPERSEDED and number + 1 in self.results
        )

    @property
    def is_calm(self) -> bool:
        """Whether only those are left that are sent alone, whose rate says nothing."""
        return 0 < len(self.events) - self.done <= self.calm

    @property
    def done(self) -> int:
        """Events that have ended."""
        superseded = sum(n not in self.results and n + 1 in self.results for n in self._to_be_superseded)
        return len(self.results) + superseded

    @property
    def complete(self) -> bool:
        return self.done == len(self.events)

    def outcomes(self) -> Counter[str]:
        """How many ended how."""
        return Counter(result.outcome for result in self.results.values())

    def problems(self) -> list[str]:
        """Everything that is not as expected, one sentence each; a few of many."""
        found = list(self._wrong)
        if self._early:
            found.append(f"{len(self._early)} results belong to no upload of this run")
        for number, event in enumerate(self.events):
            result = self.results.get(number)
            if result is not None and result.outcome != event.expected:
                found.append(
                    f"{self._named(number)} should have ended as {event.expected}, "
                    f"and ended as {result.outcome} {result.message}".rstrip()
                )
            elif (
                result is not None and result.outcome not in (TAGGED, DELETED) and result.value != event.value
            ):
                found.append(f"the dead letter of {self._named(number)} is not the upload, byte for byte")
            elif not self.is_done(number):
                found.append(f"{self._named(number)} is missing: expected as {event.expected}")
        return found if len(found) <= SHOWN else [*found[:SHOWN], f"… and {len(found) - SHOWN} more"]

    def _named(self, number: int) -> str:
        return f"upload {printable(self.events[number].key)}"

    def latencies(self, *, calm: bool) -> list[float]:
        """Seconds of the tagged uploads, of those sent alone or of the others, ascending."""
        return sorted(
            result.seconds
            for number, result in self.results.items()
            if result.outcome == TAGGED and self.events[number].calm == calm
        )

    def tags(self) -> dict[str, Tag]:
        """What a reader of the tags topic knows in the end: id → tag, without deleted uploads."""
        known: dict[str, Tag] = {}
        for number in sorted(self.results):
            result = self.results[number]
            if result.tag is not None:
                known[result.tag.id] = result.tag
            elif result.outcome == DELETED:
                known.pop(self.events[number].key, None)
        return known

    def ids(self) -> list[str]:
        """The ids of all uploads that could have a tag."""
        return list(dict.fromkeys(event.key for event in self.events))

    def clusters(self) -> Counter[tuple[int, str | None]]:
        """(cluster, name) → tags."""
        return Counter((r.tag.cluster, r.tag.name) for r in self.results.values() if r.tag is not None)

    def labels(self) -> dict[int, int]:
        """Picture → cluster, by its first tag."""
        found: dict[int, int] = {}
        for number in sorted(self.results):
            tag, image = self.results[number].tag, self.events[number].image
            if tag is not None and image is not None:
                found.setdefault(image, tag.cluster)
        return found


def _equal(one: UploadResult, other: UploadResult) -> bool:
    """Two tags are equal when all but `tagged_at` is."""
    if one.tag is None or other.tag is None:
        return (one.outcome, one.value) == (other.outcome, other.value)
    return one.tag == dataclasses.replace(other.tag, tagged_at=one.tag.tagged_at)


def percentile(ascending: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; NaN of nothing."""
    if not ascending:
        return float("nan")
    return ascending[min(len(ascending) - 1, max(0, math.ceil(share * len(ascending)) - 1))]
