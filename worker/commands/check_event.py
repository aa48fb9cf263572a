"""`imgclust-worker check --event`: what the worker would make of an event, before there is a worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imgclust.errors import FetchError
from imgclust.fetching.urls import FetchPolicy, check_url
from worker import wiring
from worker.commands.findings import Finding, report
from worker.commands.output import when
from worker.errors import Rejected, SettingsError
from worker.kafka.scanner import Entry, Scanner
from worker.messages.formats import Formats
from worker.messages.text import readable, wall_ms
from worker.messages.upload import Upload, read_json
from worker.settings.settings import Settings

NEWEST = 10  # events of the topic
MOST_NAMES, DEEPEST = 16, 4  # of an event's fields that are listed


def check_event(settings: Settings, file: Path | None) -> int:
    """Show what would be read from an event, or why it would be a dead letter; nothing is fetched or sent.

    Args:
        file: one event as the uploads topic has it; `-` is standard input. None: the newest ten of the topic.

    Returns:
        The exit code: 0 when every event would be an upload, else 3.

    Raises:
        SettingsError: the file cannot be read.
        WorkerError: Kafka is away, or the schema registry.
    """
    return report(findings(settings, file), ready="ready: the worker reads such events")


def findings(settings: Settings, file: Path | None) -> Iterator[Finding]:
    formats, policy = wiring.formats(settings), wiring.fetch_policy(settings)
    entries = _newest(settings, formats) if file is None else [_sample(settings, file, formats)]
    if not entries:
        what = f"{settings.uploads_topic!r} has no event yet"
        yield Finding("event", False, what, "give a file: check --event sample.json")
    for entry in entries:
        yield _finding(entry, policy)


def _sample(settings: Settings, file: Path, formats: Formats) -> Entry:
    try:
        value = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise SettingsError(f"--event {str(file)!r} cannot be read: {error.strerror}") from None
    return Entry(settings.uploads_topic, -1, 0, wall_ms(), None, value.strip(), {}, formats)


def _newest(settings: Settings, formats: Formats) -> list[Entry]:
    topic = settings.uploads_topic
    with Scanner(wiring.connection(settings), formats=formats) as scanner:
        ends = {p: scanner.bounds(topic, p)[1] for p in scanner.partitions(topic)}
        found = list(scanner.read(topic, {p: max(0, end - NEWEST) for p, end in ends.items()}))
    return sorted(found, key=lambda entry: entry.timestamp)[-NEWEST:]


def _finding(entry: Entry, policy: FetchPolicy) -> Finding:
    what = "event" if entry.partition < 0 else f"event {entry.position}"
    try:
        upload = entry.formats.intake(entry.value, entry.key, entry.timestamp)
        _check_url(upload, policy)
    except Rejected as error:
        return Finding(what, False, f"would be a dead letter, {error.code}: {error}", _advice(entry))
    except FetchError as error:
        advice = (
            "docs/security.md: what may be fetched, and the settings WORKER_FETCH_ALLOW_… that allow more"
        )
        return Finding(what, False, f"would be a dead letter, {error.code}: {error}", advice)
    return Finding(what, True, _described(upload, entry))


def _check_url(upload: Upload, policy: FetchPolicy) -> None:
    """As far as it can be known without asking anybody; a fetch looks at addresses, too."""
    scheme = (upload.url or "").partition(":")[0].lower()
    local = {"file": policy.allow_files is not None, "s3": bool(policy.allow_buckets)}
    if upload.url is not None and not local.get(scheme):
        check_url(upload.url, policy)


def _described(upload: Upload, entry: Entry) -> str:
    parts = [f"id {readable(upload.id)}"]
    if upload.deleted:
        return f"{parts[0]}: a deletion"
    parts.append(f"url {readable(upload.url or '')}")
    parts.append(f"uploaded_at {when(upload.uploaded_at)}")
    if upload.uploaded_at == entry.timestamp:
        parts[-1] += " (the record's time: the event has none)"
    attributes = ", ".join(f"{readable(name)}={readable(str(v))}" for name, v in upload.attributes.items())
    parts.append(f"attributes {attributes or 'none'}")
    return "; ".join(parts)


def _advice(entry: Entry) -> str:
    """What the event has instead, where it is JSON."""
    try:
        names = list(_names(read_json(entry.value or b"")))
    except Rejected:
        return "docs/events.md: formats, and WORKER_UPLOADS_FORMAT"
    shown = ", ".join(readable(name, 60) for name in names[:MOST_NAMES])
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"it has {shown or 'no fields'}{more}; WORKER_UPLOADS_MAP says where fields are (docs/events.md)"


def _names(event: Mapping[str, Any], above: str = "", depth: int = 1) -> Iterator[str]:
    """Paths of an event's values, as a map writes them."""
    for name, value in event.items():
        path = above + (name if name.isidentifier() else f'"{name}"')
        if isinstance(value, dict) and value and depth < DEEPEST:
            yield from _names(value, f"{path}.", depth + 1)
        else:
            yield path
