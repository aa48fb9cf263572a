"""Whether Redis and the worker's own metrics say the same as the topics that the demo has read."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import redis

from worker.demo.samples import Samples
from worker.demo.uploads import SUPERSEDED, Ledger
from worker.feed import Feed
from worker.messages.tag import Tag
from worker.telemetry.upload_metrics import UPLOADS

VIEW_SECONDS = 30.0  # for the Redis view to have what the topic has


def check_view(feed: Feed, ledger: Ledger, patience: float = VIEW_SECONDS) -> tuple[int, list[str]]:
    """Wait until Redis has what the topic has: every tag by its id, and every cluster's list.

    Returns:
        Tags that are there, and what is wrong.
    """
    expected = {name: _untimed(tag) for name, tag in ledger.tags().items()}
    deadline = time.monotonic() + patience
    while True:
        try:
            found = {name: _untimed(tag) for name, tag in feed.get(ledger.ids()).items()}
            listed = {tag.id for cluster in feed.clusters() for tag in _all(feed, cluster)}
        except redis.RedisError as error:
            return 0, [f"Redis does not answer: {type(error).__name__}"]
        if (found == expected and listed == set(expected)) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    problems = []
    if found != expected:
        wrong = [i for i in {*found, *expected} if found.get(i) != expected.get(i)]
        problems.append(
            f"Redis differs from the tags topic for {len(wrong)} uploads, among them {min(wrong)}"
        )
    if listed != set(expected):
        problems.append(f"the clusters' lists in Redis hold {len(listed)} of {len(expected)} uploads")
    return sum(found.get(i) == tag for i, tag in expected.items()), problems


def _untimed(tag: Tag) -> Tag:
    """Two tags are equal when all but `tagged_at` is; at-least-once delivery may repeat one."""
    return dataclasses.replace(tag, tagged_at=0)


def _all(feed: Feed, cluster: int) -> Iterator[Tag]:
    cursor: str | None = None
    while True:
        page = feed.latest(cluster, 1000, cursor)
        yield from page.tags
        cursor = page.cursor
        if cursor is None:
            return


def check_metrics(ledger: Ledger, samples: Samples) -> list[str]:
    """Whether the worker's own count of superseded uploads is what was sent to be superseded."""
    expected = sum(event.expected == SUPERSEDED for event in ledger.events)
    counted = samples.value(UPLOADS.name, outcome=SUPERSEDED)
    return [] if counted == expected else [f"{counted:.0f} uploads were superseded, expected: {expected}"]
