"""The nodes of a hierarchy, none above another, that are worth the most: as many as it takes, or so many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgclust.training.dedupe import Rows
from imgclust.training.hierarchy import Floats64, Hierarchy


def antichain(hierarchy: Hierarchy, value: Floats64) -> Rows:
    """The nodes, none above another, whose values add up to the most; those below 0 are never taken.

    Args:
        value: float64 (k,); -inf for nodes that may not be taken. The root is never taken.

    Returns:
        int64, ascending; of a node and its descendants of equal sum, the node.
    """
    k = len(hierarchy.parent)
    below, taken = np.zeros(k), np.zeros(k, bool)
    for node in range(k - 1, 0, -1):
        taken[node] = value[node] > 0 and value[node] >= below[node]
        below[hierarchy.parent[node]] += value[node] if taken[node] else below[node]
    hidden = np.zeros(k, bool)
    for node in range(1, k):
        above = hierarchy.parent[node]
        hidden[node] = hidden[above] or taken[above]
    return np.flatnonzero(taken & ~hidden)


def counted_antichain(hierarchy: Hierarchy, value: Floats64, least: int, most: int) -> Rows:
    """The same with `least` to `most` nodes; those below 0 are taken where there are too few others.

    For each node and each count the largest sum at or below it, from the leaves up: the counts of children
    are put together as in a knapsack.

    Args:
        value: float64 (k,); -inf for nodes that may not be taken. The root is never taken.

    Returns:
        int64, ascending; of equal sums the one of fewest nodes. Where no set has so many nodes, the best of
        those with the most.
    """
    sums = _Sums(hierarchy, value, most)
    there = np.flatnonzero(np.isfinite(sums.whole))
    enough = there[there >= least]
    if not len(enough):
        return sums.nodes(int(there[-1]))
    return sums.nodes(int(enough[np.argmax(sums.whole[enough])]))


class _Sums:
    """The largest sums by count.

    Attributes:
        at: for each node, float64 (counts,); the largest sum of so many nodes at or below it, -inf where
            there are not so many.
        below: for each node the same, without itself: of none of its children, of the first, of the first
            two, and so on.
    """

    def __init__(self, hierarchy: Hierarchy, value: Floats64, most: int) -> None:
        k = len(hierarchy.parent)
        self._value = value
        self._children: list[list[int]] = [[] for _ in range(k)]
        for node in range(1, k):
            self._children[hierarchy.parent[node]].append(node)
        self.at = [np.zeros(1)] * k
        self.below = [[np.zeros(1)] for _ in range(k)]
        for node in range(k - 1, -1, -1):
            for child in self._children[node]:
                self.below[node].append(_joined(self.below[node][-1], self.at[child], most))
            self.at[node] = self._with_itself(node) if node else self.below[node][-1]

    @property
    def whole(self) -> Floats64:
        """The largest sums of all."""
        return self.at[0]

    def _with_itself(self, node: int) -> Floats64:
        below = self.below[node][-1]
        found = np.append(below, [-np.inf] * (2 - len(below)))
        found[1] = max(found[1], self._value[node])
        return found

    def nodes(self, count: int) -> Rows:
        """Nodes of the largest sum of this count; of a node and one below it of equal worth, the node."""
        chosen, waiting = [], [(0, count)]
        while waiting:
            node, left = waiting.pop()
            below = self.below[node]
            if node and left == 1 and self._value[node] == self.at[node][1]:
                chosen.append(node)
                continue
            for place in range(len(self._children[node]) - 1, -1, -1):
                child = self._children[node][place]
                part = _part(below[place], self.at[child], left, below[place + 1][left])
                waiting.append((child, part))
                left -= part
        return np.array(sorted(chosen), np.int64)


def _joined(one: Floats64, two: Floats64, most: int) -> Floats64:
    """Largest sums over both, by the count of both together, up to `most`."""
    if len(two) > len(one):
        one, two = two, one
    found = np.full(min(len(one) + len(two) - 1, most + 1), -np.inf)
    for count, total in enumerate(two[: len(found)]):
        both = one[: len(found) - count] + total
        found[count : count + len(both)] = np.maximum(found[count : count + len(both)], both)
    return found


def _part(one: Floats64, two: Floats64, count: int, total: float) -> int:
    """How many of `count` nodes are of the second, where both together have this largest sum."""
    parts: Sequence[int] = range(max(0, count - len(one) + 1), min(count, len(two) - 1) + 1)
    return next(part for part in parts if one[count - part] + two[part] == total)
