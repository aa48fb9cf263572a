"""The history of one id: what the four topics have of it, and what became of each of its events."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable, Mapping

import orjson

from worker.commands.dead_letters import read_dead_letter, upload_of
from worker.commands.output import watching, when
from worker.errors import WorkerError
from worker.kafka.offsets import decode_done
from worker.kafka.scanner import Entry, Scanner
from worker.messages.headers import SourcePosition, replay_of
from worker.messages.mapping import plain_json
from worker.settings.settings import Settings

Fields = dict[str, object]


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """Everything that the topics have of one id, each list in the order of its topic."""

    events: list[Entry]
    tags: list[Entry]
    retries: list[Entry]
    letters: list[Entry]
    committed: Mapping[int, tuple[int, str]]
    trouble: str | None = None  # why `committed` is empty, where it should not be

    @property
    def nothing(self) -> bool:
        return not (self.events or self.tags or self.retries or self.letters)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────


def look(scanner: Scanner, settings: Settings, upload_id: str, since: float | None = None) -> Found:
    """Search the four topics."""
    name = upload_id.encode("utf-8", "surrogatepass")

    def keyed(topic: str) -> list[Entry]:
        with watching(f"reading {topic}") as progress:
            starts = dict.fromkeys(scanner.partitions(topic), 0)
            return list(scanner.read(topic, starts, wanted=lambda key, _: key == name, progress=progress))

    tags, retries = keyed(settings.tags_topic), keyed(settings.retry_topic)
    letters = keyed(settings.dlq_topic)
    events = _events(scanner, settings, upload_id, since)
    known = [source for entry in (*tags, *retries, *letters) if (source := entry.source) is not None]
    partitions = {source.partition for source in known} | {entry.partition for entry in events}
    trouble = None
    committed: dict[int, tuple[int, str]] = {}
    try:
        committed = scanner.committed(settings.uploads_topic, partitions) if partitions else {}
    except WorkerError as error:
        trouble = str(error)
    return Found(events, tags, retries, letters, committed, trouble)


def _events(scanner: Scanner, settings: Settings, upload_id: str, since: float | None) -> list[Entry]:
    topic = settings.uploads_topic
    partitions = scanner.partitions(topic)
    starts = dict.fromkeys(partitions, 0)
    if since is not None:
        starts = scanner.offsets_at(topic, partitions, int((time.time() - since) * 1000))
    # JSON may write an id in several ways; those without escapes are found without reading all events
    plain = orjson.dumps(upload_id)[1:-1] if upload_id.isprintable() else b""
    name = upload_id.encode("utf-8", "surrogatepass")

    def wanted(key: bytes | None, value: bytes | None) -> bool:
        if scanner.formats.intake is not plain_json:  # its id may be anywhere and in any form
            return True
        return key == name or (value is not None and (plain in value or b"\\" in value))

    with watching(f"reading {topic}") as progress:
        candidates = scanner.read(topic, starts, wanted=wanted, progress=progress)
        return [e for e in candidates if (upload := upload_of(e)) is not None and upload.id == upload_id]


# ── outcomes ─────────────────────────────────────────────────────────────────────────────────────────────


def outcomes(found: Found, now_ms: int) -> list[Fields]:
    """What became of each event, in the order of the log; of events that are gone from it, their results."""
    sources: dict[tuple[int, int], int] = {(e.partition, e.offset): e.timestamp for e in found.events}
    for entry in (*found.tags, *found.letters, *found.retries):
        if (source := entry.source) is not None:
            sources.setdefault((source.partition, source.offset), source.timestamp)
    places = [SourcePosition(p, o, t) for (p, o), t in sources.items()]
    places.sort(key=lambda s: (s.partition, s.offset))
    kinds = {(e.partition, e.offset): _kind(e) for e in found.events}
    return [
        {
            "event": place.position,
            "sent": when(place.timestamp),
            "kind": kinds.get((place.partition, place.offset), "no longer in the uploads topic"),
            **_outcome(found, place, places, now_ms),
        }
        for place in places
    ]


def _kind(entry: Entry) -> str:
    upload = upload_of(entry)
    what = "deletion" if upload is not None and upload.deleted else "upload"
    return f"{what}, replay of dead letter {entry.headers['replay-of']}" if _replayed(entry) else what


def _replayed(entry: Entry) -> bool:
    return replay_of(entry.headers) is not None


def _of(entries: Iterable[Entry], place: SourcePosition) -> list[Entry]:
    found = []
    for entry in entries:
        source = entry.source
        if source is not None and (source.partition, source.offset) == (place.partition, place.offset):
            found.append(entry)
    return found


def _outcome(found: Found, place: SourcePosition, places: Collection[SourcePosition], now_ms: int) -> Fields:
    if tags := _of(found.tags, place):
        return _tagged(tags[-1])
    if letters := _of(found.letters, place):
        letter = read_dead_letter(letters[-1])
        return {
            "outcome": "dead",
            "why": f"{letter.code} at {letter.stage}: {letter.message}",
            "letter": letters[-1].position,
            "attempts": letter.attempts,
        }
    if found.retries and found.retries[-1].value is not None and _of(found.retries[-1:], place):
        return _pending(found.retries[-1], now_ms)
    return _without_result(found, place, places)


def _tagged(entry: Entry) -> Fields:
    if entry.value is None:
        return {"outcome": "deleted", "tag": entry.position}
    try:
        tag = entry.formats.tags.read(entry.value)
    except ValueError as error:
        return {"outcome": "tagged", "tag": entry.position, "why": str(error)}
    return {
        "outcome": "tagged",
        "tag": entry.position,
        "cluster": tag.cluster,
        "name": tag.name,
        "probability": tag.probability,
        "model": tag.model,
        "tagged_at": when(tag.tagged_at),
    }


def _pending(entry: Entry, now_ms: int) -> Fields:
    headers = entry.headers
    due = int(headers["not-before"]) if headers.get("not-before", "").isdecimal() else None
    return {
        "outcome": "pending retry",
        "why": f"{headers.get('error-code', '?')} in try {headers.get('attempt', '?')}",
        "due": None if due is None else when(due),
        "due_in_seconds": None if due is None else round((due - now_ms) / 1000, 1),
    }


def _without_result(found: Found, place: SourcePosition, places: Collection[SourcePosition]) -> Fields:
    later = [other for other in places if place.earlier_than(other)]
    position, metadata = found.committed.get(place.partition, (None, ""))
    if position is None:
        why = found.trouble or "the group has committed nothing for this partition"
        return {"outcome": "superseded" if later else "waiting", "why": why}
    done = place.offset < position or place.offset in decode_done(position, metadata)
    if not done:
        behind = place.offset - position
        return {
            "outcome": "waiting",
            "why": f"not read yet, or in flight: the group is done up to {place.partition}:{position}, "
            f"{behind:,} before it",
        }
    if later:
        return {
            "outcome": "superseded",
            "why": f"by the later event {later[-1].position}, before it had a result or by its result "
            "(tags is compacted)",
        }
    return {
        "outcome": "done, without a trace",
        "why": "its result is gone from the topics (retention), or the group began after it (WORKER_START)",
    }
