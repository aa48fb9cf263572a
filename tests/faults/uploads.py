"""What is sent: numbered events, planned from a seed. Pure."""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections import deque
from collections.abc import Iterator

import orjson

CLASSES = 16  # kinds of pictures, and clusters of the model
RECENT = 24  # events: a second event of one of these often meets the first one in flight
OLD = "2020-01-01T00:00:00Z"  # of an upload whose picture is missing for good

# Any picture may die while its server is down.
OUTAGE = frozenset({"fetch-failed", "fetch-timeout"})

# what is sent, how often of 1,000, the path of its picture, and the codes of its dead letter
KINDS: tuple[tuple[str, int, str, frozenset[str]], ...] = (
    ("picture", 830, "ok", frozenset()),
    ("slow", 30, "slow", frozenset()),  # its server takes 0.5 to 2 s
    ("flapping", 50, "flap", frozenset()),  # fails once or twice, then answers
    ("failing", 25, "fail", frozenset({"fetch-failed"})),  # never answers anything but 503
    ("missing", 25, "missing", frozenset({"not-found"})),
    ("text", 20, "text", frozenset({"unsupported-format"})),
    ("cut", 10, "cut", frozenset({"decode-failed"})),
    ("malformed", 10, "", frozenset({"bad-event"})),
)
MALFORMED = frozenset({"bad-event"})
TAGGABLE = {"picture", "slow", "flapping"}


@dataclasses.dataclass(frozen=True, slots=True)
class Planned:
    """One event to send; `value` is None for a tombstone, see `checker.Event` for the rest."""

    number: int
    id: str
    partition: int
    value: bytes | None
    cluster: int | None
    deletion: bool
    codes: frozenset[str]


def plan(seed: int, count: int, partitions: int, address: str, *, outages: bool) -> Iterator[Planned]:
    """`count` events: most of new ids, some of ids that had one, some deletions.

    Args:
        outages: whether the image server will be down at times.
        address: host:port of the image server; failing pictures come from another host of it, so that a
            worker that leaves bad hosts alone goes on asking the others.
    """
    dice = random.Random(seed)
    recent: deque[str] = deque(maxlen=RECENT)
    old: list[str] = []
    for number in range(count):
        throw = dice.random()
        if recent and throw < 0.10:
            upload_id = dice.choice(recent)
        elif old and throw < 0.14:
            upload_id = dice.choice(old)
        else:
            upload_id = f"u{number}"
        if recent and dice.random() < 0.06:
            upload_id = dice.choice(recent if dice.random() < 0.7 else old)
            yield _deletion(dice, number, upload_id, partitions)
            continue
        made = _upload(dice, number, upload_id, partitions, address)
        url = made.codes != MALFORMED
        yield dataclasses.replace(made, codes=made.codes | OUTAGE) if outages and url else made
        if made.id == upload_id:  # a malformed event has no id, and none may follow it
            recent.append(upload_id)
            if dice.random() < 0.1:
                old.append(upload_id)
            old = old or [upload_id]


def partition_of(upload_id: str, partitions: int) -> int:
    """All events of an id are in one partition."""
    return zlib.crc32(upload_id.encode()) % partitions


def _deletion(dice: random.Random, number: int, upload_id: str, partitions: int) -> Planned:
    value = None if dice.random() < 0.5 else orjson.dumps({"id": upload_id, "deleted": True})
    return Planned(number, upload_id, partition_of(upload_id, partitions), value, None, True, frozenset())


def _upload(dice: random.Random, number: int, upload_id: str, partitions: int, address: str) -> Planned:
    weights = [share for _, share, _, _ in KINDS]
    kind, _, path, codes = dice.choices(KINDS, weights)[0]
    if kind == "malformed":
        name = f"malformed-{number}"
        value = b'{"id": "%s", "url": 7}' % name.encode()
        return Planned(number, name, partition_of(name, partitions), value, None, False, codes)
    cluster = dice.randrange(CLASSES)
    host, _, port = address.rpartition(":")
    if kind == "failing":
        host = "127.0.0.2"
    extra = {"slow": f"{dice.uniform(0.5, 2):.2f}", "flapping": str(dice.randint(1, 2))}.get(kind, "0")
    event = {
        "id": upload_id,
        "url": f"http://{host}:{port}/{path}/{extra}/{cluster}/{number}",
        "attributes": {"n": number},
        **({"uploaded_at": OLD} if kind == "missing" else {}),
    }
    taggable = kind in TAGGABLE
    return Planned(
        number, upload_id, partition_of(upload_id, partitions), orjson.dumps(event),
        cluster if taggable else None, False, codes,
    )  # fmt: skip
