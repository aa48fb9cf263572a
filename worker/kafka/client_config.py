"""The librdkafka properties of every client that the worker makes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any


def consumer_config(bootstrap: str, group: str, protocol: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka's configuration for reading uploads.

    Small queues, because pausing throws away what was prefetched: at 2,500 records/s and 5 pauses a second
    the defaults fetch 369 MB to use 6.
    """
    return {
        "queued.min.messages": 500,
        "max.partition.fetch.bytes": 65536,
        # a broker answers one request of a connection after the other: a long poll would hold up questions
        "fetch.wait.max.ms": 100,
        "client.id": "imgclust-worker",
        **extra,
        **group_protocol(protocol),
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",  # nothing is ever skipped in silence
        "isolation.level": "read_committed",
    }


def group_protocol(protocol: str) -> dict[str, str]:
    """`classic` rebalances cooperatively, so that partitions that stay go on; `consumer` is KIP-848."""
    if protocol == "consumer":
        return {"group.protocol": "consumer"}
    return {"partition.assignment.strategy": "cooperative-sticky"}


def producer_config(bootstrap: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka's configuration for publishing results: idempotent, so a partition keeps its order."""
    return {
        "linger.ms": 1,  # for one round; rounds are what gathers results
        "compression.type": "lz4",
        "client.id": "imgclust-worker",
        # a result waits for a broker that is away as long as it takes: nothing is given up on by a timer
        "message.timeout.ms": 0,
        "queue.buffering.max.kbytes": 262144,
        **extra,
        "bootstrap.servers": bootstrap,
        "enable.idempotence": True,
        "acks": "all",
    }


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


def transaction_config(bootstrap: str, extra: Mapping[str, str], transactional_id: str) -> dict[str, Any]:
    """librdkafka's configuration for publishing results in transactions."""
    return {
        "compression.type": "lz4",
        "client.id": "imgclust-worker",
        "queue.buffering.max.kbytes": 262144,
        "retry.backoff.ms": RETRY_BACKOFF_MS,
        "connections.max.idle.ms": MAX_IDLE_MS,
        **extra,
        "bootstrap.servers": bootstrap,
        "transactional.id": transactional_id,
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        "delivery.report.only.error": True,  # the commit vouches for the rest
    }


def transactional_id(group: str) -> str:
    """A name for this process alone. Never a host's: two processes of one name would fence each other."""
    return f"{group}-{uuid.uuid4()}"


def restore_config(bootstrap: str, group: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka's configuration for reading pending retries."""
    return {
        "client.id": "imgclust-worker",
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 32768,
        **extra,
        "bootstrap.servers": bootstrap,
        "group.id": group,  # the client wants one; nothing is committed and no group is joined
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        # an open transaction of a dead owner makes the end wait until the broker has decided it
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
    }
