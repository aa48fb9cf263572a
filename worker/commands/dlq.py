"""`imgclust-worker dlq list` and `dlq replay`: look at dead letters, send their uploads back."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from confluent_kafka import KafkaError, KafkaException, Producer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.commands.dead_letters import (
    Filter,
    LaterEvents,
    Letter,
    read_letter,
    reason_to_skip,
    upload_of,
    value_to_send,
)
from worker.errors import SettingsError, WorkerError
from worker.kafka import topics
from worker.kafka.reading import client_log
from worker.kafka.scanner import Entry, Progress, Scanner, Source, key_text, source_of
from worker.messages.formats import formats
from worker.messages.upload import MIN_TIME_MS, format_time, printable
from worker.settings.load import Settings

SHOWN = 50  # letters in a table
ASK_ABOVE = 20  # more uploads than this are sent only after a question
SEND_TIMEOUT = 30.0


def list_letters(
    settings: Settings,
    chosen: Filter,
    *,
    counts: bool = False,
    limit: int | None = None,
    as_json: bool | None = None,
    out: TextIO | None = None,
) -> int:
    """Show dead letters: the newest as a table on a terminal, all as JSON lines elsewhere.

    Args:
        counts: only how many there are of each error code.
        limit: of letters shown, the newest.
        as_json: None: by whether `out` is a terminal.

    Returns:
        The exit code, 0.

    Raises:
        WorkerError: Kafka is away, or does not let us read.
    """
    out = out or sys.stdout
    as_json = not out.isatty() if as_json is None else as_json
    keep = limit or (None if as_json else SHOWN)
    tally = Tally()
    newest: deque[Letter] = deque(maxlen=keep)
    with Scanner(topics.connection(settings), formats=formats(settings)) as scanner:
        for letter in tally.watch(letters(scanner, settings, chosen)):
            if counts:
                continue
            if as_json and limit is None:
                print(_json(letter_fields(letter)), file=out)
            else:
                newest.append(letter)
    if as_json:
        for fields in tally.rows() if counts else (letter_fields(letter) for letter in newest):
            print(_json(fields), file=out)
        return 0
    console = Console(file=out, highlight=False, soft_wrap=True)
    if newest:
        console.print(_letters_table(newest))
    if tally.total > len(newest) > 0:
        console.print(f"the newest {len(newest)} of {tally.total:,}; --limit shows more, --json all")
    _print_tally(console, settings, tally)
    return 0


def letters(scanner: Scanner, settings: Settings, chosen: Filter) -> Iterator[Letter]:
    """The letters that `chosen` takes, in the order of each partition."""
    now = time.time_ns() // 1_000_000
    for entry in _all_letters(scanner, settings, chosen):
        letter = read_letter(entry)
        if chosen.takes(letter, now):
            yield letter


def _all_letters(scanner: Scanner, settings: Settings, chosen: Filter) -> Iterator[Entry]:
    topic = settings.dlq_topic
    there = scanner.partitions(topic)
    missing = chosen.partitions - set(there)
    if missing:
        raise SettingsError(
            f"{topic!r} has no partition {min(missing)}; it has 0 to {there[-1]}"
        )  # an argument, in truth
    wanted = [p for p in there if not chosen.partitions or p in chosen.partitions]
    with watching(f"reading {topic}") as progress:
        yield from scanner.read(topic, dict.fromkeys(wanted, 0), progress=progress)


class Tally:
    """Counts letters by code as they pass, and when the first and the last were written."""

    def __init__(self) -> None:
        self._codes: Counter[str] = Counter()
        self._partitions: dict[str, set[int]] = {}
        self._span: dict[str, tuple[int, int]] = {}

    @property
    def total(self) -> int:
        return self._codes.total()

    def watch(self, passing: Iterator[Letter]) -> Iterator[Letter]:
        for letter in passing:
            code, at = letter.code, letter.entry.timestamp
            self._codes[code] += 1
            self._partitions.setdefault(code, set()).add(letter.entry.partition)
            first, last = self._span.get(code, (at, at))
            self._span[code] = min(first, at), max(last, at)
            yield letter

    def rows(self) -> Iterator[dict[str, object]]:
        for code, count in self._codes.most_common():
            first, last = self._span[code]
            yield {
                "code": code,
                "letters": count,
                "partitions": sorted(self._partitions[code]),
                "first": when(first),
                "last": when(last),
            }


def letter_fields(letter: Letter) -> dict[str, object]:
    """A letter for machines."""
    entry, source = letter.entry, letter.source
    return {
        "partition": entry.partition,
        "offset": entry.offset,
        "written": when(entry.timestamp),
        "id": letter.id,
        "code": letter.code,
        "stage": letter.stage,
        "message": letter.message,
        "attempts": int(letter.attempts) if letter.attempts.isdecimal() else None,
        "model": letter.model,
        "source": None
        if source is None
        else {"partition": source.partition, "offset": source.offset, "timestamp": when(source.timestamp)},
        "key": _bytes(entry.key),
        "value": _bytes(entry.value),
    }


def _bytes(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _json(fields: Mapping[str, object]) -> str:
    """One line of ASCII: what is in it may come from a stranger, and may end up on a terminal."""
    return json.dumps(fields, ensure_ascii=True)


def when(ms: int) -> str:
    """A record's timestamp as text; producers choose it, so it may lie outside of the calendar."""
    return format_time(ms) if MIN_TIME_MS <= ms < 253_402_300_800_000 else str(ms)


def name_of(letter: Letter) -> str:
    """The letter's id, or its key where it has none; safe to show."""
    return key_text(letter.entry) if letter.id is None else printable(letter.id, 300)[1:-1]


def _letters_table(shown: deque[Letter]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("letter", "written", "id", "code", "tries", "why"):
        table.add_column(title, no_wrap=title != "why", overflow="ellipsis" if title == "id" else "fold")
    for letter in shown:
        cells = (
            letter.entry.position,
            when(letter.entry.timestamp)[:19],
            name_of(letter),
            printable(letter.code)[1:-1],
            printable(letter.attempts, 12)[1:-1],
            printable(letter.message, 300)[1:-1],
        )
        table.add_row(*map(Text, cells))
    return table


def _print_tally(console: Console, settings: Settings, tally: Tally) -> None:
    if not tally.total:
        console.print(f"no such dead letters in {settings.dlq_topic!r}", markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("code", "letters", "first", "last"):
        table.add_column(title, justify="right" if title == "letters" else "left")
    for row in tally.rows():
        code, count = printable(row["code"])[1:-1], f"{row['letters']:,}"
        table.add_row(*map(Text, (code, count, str(row["first"])[:19], str(row["last"])[:19])))
    console.print(table)
    console.print(f"{tally.total:,} in all")


@contextlib.contextmanager
def watching(what: str) -> Iterator[Progress | None]:
    """How far a long read is, on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with Console(stderr=True).status(what) as status:
        yield lambda done, total: status.update(f"{what}: {done:,} of {total:,}")


# ── replay ───────────────────────────────────────────────────────────────────────────────────────────────


def replay(
    settings: Settings,
    chosen: Filter,
    *,
    dry_run: bool = False,
    yes: bool = False,
    as_json: bool | None = None,
    out: TextIO | None = None,
) -> int:
    """Send the uploads of dead letters to the uploads topic again, each with the header `replay-of`.

    Left out, and listed with the reason, is every letter whose id has had a later event: sent again, the old
    one would win over the new one. So a second replay of the same letters sends nothing. Letters without a
    readable id are sent only when their code (`bad-event`) is asked for by name.

    Returns:
        The exit code: 0; 2 when it would send more than 20, was not told `yes`, and has nobody to ask.

    Raises:
        WorkerError: Kafka is away, or refuses.
    """
    out = out or sys.stdout
    as_json = not out.isatty() if as_json is None else as_json
    with Scanner(topics.connection(settings), settings.group_id, formats(settings)) as scanner:
        plan = _plan(scanner, settings, chosen)
    console = Console(file=out, highlight=False, soft_wrap=True)
    to_send = [letter for letter, reason in plan if reason is None]
    if as_json:
        for letter, reason in plan:
            action = {"action": "send"} if reason is None else {"action": "skip", "reason": reason}
            print(_json({**action, **letter_fields(letter)}), file=out)
    else:
        _show_plan(console, settings, plan)
    if dry_run or not to_send:
        return 0
    if len(to_send) > ASK_ABOVE and not yes and not _asked(settings, len(to_send)):
        return 2
    _send(settings, to_send)
    if not as_json:
        console.print(f"sent {len(to_send):,} uploads to {settings.uploads_topic!r}", markup=False)
    return 0


Plan = list[tuple[Letter, str | None]]


def _plan(scanner: Scanner, settings: Settings, chosen: Filter) -> Plan:
    """The chosen letters, each with the reason to leave it out, or None."""
    found = list(letters(scanner, settings, chosen))
    later = LaterEvents(letter.id for letter in found if letter.id is not None)
    if found:
        partitions = {letter.entry.partition for letter in found}
        for step in (_see_letters, _see_tags, _see_retries, _see_uploads):
            step(scanner, settings, later, partitions)
    taken: set[tuple[int, int]] = set()
    plan: Plan = []
    for letter in found:
        reason = reason_to_skip(letter, later, without_id="bad-event" in chosen.codes)
        if letter.source is not None and reason is None:
            place = letter.source.partition, letter.source.offset
            reason = "another letter is of the same upload" if place in taken else None
            taken.add(place)
        plan.append((letter, reason))
    return plan


def _key_id(key: bytes | None) -> str | None:
    if key is None:
        return None
    with contextlib.suppress(UnicodeDecodeError):
        return key.decode()
    return None


def _see_letters(scanner: Scanner, settings: Settings, later: LaterEvents, partitions: set[int]) -> None:
    for entry in _read(scanner, settings.dlq_topic, partitions, later):
        letter = read_letter(entry)
        if letter.id is not None and letter.id in later and letter.source is not None:
            later.saw(letter.id, letter.source, f"a later event of the id is a dead letter: {entry.position}")


def _see_tags(scanner: Scanner, settings: Settings, later: LaterEvents, partitions: set[int]) -> None:
    for entry in _read(scanner, settings.tags_topic, partitions, later):
        source, upload_id = source_of(entry), _key_id(entry.key)
        if source is not None and upload_id is not None:
            what = "is tagged" if entry.value is not None else "is a deletion"
            later.saw(upload_id, source, f"a later event of the id {what}: {entry.position} in tags")


def _see_retries(scanner: Scanner, settings: Settings, later: LaterEvents, partitions: set[int]) -> None:
    last: dict[str, Entry] = {}
    for entry in _read(scanner, settings.retry_topic, partitions, later):
        upload_id = _key_id(entry.key)
        if upload_id is not None:
            last[upload_id] = entry
    for upload_id, entry in last.items():
        source = source_of(entry)
        if entry.value is not None and source is not None:
            later.saw(upload_id, source, "a later event of the id waits for another try")


def _see_uploads(scanner: Scanner, settings: Settings, later: LaterEvents, partitions: set[int]) -> None:
    """Events that no worker has finished yet: a letter that was just sent again is one of them."""
    topic = settings.uploads_topic
    committed = scanner.committed(topic, partitions)
    starts = {p: committed[p][0] if p in committed else 0 for p in partitions}
    with watching(f"reading {topic}") as progress:
        for entry in scanner.read(topic, starts, progress=progress):
            upload = upload_of(entry)
            if upload is not None and upload.id in later:
                source = Source(entry.partition, entry.offset, entry.timestamp)
                later.saw(upload.id, source, "a later event of the id is on its way")


def _read(scanner: Scanner, topic: str, partitions: set[int], later: LaterEvents) -> Iterator[Entry]:
    with watching(f"reading {topic}") as progress:
        yield from scanner.read(
            topic,
            dict.fromkeys(partitions, 0),
            progress=progress,
            wanted=lambda key, _: _key_id(key) in later,
        )


def _show_plan(console: Console, settings: Settings, plan: Plan) -> None:
    skipped = [(letter, reason) for letter, reason in plan if reason is not None]
    if not plan:
        console.print(f"no such dead letters in {settings.dlq_topic!r}", markup=False)
        return
    console.print(f"{len(plan) - len(skipped):,} to send, {len(skipped):,} left out")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("left out", "id", "why"):
        table.add_column(title, overflow="fold")
    for letter, reason in skipped[:SHOWN]:
        table.add_row(*map(Text, (letter.entry.position, name_of(letter), reason)))
    if skipped:
        console.print(table)
    if len(skipped) > SHOWN:
        console.print(f"… and {len(skipped) - SHOWN:,} more; --json lists all")


def _asked(settings: Settings, count: int) -> bool:
    what = f"{count:,} uploads to {settings.uploads_topic!r}"
    if not sys.stdin.isatty():
        print(f"imgclust-worker: would send {what}; say --yes to do it", file=sys.stderr)
        return False
    print(f"Send {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _send(settings: Settings, to_send: list[Letter]) -> None:
    """
    Raises:
        WorkerError: not all were taken; those that were are left out of the next replay.
    """
    failed: list[KafkaError] = []
    config: dict[str, Any] = {**topics.connection(settings), "enable.idempotence": True, "linger.ms": 20}
    producer = Producer(config, logger=client_log)

    def delivered(error: KafkaError | None, _: object) -> None:
        if error is not None:
            failed.append(error)

    try:
        for letter in to_send:
            _produce(producer, settings.uploads_topic, letter, delivered)
        remaining = producer.flush(SEND_TIMEOUT)
    except KafkaException as error:
        raise WorkerError(f"Kafka refuses an upload: {error.args[0].str()}") from None
    if failed or remaining:
        why = failed[0].str() if failed else f"no answer within {SEND_TIMEOUT:g} s"
        raise WorkerError(
            f"{len(failed) + remaining} of {len(to_send)} uploads were not sent: {why}\n"
            "run the same again: those that were sent are left out"
        )


def _produce(producer: Producer, topic: str, letter: Letter, delivered: Any) -> None:
    assert letter.source is not None
    headers: list[tuple[str, str | bytes | None]] = [("replay-of", letter.entry.position.encode())]
    if "traceparent" in letter.entry.headers:
        headers.append(("traceparent", letter.entry.headers["traceparent"].encode()))
    while True:
        with contextlib.suppress(BufferError):
            producer.produce(
                topic,
                value_to_send(letter),
                letter.entry.key,
                letter.source.partition,
                on_delivery=delivered,
                headers=headers,
            )
            return
        producer.poll(0.1)
