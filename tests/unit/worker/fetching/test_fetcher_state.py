"""`worker.fetching.fetcher_state` and `worker.fetching.protocol`: the fetcher that the parent keeps of each
fetcher."""

from collections import Counter

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.fetching.fetcher_state import FIRST_BACKOFF, HEARTBEAT_TIMEOUT, MAX_BACKOFF, FetcherState
from worker.fetching.protocol import Decoded, Failed, FetcherReport, Job, ProtocolError, read_report
from worker.fetching.quarantine import Quarantine


def state(slots: int = 4) -> FetcherState:
    return FetcherState(0, range(slots), Quarantine(Counter()))


def decoded(token: int, slot: int) -> Decoded:
    return Decoded(token, slot, 1, 1, 1, 0.1, 0.1)


def failed(token: int) -> Failed:
    return Failed(token, "not-found", "fetch", "gone", True, None)


def holding(*tokens: int) -> FetcherState:
    fetcher = state()
    for token in tokens:
        fetcher.assign(Job(token, "http://h/"))
    assert fetcher.next_message() == {"jobs": [(t, "http://h/") for t in tokens], "release": [], "forget": []}
    return fetcher


def test_outcomes_end_jobs_and_lend_slots() -> None:
    """What has ended is no longer held, and its slot is out until the consumer gives it back."""
    fetcher = holding(1, 2)
    ended, outcomes = fetcher.apply(FetcherReport(decoded=(decoded(1, 3),), failed=(failed(2),)))
    assert {job.token for job in ended} == {1, 2}
    assert outcomes == [decoded(1, 3), failed(2)]
    assert (fetcher.held, fetcher.lent) == ({}, {3})


@pytest.mark.parametrize(
    "report",
    [
        FetcherReport(decoded=(decoded(1, 4),)),
        FetcherReport(decoded=(decoded(1, -1),)),
        FetcherReport(decoded=(decoded(1, 0), decoded(2, 0))),
        FetcherReport(decoded=(decoded(1, 0), decoded(1, 1))),
        FetcherReport(decoded=(decoded(1, 0),), failed=(failed(1),)),
        FetcherReport(decoded=(decoded(1, 0),), failed=(failed(3),)),
        FetcherReport(decoded=(decoded(1, 2),)),
    ],
)
def test_of_a_lying_report_nothing_counts(report: FetcherReport) -> None:
    """Foreign, doubled and lent slots; foreign and doubled jobs: the fetcher stays as it was."""
    fetcher = holding(1, 2)
    fetcher.lent.add(2)
    with pytest.raises(ProtocolError):
        fetcher.apply(report)
    assert (sorted(fetcher.held), fetcher.lent) == ([1, 2], {2})


def test_the_forgotten_end_silently_and_their_slots_come_back() -> None:
    """Nobody hears of them, and the fetcher gets its slot again."""
    fetcher = holding(1, 2)
    fetcher.forget({1, 7})
    assert fetcher.next_message() == {"jobs": [], "release": [], "forget": [1]}
    ended, outcomes = fetcher.apply(FetcherReport(decoded=(decoded(1, 0), decoded(2, 1))))
    assert len(ended) == 2
    assert outcomes == [decoded(2, 1)]
    assert fetcher.lent == {1}


def test_slots_go_back_when_they_are_needed() -> None:
    """Not one by one while the fetcher has others, and not too late either."""
    fetcher = holding(1, 2, 3)
    fetcher.apply(FetcherReport(decoded=(decoded(1, 0),)))
    fetcher.slot_released(0)
    assert fetcher.next_message() is None
    fetcher.apply(FetcherReport(decoded=(decoded(2, 1),)))
    assert fetcher.next_message() == {"jobs": [], "release": [0], "forget": []}
    fetcher.slot_released(0)  # it is not out: a mistake that must not double it
    assert fetcher.next_message() is None


def test_a_new_process_may_fill_what_is_not_lent() -> None:
    """Slots given back in the meantime are not told twice."""
    fetcher = holding(1, 2)
    fetcher.apply(FetcherReport(decoded=(decoded(1, 0), decoded(2, 1))))
    fetcher.lost(0)
    fetcher.slot_released(1)
    assert fetcher.begin(now=0.0, beats=0) == [1, 2, 3]
    assert fetcher.next_message() is None
    fetcher.slot_released(0)
    fetcher.assign(Job(3, "u"))
    assert fetcher.next_message() == {"jobs": [(3, "u")], "release": [0], "forget": []}


def test_marks_and_heartbeats_are_timed_by_our_own_clock() -> None:
    """An image has its time from when it was first seen, the next one anew; silence is noticed."""
    fetcher = state()
    fetcher.begin(now=0.0, beats=5)
    assert fetcher.overdue(10.0, 7, 6, 30.0) == ""
    assert fetcher.overdue(39.9, 7, 7, 30.0) == ""
    assert "more than 30 s" in fetcher.overdue(40.1, 7, 8, 30.0)
    assert fetcher.overdue(40.2, 8, 9, 30.0) == ""
    assert fetcher.overdue(40.3, 0, 10, 30.0) == ""
    assert fetcher.overdue(40.3 + HEARTBEAT_TIMEOUT + 29, 0, 10, 30.0) == ""
    assert "no sign of life" in fetcher.overdue(40.3 + HEARTBEAT_TIMEOUT + 31, 0, 10, 30.0)


def test_a_place_that_achieves_nothing_waits_longer_and_longer() -> None:
    """Two starts at once, then later and later; an outcome makes up for all."""
    fetcher = state()
    assert [fetcher.back_off(0.0) for _ in range(4)] == [0.0, 0.0, FIRST_BACKOFF, 2 * FIRST_BACKOFF]
    assert [fetcher.back_off(0.0) for _ in range(20)][-1] == MAX_BACKOFF
    fetcher.assign(Job(1, "u"))
    fetcher.apply(FetcherReport(failed=(failed(1),)))
    assert fetcher.back_off(5.0) == 0.0
    assert fetcher.start_at == 5.0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 2**60) | st.floats() | st.text(), st.lists, max_leaves=20
    )
)
def test_any_line_is_a_report_or_a_protocol_error(value: object) -> None:
    """Whatever JSON a fetcher sends in whatever place."""
    for message in (
        value,
        {"decoded": value, "failed": []},
        {"decoded": [], "failed": [value]},
        {"ready": value},
    ):
        try:
            line = orjson.dumps(message)
        except TypeError:
            continue
        try:
            read_report(line)
        except ProtocolError as error:
            assert str(error).isprintable()
        else:
            assert isinstance(message, dict)
