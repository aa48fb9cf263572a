"""worker.offsets: what is done → what may be committed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.offsets import MAX_METADATA_BYTES, SPAN, PartitionOffsets, decode_done, encode_done

positions = st.integers(0, 2**62)


@given(positions, st.sets(st.integers(0, SPAN - 1), max_size=200))
def test_metadata_round_trip(position: int, distances: set[int]) -> None:
    """What a commit's metadata says is read back exactly, and always fits into a broker's 4,096 bytes."""
    done = {position + d for d in distances}
    text = encode_done(position, done)
    assert len(text) <= MAX_METADATA_BYTES
    assert decode_done(position, text) == done


@pytest.mark.parametrize(
    "metadata", [None, "", "2:AAAA", "1:****", "1:A", "hello", "1:" + "A" * 5000, "1:\udcff"]
)
def test_foreign_metadata_says_nothing(metadata: str | None) -> None:
    """Metadata of another program, another version or damaged is ignored, never an error."""
    assert decode_done(7, metadata) == set()


def test_an_offset_out_of_reach_is_refused() -> None:
    """An offset that the metadata cannot hold raises instead of being forgotten."""
    with pytest.raises(ValueError, match="is not within"):
        encode_done(10, [10 + SPAN])
    with pytest.raises(ValueError, match="is not within"):
        encode_done(10, [9])


@given(st.data())
def test_commits_never_lose_and_never_repeat(data: st.DataObject) -> None:
    """Against a plain set as the model: whatever the gaps, the order of completion, and the moments of
    commits and restarts, a restart reads again exactly the offsets that were not done at the last commit."""
    log = sorted(data.draw(st.sets(st.integers(0, 300), min_size=1, max_size=80)))
    start = data.draw(st.integers(0, log[0]))
    offsets = PartitionOffsets(start)
    committed: tuple[int, str] = (start, "")
    done: set[int] = set()
    done_at_commit: set[int] = set()
    handed_out: list[int] = []
    unread = list(log)
    for _ in range(data.draw(st.integers(0, 120))):
        step = data.draw(st.sampled_from(["read", "finish", "commit", "restart"]))
        if step == "read" and unread:
            offset = unread.pop(0)
            if offsets.take(offset):
                assert offset not in done_at_commit
                handed_out.append(offset)
        elif step == "finish" and handed_out:
            offset = handed_out.pop(data.draw(st.integers(0, len(handed_out) - 1)))
            offsets.done(offset)
            done.add(offset)
        elif step == "commit":
            state = offsets.uncommitted()
            if state is not None:
                committed = state
                offsets.committed(state)
            done_at_commit = set(done)
        elif step == "restart":
            offsets = PartitionOffsets(*committed)
            done = set(done_at_commit)
            handed_out = []
            unread = [o for o in log if o >= committed[0]]
    position, metadata = committed
    again = {o for o in log if o >= position} - decode_done(position, metadata)
    assert again == set(log) - done_at_commit


def test_position_is_the_lowest_unfinished_offset() -> None:
    """A slow upload holds the position and nothing else: the ones above it are in the metadata."""
    offsets = PartitionOffsets(100)
    for offset in range(100, 110):
        assert offsets.take(offset)
    for offset in range(101, 110):
        offsets.done(offset)
    assert offsets.position == 100
    state = offsets.uncommitted()
    assert state is not None
    assert decode_done(*state) == set(range(101, 110))
    offsets.committed(state)
    assert offsets.uncommitted() is None
    offsets.done(100)
    assert offsets.uncommitted() == (110, "")


def test_after_a_failed_commit_the_same_is_said_again() -> None:
    """A commit that failed leaves its state uncommitted."""
    offsets = PartitionOffsets(0)
    offsets.take(0)
    offsets.done(0)
    state = offsets.uncommitted()
    offsets.not_committed()
    assert offsets.uncommitted() == state == (1, "")


def test_a_new_group_commits_where_it_began() -> None:
    """Without a committed offset the first position is committed, so that `latest` stays where it was."""
    assert PartitionOffsets(42, known=False).uncommitted() == (42, "")
    assert PartitionOffsets(42).uncommitted() is None


def test_intake_waits_when_the_metadata_is_full() -> None:
    """`fits` says no at the first offset that a commit cannot describe, until the slow one ends."""
    offsets = PartitionOffsets(0)
    offsets.take(0)
    assert offsets.fits(SPAN - 1)
    assert not offsets.fits(SPAN)
    offsets.done(0)
    assert offsets.fits(SPAN)


def test_records_read_twice_are_taken_once() -> None:
    """A seek back does not hand out an offset a second time."""
    offsets = PartitionOffsets(5)
    assert offsets.take(5)
    assert not offsets.take(5)
    assert not offsets.take(3)
