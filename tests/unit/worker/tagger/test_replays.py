"""Uploads that are sent again: none wins over an event that came meanwhile, and none is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.world import World, upload
from worker.messages.headers import ReplayHeaders, SourcePosition
from worker.tagger.replays import RecentEvents

EVENTS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcde"), st.integers(0, 3)), max_size=60)


@given(EVENTS, st.integers(1, 8), st.integers(0, 2), st.sampled_from("abcde"), st.integers(0, 80))
def test_it_says_what_was_or_that_it_does_not_know(
    events: list[tuple[int, str, int]], most: int, partition: int, upload_id: str, start: int
) -> None:
    """Compared with all events, in whatever order partitions take turns and offsets are passed over."""
    recent = RecentEvents(most)
    ends, happened = [5, 5, 5], []
    for number in range(3):
        recent.begin(number, 5)
    for number, name, gap in events:
        offset = ends[number] + gap
        ends[number] = offset + 1
        recent.saw(number, name, offset)
        happened.append((number, name, offset))
    truth = any(p == partition and n == upload_id and at >= start for p, n, at in happened)
    assert recent.later(partition, upload_id, start) in (truth, None)
    if start >= ends[partition]:
        assert recent.later(partition, upload_id, start) is False
    if len({(p, n) for p, n, _ in happened}) <= most and start >= 5:
        assert recent.later(partition, upload_id, start) is truth


def test_a_partition_that_comes_back_is_known_from_its_new_position() -> None:
    """Others may have read it meanwhile."""
    recent = RecentEvents()
    recent.begin(0, 10)
    assert recent.later(0, "a", 10) is False
    recent.begin(0, 50)
    assert recent.later(0, "a", 10) is None
    assert recent.later(1, "a", 10) is None


def sent_again(world: World, seen: int | None, url: str) -> int:
    """The upload at 0:0 of the id "a" is a dead letter and is sent again; returns its new offset."""
    offset = len(world.consumer.logs[0])
    world.consumer.logs[0].append(upload("a", url))
    source = SourcePosition(0, 0, 1000)
    world.consumer.replays[0, offset] = ReplayHeaders("0:0", source, "fetch-failed", seen)
    return offset


def dead_and(*later: bytes) -> World:
    """A world in which the first upload of "a" is a dead letter and what came later has its tag."""
    world = World({0: [upload("a", "http://x/first"), *later]})
    world.pipeline.run_once()
    while world.fetchers.jobs:
        world.answer(0, "dead" if world.fetchers.jobs[0].url.endswith("first") else "tag")
    world.settle()
    return world


@pytest.mark.parametrize("seen", [1, None])
def test_a_replay_goes_on(seen: int | None) -> None:
    """With nothing later it is tagged; also where whoever sent it did not say what they saw."""
    world = dead_and(upload("b"))
    offset = sent_again(world, seen, "http://x/again")
    world.settle()
    assert world.delivery.ends[-1].source.offset == offset
    assert world.ends()["superseded"] == 0


@pytest.mark.parametrize("seen", [1, None])
def test_a_replay_that_was_overtaken_is_dropped(seen: int | None) -> None:
    """A later event came and ended before the replay was read: its tag stays the last of the id."""
    world = dead_and()
    world.consumer.logs[0].append(upload("a", "http://x/later"))
    world.settle()
    before = list(world.delivery.ends)
    sent_again(world, seen, "http://x/again")
    world.settle()
    assert world.delivery.ends == before
    assert world.ends()["superseded"] == 1
    assert world.consumer.stored[0][0] == 3


def test_a_replay_that_is_read_with_its_later_event_is_dropped() -> None:
    """In one poll: the event is fetched, the replay is not."""
    world = dead_and()
    world.consumer.logs[0].append(upload("a", "http://x/later"))
    sent_again(world, 1, "http://x/again")
    world.pipeline.run_once()
    assert [job.url for job in world.fetchers.jobs] == ["http://x/later"]


def test_what_nobody_knows_is_a_dead_letter_again() -> None:
    """Another worker owned the partition when a later event may have come: nothing is overtaken or lost."""
    world = dead_and(upload("a", "http://x/later"))
    replays = world.consumer.replays
    world = world.next_life()
    world.consumer.replays = replays
    offset = sent_again(world, 1, "http://x/again")
    world.settle()
    last = world.delivery.ends[-1]
    assert (last.topic, last.source.offset) == ("dlq", offset)
    assert dict(last.headers)["error-code"] == b"fetch-failed"
