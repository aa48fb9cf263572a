"""worker.kafka.offsets: what is done → what may be committed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.strategies import of_any_length
from worker.kafka.offsets import (
    DOUBT_SPAN,
    ID_CHARS,
    MAX_MARK,
    MAX_METADATA_BYTES,
    SPAN,
    SUSPECT_AFTER,
    CommitTopics,
    PartitionOffsets,
    decode_done,
    encode_done,
    lives_of,
    mark_of,
)

positions = st.integers(0, 2**62)


marks = st.text("0123456789abcdefghijklmnopqrstuvwxyz-", max_size=MAX_MARK)


@given(positions, st.sets(st.integers(0, SPAN - 1), max_size=200), marks)
def test_metadata_round_trip(position: int, distances: set[int], mark: str) -> None:
    """What a commit's metadata says is read back exactly, and always fits into a broker's 4,096 bytes."""
    done = {position + d for d in distances}
    text = encode_done(position, done, mark, len(distances) % 100)
    assert len(text) <= MAX_METADATA_BYTES
    assert decode_done(position, text) == done
    assert mark_of(text) == mark
    assert lives_of(text) == len(distances) % 100


def test_the_longest_metadata_is_what_brokers_take() -> None:
    """All offsets of the span done and a mark of full length: within 4,095 bytes, and not far below."""
    topics = CommitTopics("a" * ID_CHARS, "b" * ID_CHARS, 10**9 - 1)
    text = encode_done(0, [SPAN - 1], "z" * MAX_MARK, 99, topics)
    assert MAX_METADATA_BYTES - 8 < len(text) <= MAX_METADATA_BYTES


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        "",
        "3::AAAA",
        "1:AAAA",
        "2::****",
        "2::A",
        "2:AAAA",
        "2:UPPER:AAAA",
        "hello",
        "2::" + "A" * 5000,
        "2::\udcff",
        "2:x:AAAA\n",
    ],
)
def test_foreign_metadata_says_nothing(metadata: str | None) -> None:
    """Metadata of another program, another version or damaged is ignored, never an error."""
    assert decode_done(7, metadata) == set()
    assert mark_of(metadata) == ""


def test_an_offset_out_of_reach_is_refused() -> None:
    """An offset that the metadata cannot hold raises instead of being forgotten."""
    with pytest.raises(ValueError, match="is not within"):
        encode_done(10, [10 + SPAN])
    with pytest.raises(ValueError, match="is not within"):
        encode_done(10, [9])


@given(
    st.sets(st.integers(0, 300), min_size=1, max_size=80),
    st.integers(0, 300),
    of_any_length(st.integers(0, 4 * 80 - 1), 0, 120),
)
def test_commits_never_lose_and_never_repeat(offsets_: set[int], first: int, steps: list[int]) -> None:
    """Against a plain set as the model: whatever the gaps, the order of completion, and the moments of
    commits and restarts, a restart reads again exactly the offsets that were not done at the last commit."""
    log = sorted(offsets_)
    start = min(first, log[0])
    offsets = PartitionOffsets(start)
    committed: tuple[int, str] = (start, "")
    done: set[int] = set()
    done_at_commit: set[int] = set()
    handed_out: list[int] = []
    unread = list(log)
    for number in steps:  # each says what is done and, where that is a choice, to which
        which, step = divmod(number, 4)
        if step == 0 and unread:  # read
            offset = unread.pop(0)
            if offsets.take(offset):
                assert offset not in done_at_commit
                handed_out.append(offset)
        elif step == 1 and handed_out:  # finish
            offset = handed_out.pop(which % len(handed_out))
            offsets.done(offset)
            done.add(offset)
            offsets.done(sorted(done)[which % len(done)])  # ended before: nothing changes
        elif step == 2:  # commit
            if offsets.uncommitted:
                committed = offsets.state()
                offsets.committed(committed)
            assert not offsets.uncommitted
            done_at_commit = set(done)
        elif step == 3:  # restart
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
    assert offsets.uncommitted
    state = offsets.state("mark")
    assert decode_done(*state) == set(range(101, 110))
    offsets.committed(state)
    assert not offsets.uncommitted
    offsets.done(100)
    assert offsets.uncommitted
    assert offsets.state(leaving=True) == (110, "")


def test_after_a_failed_commit_the_same_is_said_again() -> None:
    """A commit of which nobody knows whether it succeeded leaves its state uncommitted."""
    offsets = PartitionOffsets(0)
    offsets.take(0)
    offsets.done(0)
    offsets.committed(offsets.state())
    offsets.not_committed()
    assert offsets.uncommitted
    assert offsets.state()[0] == 1


def test_what_ends_during_a_commit_is_left_for_the_next() -> None:
    """The broker's answer is about the state that was sent, not about what has ended since."""
    offsets = PartitionOffsets(0)
    for offset in (0, 1):
        offsets.take(offset)
    offsets.done(0)
    sent = offsets.state()
    offsets.done(1)
    offsets.committed(sent)
    assert offsets.uncommitted
    assert offsets.state()[0] == 2


def test_an_owner_says_at_once_where_it_began() -> None:
    """The first commit is due before anything is done: with `latest` a new group stays where it was."""
    new = PartitionOffsets(42)
    assert new.uncommitted
    assert new.state()[0] == 42
    new.committed(new.state())
    assert not new.uncommitted


def begun_to_encode(committed: tuple[int, str]) -> PartitionOffsets:
    owner = PartitionOffsets(*committed)
    owner.encoding()
    return owner


def test_lives_count_owners_that_died_while_they_encoded_at_one_position() -> None:
    """Each owner that begins to encode at one position counts one more; one that leaves in order, or gets
    past the position, starts anew."""
    committed = begun_to_encode((7, "")).state("a")
    for expected in (1, 2, 3):
        assert lives_of(committed[1]) == expected
        owner = begun_to_encode(committed)
        owner.take(7)
        owner.take(8)
        owner.done(8)  # others get done, the position stays
        committed = owner.state("a")
    owner.done(7)
    assert owner.state()[0] == 9
    assert lives_of(owner.state()[1]) == 0
    assert lives_of(begun_to_encode(committed).state(leaving=True)[1]) == 0
    many = (7, encode_done(7, [], "a", 99))
    assert lives_of(begun_to_encode(many).state("z" * MAX_MARK)[1]) == 99


def test_suspicion_lasts_until_the_position_has_passed_the_suspects() -> None:
    """Suspects that are written down move the position: whoever dies meanwhile leaves the number of deaths to
    the next owner, who suspects what is left; behind them it is forgotten, and in an orderly end as well."""
    owner = PartitionOffsets(10, encode_done(10, [], lives=SUSPECT_AFTER), 13)
    for offset in range(10, 14):
        owner.take(offset)
    owner.encoding()
    for offset, expected in ((10, SUSPECT_AFTER), (11, SUSPECT_AFTER), (12, 0), (13, 0)):
        owner.done(offset)
        assert (lives_of(owner.state()[1]), owner.in_doubt) == (expected, expected > 0)
        assert lives_of(owner.state(leaving=True)[1]) == 0


def test_one_death_is_forgotten_when_the_position_moves() -> None:
    """It was a crash or a deployment, and nobody is a suspect."""
    owner = PartitionOffsets(10, encode_done(10, [], lives=1), 13)
    owner.take(10)
    owner.done(10)
    assert lives_of(owner.state()[1]) == 0


def test_an_owner_that_encodes_nothing_counts_no_life() -> None:
    """Neither its own, nor does it forget those of the others; an idle partition has none, ever."""
    committed: tuple[int, str] = (7, "")
    for _ in range(5):
        committed = PartitionOffsets(*committed).state("a")
    assert lives_of(committed[1]) == 0
    committed = begun_to_encode(committed).state("a")
    committed = PartitionOffsets(*committed).state("b")
    assert lives_of(committed[1]) == 1


def test_that_an_owner_encodes_is_committed_at_once_and_known_then() -> None:
    """Until a commit says so nothing should be encoded; beyond the first position it need not be said."""
    owner = PartitionOffsets(7)
    owner.committed(owner.state("a"))
    assert not owner.uncommitted
    owner.encoding()
    assert owner.uncommitted
    assert not owner.is_encoding_known
    owner.committed(owner.state("b"))
    assert owner.is_encoding_known
    assert not owner.uncommitted
    moved = PartitionOffsets(7)
    moved.take(7)
    moved.done(7)
    assert moved.is_encoding_known


def test_in_doubt_little_is_taken_beyond_the_position() -> None:
    """As long as the position is the one at which an owner died."""
    committed = begun_to_encode((7, "")).state("a")
    owner = PartitionOffsets(*committed)
    owner.take(7)
    owner.take(8)
    assert owner.fits(7 + DOUBT_SPAN - 1)
    assert not owner.fits(7 + DOUBT_SPAN)
    owner.done(7)
    assert owner.fits(7 + DOUBT_SPAN)


@given(st.integers(0, 1000), st.sets(st.integers(0, 9000), max_size=60))
def test_an_old_result_changes_nothing(start: int, taken: set[int]) -> None:
    """A retry that ends long after its offset was passed, or in a later assignment, moves no offset."""
    offsets = PartitionOffsets(start)
    for offset in sorted(start + t for t in taken):
        offsets.take(offset)
        offsets.done(offset)
    before = offsets.state()
    for offset in [
        *range(max(0, start - 5), start),
        *(start + t for t in taken),
        offsets.next,
        offsets.next + 7,
    ]:
        offsets.done(offset)
    assert offsets.state() == before


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
