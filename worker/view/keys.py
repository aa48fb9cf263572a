"""The names of the keys in Redis, for the view that writes them and the feed that reads them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from worker.messages.tag import TAXONOMY

MARKS = 16  # of a Redis Cluster: one in each sixteenth of the slots


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix. Every command of view and feed touches one of them at a time, so they
    need not be in one slot of a Redis Cluster."""

    prefix: str = "imgclust:"

    def tag(self, upload_id: str) -> bytes:
        """Hash: what is known of one upload. The id comes last and whole, so any character is sound."""
        return f"{self.prefix}tag:{upload_id}".encode()

    def cluster(self, taxonomy: str, cluster: int) -> bytes:
        """Sorted set: ids of one cluster by time."""
        return f"{self.prefix}{taxonomy}:cluster:{cluster}".encode()

    def clusters(self, taxonomy: str) -> bytes:
        """Hash: cluster → its name and the model that gave it."""
        return f"{self.prefix}{taxonomy}:clusters".encode()

    @property
    def all_tags(self) -> bytes:
        """Pattern of SCAN for the hashes of all ids."""
        return f"{self._literal}tag:*".encode()

    @property
    def all_clusters(self) -> bytes:
        """Pattern of SCAN for the sorted sets of all clusters (and some hashes: filter by type)."""
        return f"{self._literal}*:cluster:*".encode()

    def parse_cluster(self, key: str) -> tuple[str, str] | None:
        """The taxonomy and cluster that a sorted set is of."""
        taxonomy, _, cluster = key.removeprefix(self.prefix).rpartition(":cluster:")
        return (taxonomy, cluster) if TAXONOMY.fullmatch(taxonomy) else None

    @property
    def _literal(self) -> str:
        return re.sub(r"([*?\[\]\\])", r"\\\1", self.prefix)

    @property
    def taxonomy(self) -> bytes:
        """String: the taxonomy that feeds read."""
        return f"{self.prefix}taxonomy".encode()

    @property
    def view(self) -> bytes:
        """Hash: partition of the tags topic → the offset below which this Redis holds everything; and
        `topic:<partition>` → the id of the topic that the offset is one of."""
        return f"{self.prefix}view".encode()

    def marks(self, spread: bool) -> list[bytes]:
        """The hash `view`, or several that are written together.

        Args:
            spread: for a Redis Cluster. A node that fails over may lose its last writes, and the others do
                not: so each sixteenth of the slots has a mark of its own, and the lowest of them counts.
        """
        if not spread:
            return [self.view]
        return [f"{self.prefix}view:{{{label}}}".encode() for label in _labels()]


@functools.cache
def _labels() -> tuple[str, ...]:
    """The first number in each sixteenth of the slots, as a hash tag."""
    part = REDIS_CLUSTER_HASH_SLOTS // MARKS
    found: dict[int, str] = {}
    for number in itertools.count():
        found.setdefault(key_slot(b"%d" % number) // part, str(number))
        if len(found) == MARKS:
            return tuple(found[index] for index in range(MARKS))
    raise AssertionError("every slot has a key")
