"""`imgclust-worker dlq replay`: dead letters go back to the uploads topic."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from confluent_kafka import KafkaError, KafkaException, Producer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker import wiring
from worker.commands.dead_letters import (
    DeadLetter,
    Filter,
    LaterEvents,
    read_dead_letter,
    reason_to_skip,
    upload_of,
    value_to_send,
)
from worker.commands.dlq import SHOWN, dead_letter_fields, dead_letters, name_of
from worker.commands.output import to_json, watching
from worker.errors import WorkerError
from worker.kafka.reading import client_log
from worker.kafka.scanner import Entry, Scanner
from worker.messages.headers import SourcePosition, replay_headers
from worker.settings.settings import Settings
from worker.wiring import formats

ASK_ABOVE = 20  # more uploads than this are sent only after a question


SEND_TIMEOUT = 30.0


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

    Left out, and listed with the reason, is every dead letter whose id has had a later event: sent again, the
    old one would win over the new one. So a second replay of the same ones sends nothing. Those without a
    readable id are sent only when their code (`bad-event`) is asked for by name.

    Returns:
        The exit code: 0; 2 when it would send more than 20, `yes` is not set, and there is nobody to ask.

    Raises:
        WorkerError: Kafka is away, or refuses.
    """
    out = out or sys.stdout
    as_json = not out.isatty() if as_json is None else as_json
    with Scanner(wiring.connection(settings), settings.group_id, formats(settings)) as scanner:
        plan = _plan(scanner, settings, chosen)
    console = Console(file=out, highlight=False, soft_wrap=True)
    to_send = [letter for letter, reason in plan if reason is None]
    if as_json:
        for letter, reason in plan:
            action = {"action": "send"} if reason is None else {"action": "skip", "reason": reason}
            print(to_json({**action, **dead_letter_fields(letter)}), file=out)
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


Plan = list[tuple[DeadLetter, str | None]]


def _plan(scanner: Scanner, settings: Settings, chosen: Filter) -> Plan:
    """The chosen dead letters, each with the reason to leave it out, or None."""
    found = list(dead_letters(scanner, settings, chosen))
    later = LaterEvents(letter.id for letter in found if letter.id is not None)
    if found:
        partitions = {letter.entry.partition for letter in found}
        for step in (_see_dead_letters, _see_tags, _see_retries, _see_uploads):
            step(scanner, settings, later, partitions)
    taken: set[tuple[int, int]] = set()
    plan: Plan = []
    for letter in found:
        reason = reason_to_skip(letter, later, without_id="bad-event" in chosen.codes)
        if letter.source is not None and reason is None:
            place = letter.source.partition, letter.source.offset
            reason = "another dead letter is of the same upload" if place in taken else None
            taken.add(place)
        plan.append((letter, reason))
    return plan


def _key_id(key: bytes | None) -> str | None:
    if key is None:
        return None
    with contextlib.suppress(UnicodeDecodeError):
        return key.decode()
    return None


def _see_dead_letters(scanner: Scanner, settings: Settings, later: LaterEvents, partitions: set[int]) -> None:
    for entry in _read(scanner, settings.dlq_topic, partitions, later):
        letter = read_dead_letter(entry)
        if letter.id is not None and letter.id in later and letter.source is not None:
            later.saw(letter.id, letter.source, f"a later event of the id is a dead letter: {entry.position}")


def _see_tags(scanner: Scanner, settings: Settings, later: LaterEvents, partitions: set[int]) -> None:
    for entry in _read(scanner, settings.tags_topic, partitions, later):
        source, upload_id = entry.source, _key_id(entry.key)
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
        source = entry.source
        if entry.value is not None and source is not None:
            later.saw(upload_id, source, "a later event of the id waits for another try")


def _see_uploads(scanner: Scanner, settings: Settings, later: LaterEvents, partitions: set[int]) -> None:
    """Events that no worker has finished yet: a dead letter that was just sent again is one of them."""
    topic = settings.uploads_topic
    committed = scanner.committed(topic, partitions)
    starts = {p: committed[p][0] if p in committed else 0 for p in partitions}
    with watching(f"reading {topic}") as progress:
        for entry in scanner.read(topic, starts, progress=progress):
            upload = upload_of(entry)
            if upload is not None and upload.id in later:
                source = SourcePosition(entry.partition, entry.offset, entry.timestamp)
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


def _send(settings: Settings, to_send: list[DeadLetter]) -> None:
    """
    Raises:
        WorkerError: not all were taken; those that were are left out of the next replay.
    """
    failed: list[KafkaError] = []
    config: dict[str, Any] = {**wiring.connection(settings), "enable.idempotence": True, "linger.ms": 20}
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


def _produce(producer: Producer, topic: str, letter: DeadLetter, delivered: Any) -> None:
    assert letter.source is not None
    headers = replay_headers(letter.entry.position, letter.entry.headers)
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
