"""The history of every upload → what is wrong with it. Pure: knows neither Kafka nor Redis.

Given are all events that were sent, and all that is there at the end: the records of tags and dead letters
as `read_committed` readers see them, what is still pending, and the view. Each event must have ended exactly
once: as a tag, a deletion, a dead letter, or superseded by a later event of its id. Superseding leaves no
trace, so an event without a result counts as superseded when a later event of its id was sent, and as lost
when it is the last one.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

Position = tuple[int, int]
"""(partition, offset)"""

# Records of two topics can be ordered by their timestamps only. They are those of `produce`, in milliseconds.
CLOCK_MS = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One event that was sent, and how it may end.

    Attributes:
        number: of the event; the tag carries it.
        cluster: that its picture belongs to; None when it may not be tagged.
        deletion: whether it deletes its id.
        codes: with which it may become a dead letter.
    """

    number: int
    id: str
    partition: int
    offset: int
    cluster: int | None = None
    deletion: bool = False
    codes: frozenset[str] = frozenset()

    @property
    def position(self) -> Position:
        return self.partition, self.offset


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """One record of tags or of the dead letters.

    Attributes:
        source: what its headers name.
        at: its timestamp in ms.
        code: of a dead letter; None in tags.
        value: of a tag; None for a deletion and for dead letters.
        number, cluster: what the tag says.
    """

    id: str
    partition: int
    offset: int
    source: Position | None
    at: int = 0
    code: str | None = None
    value: bytes | None = None
    number: int | None = None
    cluster: int | None = None

    @property
    def kind(self) -> str:
        return "dead" if self.code is not None else "deleted" if self.value is None else "tagged"

    @property
    def where(self) -> str:
        return f"{'dead letter' if self.code is not None else 'tags'} {self.partition}:{self.offset}"


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """What the view has of an id: its position in tags, and the tag, None for a deleted one."""

    position: Position
    tag: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """All that was sent and all that came of it.

    Attributes:
        pending: ids whose last record in the retry topic is not null.
        view: None when the run had none.
    """

    events: Sequence[Event]
    results: Sequence[Published]
    pending: frozenset[str] = frozenset()
    view: Mapping[str, Shown] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `kind` is duplicate, lost, order or wrong."""

    kind: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """How the events ended; `sent` is the sum of the first five."""

    sent: int
    tagged: int
    deleted: int
    dead: int
    superseded: int
    duplicates: int
    lost: int
    out_of_order: int
    wrong: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.findings

    def lines(self) -> list[str]:
        """The counts, one a line, in the order in which they are always printed."""
        return [
            f"{field.name.replace('_', ' '):<13}{getattr(self, field.name):>9,}"
            for field in dataclasses.fields(self)
            if field.name != "findings"
        ]


def check(history: History) -> Verdict:
    """Judge a history; the report lists all that is wrong with it."""
    ended: Counter[str] = Counter()
    findings: list[Finding] = []
    events = {event.position: event for event in history.events}
    results: dict[Position, list[Published]] = defaultdict(list)
    for result in history.results:
        if result.source is None or result.source not in events:
            findings.append(Finding("wrong", f"{result.where} is of no event: source {result.source}"))
        else:
            results[result.source].append(result)
            findings += _unfitting(events[result.source], result)
    by_id: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(history.events, key=lambda e: e.position):
        by_id[event.id].append(event)
    for its_events in by_id.values():
        for event in its_events:
            of_event = results.get(event.position, [])
            ended[_end_of(event, of_event, last=event is its_events[-1])] += 1
            findings += _repeated(event, of_event)
            if not of_event and event is its_events[-1]:
                findings.append(Finding("lost", f"{_named(event)} has no result"))
        findings += _out_of_order([r for event in its_events for r in results.get(event.position, [])])
    findings += [Finding("wrong", f"{i!a} is still pending") for i in sorted(history.pending)]
    if history.view is not None:
        findings += _view(history.results, history.view)
    kinds = Counter(finding.kind for finding in findings)
    return Verdict(
        len(history.events),
        ended["tagged"],
        ended["deleted"],
        ended["dead"],
        ended["superseded"],
        kinds["duplicate"],
        ended["lost"],
        kinds["order"],
        kinds["wrong"],
        tuple(findings),
    )


def _named(event: Event) -> str:
    return f"event {event.number} of {event.id!a} at {event.partition}:{event.offset}"


def _end_of(event: Event, results: Sequence[Published], *, last: bool) -> str:
    if results:
        return results[0].kind
    return "lost" if last else "superseded"


def _repeated(event: Event, results: Sequence[Published]) -> Iterable[Finding]:
    for again in results[1:]:
        yield Finding("duplicate", f"{_named(event)} has {results[0].where} and {again.where}")


def _unfitting(event: Event, result: Published) -> Iterable[Finding]:
    """What a result says that is not of its event."""

    def wrong(what: str) -> Finding:
        return Finding("wrong", f"{result.where} of {_named(event)}: {what}")

    if result.id != event.id:
        yield wrong(f"its key is {result.id!a}")
    if result.partition != event.partition:
        yield wrong("it is in another partition than its source")
    if result.kind == "dead":
        if result.code not in event.codes:
            yield wrong(f"a dead letter with {result.code}, may be {sorted(event.codes)}")
    elif result.kind == "deleted":
        if not event.deletion:
            yield wrong("a deletion, where none was asked for")
    elif event.cluster is None:
        yield wrong("a tag, where none can be")
    elif (result.number, result.cluster) != (event.number, event.cluster):
        yield wrong(f"a tag of event {result.number}, cluster {result.cluster}, not of {event.cluster}")


def _out_of_order(results: Sequence[Published]) -> Iterable[Finding]:
    """Results of one id that come after those of a later event of it."""
    for kind in (True, False):  # within a topic the log's own order decides
        latest: Published | None = None
        of_topic = [r for r in results if (r.code is None) is kind]
        for result in sorted(of_topic, key=lambda r: (r.partition, r.offset)):
            if latest is not None and _source(result) < _source(latest):
                yield Finding("order", f"{result.where}, of {_source(result)}, follows {latest.where}")
            elif latest is None or _source(result) > _source(latest):
                latest = result
    for earlier in results:
        for later in results:
            across = (earlier.code is None) is not (later.code is None)
            if across and _source(earlier) < _source(later) and earlier.at > later.at + CLOCK_MS:
                yield Finding(
                    "order", f"{earlier.where} was made {earlier.at - later.at} ms after {later.where}"
                )


def _source(result: Published) -> Position:
    assert result.source is not None
    return result.source


def _view(results: Iterable[Published], view: Mapping[str, Shown]) -> Iterable[Finding]:
    """The view shows the last record of each id in tags, and nothing else."""
    last: dict[str, Published] = {}
    for result in results:
        if result.code is None:
            known = last.get(result.id)
            if known is None or (known.partition, known.offset) < (result.partition, result.offset):
                last[result.id] = result
    for upload_id, result in last.items():
        shown = view.get(upload_id)
        if shown is None:
            yield Finding("wrong", f"the view lacks {upload_id!a}: {result.where}")
        elif shown.position != (result.partition, result.offset):
            yield Finding("wrong", f"the view has {upload_id!a} at {shown.position}, last is {result.where}")
        elif shown.tag != result.value:
            yield Finding("wrong", f"the view shows another tag of {upload_id!a} than {result.where}")
    for upload_id in view.keys() - last.keys():
        yield Finding("wrong", f"the view shows {upload_id!a}, which tags does not have")
