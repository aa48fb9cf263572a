"""`imgclust-worker dlq list`: look at dead letters."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker import wiring
from worker.commands.dead_letters import (
    DeadLetter,
    Filter,
    read_dead_letter,
)
from worker.commands.output import to_json, watching, when
from worker.errors import SettingsError
from worker.kafka.scanner import Entry, Scanner, key_text
from worker.messages.text import readable
from worker.settings.settings import Settings
from worker.wiring import formats

SHOWN = 50  # rows of a table


def list_dead_letters(
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
        limit: show the newest so many.
        as_json: None: by whether `out` is a terminal.

    Returns:
        The exit code, 0.

    Raises:
        WorkerError: Kafka is away, or does not let us read.
    """
    out = out or sys.stdout
    as_json = not out.isatty() if as_json is None else as_json
    keep = limit or (None if as_json else SHOWN)
    counted = DeadLetterCounts()
    newest: deque[DeadLetter] = deque(maxlen=keep)
    with Scanner(wiring.connection(settings), formats=formats(settings)) as scanner:
        for letter in counted.watch(dead_letters(scanner, settings, chosen)):
            if counts:
                continue
            if as_json and limit is None:
                print(to_json(dead_letter_fields(letter)), file=out)
            else:
                newest.append(letter)
    if as_json:
        for fields in counted.rows() if counts else (dead_letter_fields(letter) for letter in newest):
            print(to_json(fields), file=out)
        return 0
    console = Console(file=out, highlight=False, soft_wrap=True)
    if newest:
        console.print(_dead_letters_table(newest))
    if counted.total > len(newest) > 0:
        console.print(f"the newest {len(newest)} of {counted.total:,}; --limit shows more, --json all")
    _print_counts(console, settings, counted)
    return 0


def dead_letters(scanner: Scanner, settings: Settings, chosen: Filter) -> Iterator[DeadLetter]:
    """The dead letters that `chosen` takes, in the order of each partition."""
    now = time.time_ns() // 1_000_000
    for entry in _entries(scanner, settings, chosen):
        letter = read_dead_letter(entry)
        if chosen.takes(letter, now):
            yield letter


def _entries(scanner: Scanner, settings: Settings, chosen: Filter) -> Iterator[Entry]:
    topic = settings.dlq_topic
    there = scanner.partitions(topic)
    missing = chosen.partitions - set(there)
    if missing:
        raise SettingsError(f"--partition {min(missing)}: {topic!r} has only 0 to {there[-1]}")
    wanted = [p for p in there if not chosen.partitions or p in chosen.partitions]
    with watching(f"reading {topic}") as progress:
        yield from scanner.read(topic, dict.fromkeys(wanted, 0), progress=progress)


class DeadLetterCounts:
    """Counts dead letters by code as they pass, and when the first and the last were written."""

    def __init__(self) -> None:
        self._codes: Counter[str] = Counter()
        self._partitions: dict[str, set[int]] = {}
        self._span: dict[str, tuple[int, int]] = {}

    @property
    def total(self) -> int:
        return self._codes.total()

    def watch(self, passing: Iterator[DeadLetter]) -> Iterator[DeadLetter]:
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


def dead_letter_fields(letter: DeadLetter) -> dict[str, object]:
    """A dead letter for machines."""
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


def name_of(letter: DeadLetter) -> str:
    """The dead letter's id, or its key where it has none; safe to show."""
    return key_text(letter.entry) if letter.id is None else readable(letter.id, 300)


def _dead_letters_table(shown: deque[DeadLetter]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("letter", "written", "id", "code", "tries", "why"):
        table.add_column(title, no_wrap=title != "why", overflow="ellipsis" if title == "id" else "fold")
    for letter in shown:
        cells = (
            letter.entry.position,
            when(letter.entry.timestamp)[:19],
            name_of(letter),
            readable(letter.code),
            readable(letter.attempts, 12),
            readable(letter.message, 300),
        )
        table.add_row(*map(Text, cells))
    return table


def _print_counts(console: Console, settings: Settings, counted: DeadLetterCounts) -> None:
    if not counted.total:
        console.print(f"no such dead letters in {settings.dlq_topic!r}", markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("code", "letters", "first", "last"):
        table.add_column(title, justify="right" if title == "letters" else "left")
    for row in counted.rows():
        code, count = readable(str(row["code"])), f"{row['letters']:,}"
        table.add_row(*map(Text, (code, count, str(row["first"])[:19], str(row["last"])[:19])))
    console.print(table)
    console.print(f"{counted.total:,} in all")
