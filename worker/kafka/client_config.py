"""The librdkafka properties of every client of worker, view and commands: a function for each purpose.

`connection` is what leads to the brokers: addresses, security, and what an operator set as WORKER_KAFKA_….
Properties that stand before it are defaults that an operator may change; those after it are fixed.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

Connection = Mapping[str, Any]

# ── consumers ────────────────────────────────────────────────────────────────────────────────────────────

# Offsets are committed by this program's own rules, never by a timer of the client.
_COMMITS_NOTHING = {"enable.auto.commit": False, "enable.auto.offset.store": False}


def consumer_config(connection: Connection, group: str, protocol: str) -> dict[str, Any]:
    """For reading uploads as a member of the group.

    Small queues, because a pause throws away what was prefetched: at 2,500 records/s and 5 pauses a second
    the defaults fetched 369 MB to use 6. See `worker.tagger.pacing` for when there is one.
    """
    return {
        "queued.min.messages": 500,
        "max.partition.fetch.bytes": 65536,
        # a broker answers one request of a connection after the other: a long poll would hold up questions
        "fetch.wait.max.ms": 100,
        # A partition whose queue is full is looked at again after this, a second by default: at 10,000
        # records/s its queue is empty after 50 ms.
        "fetch.queue.backoff.ms": 5,
        "client.id": "imgclust-worker",
        **connection,
        **group_protocol(protocol),
        **_COMMITS_NOTHING,
        "group.id": group,
        "auto.offset.reset": "error",  # nothing is ever skipped in silence
        "isolation.level": "read_committed",
    }


def view_config(connection: Connection, group: str, protocol: str) -> dict[str, Any]:
    """For reading tags as a member of the view's group."""
    return {
        # at 300 bytes a tag, 500 waiting records are 150 kB: the rest may stay on the broker
        "queued.min.messages": 2000,
        **connection,
        **group_protocol(protocol),
        **_COMMITS_NOTHING,
        "group.id": group,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",  # compacted: its start is all there is to know
    }


def share_config(connection: Connection, client_id: str, group: str, protocol: str) -> dict[str, Any]:
    """For a member that is told its partitions and reads none."""
    return {
        "client.id": client_id,
        **connection,
        **group_protocol(protocol),
        **_COMMITS_NOTHING,
        "group.id": group,
        "auto.offset.reset": "earliest",
        # committed offsets are asked for to show progress: what is not decided is not waited for
        "isolation.level": "read_uncommitted",
    }


def group_protocol(protocol: str) -> dict[str, str]:
    """`classic` rebalances cooperatively, so that partitions that stay go on; `consumer` is KIP-848."""
    if protocol == "consumer":
        return {"group.protocol": "consumer"}
    return {"partition.assignment.strategy": "cooperative-sticky"}


def changelog_config(connection: Connection, group: str) -> dict[str, Any]:
    """For reading pending retries."""
    return {
        "client.id": "imgclust-worker",
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 32768,
        **connection,
        **_COMMITS_NOTHING,
        "group.id": group,  # the client wants one; nothing is committed and no group is joined
        "auto.offset.reset": "earliest",
        # an open transaction of a dead owner makes the end wait until the broker has decided it
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
    }


def reader_config(
    connection: Connection, client_id: str, group: str | None = None, wait_ms: int = 50
) -> dict[str, Any]:
    """For reading a topic from given offsets to its end. No group is joined and nothing is committed.

    Args:
        group: whose committed offsets are asked for; none of anybody by default.
        wait_ms: how long the broker holds back an answer without records.
    """
    return {
        "client.id": client_id,
        **connection,
        **_COMMITS_NOTHING,
        "group.id": group or f"{client_id}-{uuid.uuid4()}",  # the client wants one
        "enable.partition.eof": True,
        "fetch.wait.max.ms": wait_ms,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",  # retention may overtake a slow reader
    }


# ── producers ────────────────────────────────────────────────────────────────────────────────────────────

# A killed worker's open transaction hides every later tag of its partitions from readers, and holds back
# whoever owns them next, until the broker ends it. One takes 5 to 50 ms; 10 s outlast a broker's restart.
TRANSACTION_TIMEOUT_MS = 10_000

# A transaction that follows another waits until the broker has ended the last one; librdkafka asks again
# after this. With its default of 100 each transaction takes 106 ms, with 2 about 5.
RETRY_BACKOFF_MS = 2

# `send_offsets_to_transaction` never returns, whatever its timeout, when the group's coordinator is not there
# yet (a broker that was just restarted): librdkafka 2.16 asks for it three times, and then waits for any
# connection to change (rdkafka_coord.c). One that is closed for idling is such a change.
MAX_IDLE_MS = 10_000

_QUEUE_KBYTES = 262144  # what a producer holds at most


def producer_config(connection: Connection) -> dict[str, Any]:
    """For publishing results without transactions: idempotent, so a partition keeps its order."""
    return {
        "linger.ms": 1,  # for one round; rounds are what gathers results
        "compression.type": "lz4",
        "client.id": "imgclust-worker",
        # a result waits for a broker that is away as long as it takes: nothing is given up on by a timer
        "message.timeout.ms": 0,
        "queue.buffering.max.kbytes": _QUEUE_KBYTES,
        **connection,
        "enable.idempotence": True,
        "acks": "all",
    }


def transaction_config(connection: Connection, transactional_id: str) -> dict[str, Any]:
    """For publishing results in transactions."""
    return {
        "compression.type": "lz4",
        "client.id": "imgclust-worker",
        "queue.buffering.max.kbytes": _QUEUE_KBYTES,
        "retry.backoff.ms": RETRY_BACKOFF_MS,
        "connections.max.idle.ms": MAX_IDLE_MS,
        **connection,
        "transactional.id": transactional_id,
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        "delivery.report.only.error": True,  # the commit vouches for the rest
    }


def transactional_id(group: str) -> str:
    """A name for this process alone. Never a host's: two processes of one name would fence each other."""
    return f"{group}-{uuid.uuid4()}"


# A claim's transactions hold some thousand records. Whoever takes the same name ends an open one at once; the
# time counts only for readers when nobody does.
CLAIM_TIMEOUT_MS = 60_000


def claim_config(connection: Connection, client_id: str, name: str) -> dict[str, Any]:
    """For transactions under a name that one process at a time may have; see `worker.kafka.claim`."""
    return {
        "linger.ms": 50,  # few requests; the end of a transaction does not wait for it
        "compression.type": "lz4",
        "client.id": client_id,
        "queue.buffering.max.kbytes": _QUEUE_KBYTES,
        "retry.backoff.ms": RETRY_BACKOFF_MS,
        "connections.max.idle.ms": MAX_IDLE_MS,
        **connection,
        "transactional.id": name,
        "transaction.timeout.ms": CLAIM_TIMEOUT_MS,
        "delivery.report.only.error": True,  # the commit vouches for the rest
    }


def sender_config(connection: Connection, client_id: str, linger_ms: int = 5) -> dict[str, Any]:
    """For sending a few records once, with every acknowledgement waited for."""
    return {
        "client.id": client_id,
        "linger.ms": linger_ms,
        **connection,
        "enable.idempotence": True,
    }


# ── administration ───────────────────────────────────────────────────────────────────────────────────────

_CONSUMERS_OWN = re.compile(r"group\.|partition\.assignment|session\.|heartbeat\.|max\.p|fetch\.|queued\.")


def admin_config(connection: Connection) -> dict[str, Any]:
    """For questions about topics. Properties that only a consumer knows would be warned of."""
    return {name: value for name, value in connection.items() if not _CONSUMERS_OWN.match(name)}
