"""`imgclust-worker dlq replay`: dead letters go back to the uploads topic."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from typing import TextIO

from confluent_kafka import KafkaError, KafkaException, Producer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker import wiring
from worker.commands.dead_letters import DeadLetter, Filter
from worker.commands.dlq import SHOWN, dead_letter_fields, dead_letters, name_of
from worker.commands.later_events import Search, reason_to_skip
from worker.commands.output import to_json
from worker.errors import WorkerError
from worker.kafka.client_config import sender_config
from worker.kafka.reading import client_log
from worker.kafka.scanner import Scanner
from worker.messages.headers import ReplayHeaders, read_traceparent
from worker.settings.settings import Settings
from worker.wiring import formats

ASK_ABOVE = 20  # more uploads than this are sent only after a question
CHUNK = 500  # uploads sent between two looks at what has come meanwhile
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
    """Send the uploads of dead letters to the uploads topic again, as they were, with the header `replay-of`.

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
    console = Console(file=out, highlight=False, soft_wrap=True)
    with Scanner(wiring.connection(settings), settings.group_id, formats(settings)) as scanner:
        plan, search = _plan(scanner, settings, chosen)
        to_send = [letter for letter, reason in plan if reason is None]
        if as_json:
            for letter, reason in plan:
                print(to_json(_step(letter, reason)), file=out)
        else:
            _show_plan(console, settings, plan)
        if dry_run or not to_send:
            return 0
        if len(to_send) > ASK_ABOVE and not yes and not _confirmed(settings, len(to_send)):
            return 2
        overtaken = _Sender(settings, search).send(to_send)
    if as_json:
        for letter, reason in overtaken:
            print(to_json(_step(letter, reason)), file=out)
    else:
        sent = len(to_send) - len(overtaken)
        console.print(f"sent {sent:,} uploads to {settings.uploads_topic!r}", markup=False)
        if overtaken:
            console.print(f"{len(overtaken):,} left out: a later event of their id came meanwhile")
    return 0


Plan = list[tuple[DeadLetter, str | None]]


def _plan(scanner: Scanner, settings: Settings, chosen: Filter) -> tuple[Plan, Search]:
    """The chosen dead letters, each with the reason to leave it out, or None."""
    found = list(dead_letters(scanner, settings, chosen))
    partitions = {letter.entry.partition for letter in found}
    search = Search(scanner, settings, (letter.id for letter in found if letter.id is not None), partitions)
    if found:
        search.look()
    taken: set[tuple[int, int]] = set()
    plan: Plan = []
    for letter in found:
        reason = reason_to_skip(letter, search.later, without_id="bad-event" in chosen.codes)
        if letter.source is not None and reason is None:
            place = letter.source.partition, letter.source.offset
            reason = "another dead letter is of the same upload" if place in taken else None
            taken.add(place)
        plan.append((letter, reason))
    return plan, search


def _step(letter: DeadLetter, reason: str | None) -> dict[str, object]:
    """For machines: what happens to a dead letter."""
    action = {"action": "send"} if reason is None else {"action": "skip", "reason": reason}
    return {**action, **dead_letter_fields(letter)}


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


def _confirmed(settings: Settings, count: int) -> bool:
    what = f"{count:,} uploads to {settings.uploads_topic!r}"
    if not sys.stdin.isatty():
        print(f"imgclust-worker: would send {what}; add --yes to send them", file=sys.stderr)
        return False
    print(f"Send {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def replay_record(letter: DeadLetter, seen: int | None) -> ReplayRecord:
    """What is sent: key and value as they were, byte for byte; the rest is in headers.

    Args:
        seen: offset of the uploads partition below which no later event of the id was missed.
    """
    assert letter.source is not None
    headers = ReplayHeaders(letter.entry.position, letter.source, letter.code, seen).pairs()
    trace = read_traceparent(letter.entry.headers)
    if trace is not None:
        headers.append(("traceparent", trace))
    return ReplayRecord(letter.source.partition, letter.entry.key, letter.entry.value, headers)


@dataclasses.dataclass(frozen=True, slots=True)
class ReplayRecord:
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]


class _Sender:
    """Sends a few at a time, each time after a look at the uploads that have come meanwhile."""

    def __init__(self, settings: Settings, search: Search) -> None:
        self._topic = settings.uploads_topic
        self._search = search
        self._failed: list[KafkaError] = []
        config = sender_config(wiring.connection(settings), "imgclust-operator", linger_ms=20)
        self._producer = Producer(config, logger=client_log)

    def send(self, letters: list[DeadLetter]) -> Plan:
        """
        Returns:
            Those that were left out, with the reason: a later event of their id has come.

        Raises:
            WorkerError: not all were taken; those that were are left out of the next replay.
        """
        overtaken: Plan = []
        for start in range(0, len(letters), CHUNK):
            self._search.look_again()
            chunk = letters[start : start + CHUNK]
            reasons = [reason_to_skip(letter, self._search.later, without_id=True) for letter in chunk]
            both = list(zip(chunk, reasons, strict=True))
            self._send([letter for letter, reason in both if reason is None], len(letters) - start)
            overtaken += [(letter, reason) for letter, reason in both if reason is not None]
        return overtaken

    def _send(self, chunk: list[DeadLetter], left: int) -> None:
        try:
            for letter in chunk:
                self._produce(letter)
            remaining = self._producer.flush(SEND_TIMEOUT)
        except KafkaException as error:
            raise WorkerError(f"Kafka refuses an upload: {error.args[0].str()}") from None
        if self._failed or remaining:
            why = self._failed[0].str() if self._failed else f"no answer within {SEND_TIMEOUT:g} s"
            missing = len(self._failed) + remaining + left - len(chunk)
            raise WorkerError(
                f"{missing} uploads were not sent: {why}\n"
                "run the same command again: uploads that were sent are left out"
            )

    def _delivered(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self._failed.append(error)

    def _produce(self, letter: DeadLetter) -> None:
        assert letter.source is not None
        record = replay_record(letter, self._search.seen.get(letter.source.partition))
        while True:
            with contextlib.suppress(BufferError):
                self._producer.produce(
                    self._topic,
                    record.value,
                    record.key,
                    record.partition,
                    on_delivery=self._delivered,
                    headers=record.headers,
                )
                return
            self._producer.poll(0.1)
