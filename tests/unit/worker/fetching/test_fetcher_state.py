"""`worker.fetching.fetcher_state` and `worker.fetching.protocol`: the book that the parent keeps of each
fetcher."""

from collections import Counter

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.fetching.fetcher_state import FIRST_BACKOFF, HEARTBEAT_TIMEOUT, MAX_BACKOFF, FetcherState
from worker.fetching.protocol import Decoded, Failed, FetcherReport, Job, ProtocolError, read_report
from worker.fetching.quarantine import Quarantine


def place(slots: int = 4) -> FetcherState:
    return FetcherState(0, range(slots), Quarantine(Counter()))


def decoded(token: int, slot: int) -> Decoded:
    return Decoded(token, slot, 1, 1, 1, 0.1, 0.1)


def failed(token: int) -> Failed:
    return Failed(token, "not-found", "fetch", "gone", True, None)


def holding(*tokens: int) -> FetcherState:
    book = place()
    for token in tokens:
        book.give(Job(token, "http://h/"))
    assert book.news() == {"jobs": [(t, "http://h/") for t in tokens], "release": [], "forget": []}
    return book


def test_outcomes_end_jobs_and_lend_slots() -> None:
    """What has ended is no longer held, and its slot is out until the consumer gives it back."""
    book = holding(1, 2)
    ended, outcomes = book.hear(FetcherReport(decoded=(decoded(1, 3),), failed=(failed(2),)))
    assert {job.token for job in ended} == {1, 2}
    assert outcomes == [decoded(1, 3), failed(2)]
    assert (book.held, book.lent) == ({}, {3})


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
    """Foreign, doubled and lent slots; foreign and doubled jobs: the book stays as it was."""
    book = holding(1, 2)
    book.lent.add(2)
    with pytest.raises(ProtocolError):
        book.hear(report)
    assert (sorted(book.held), book.lent) == ([1, 2], {2})


def test_the_forgotten_end_silently_and_their_slots_come_back() -> None:
    """Nobody hears of them, and the fetcher gets its slot again."""
    book = holding(1, 2)
    book.forget({1, 7})
    assert book.news() == {"jobs": [], "release": [], "forget": [1]}
    ended, outcomes = book.hear(FetcherReport(decoded=(decoded(1, 0), decoded(2, 1))))
    assert len(ended) == 2
    assert outcomes == [decoded(2, 1)]
    assert book.lent == {1}


def test_slots_go_back_when_they_are_needed() -> None:
    """Not one by one while the fetcher has others, and not too late either."""
    book = holding(1, 2, 3)
    book.hear(FetcherReport(decoded=(decoded(1, 0),)))
    book.give_back(0)
    assert book.news() is None
    book.hear(FetcherReport(decoded=(decoded(2, 1),)))
    assert book.news() == {"jobs": [], "release": [0], "forget": []}
    book.give_back(0)  # it is not out: a mistake that must not double it
    assert book.news() is None


def test_a_new_process_may_fill_what_is_not_lent() -> None:
    """Slots given back in the meantime are not told twice."""
    book = holding(1, 2)
    book.hear(FetcherReport(decoded=(decoded(1, 0), decoded(2, 1))))
    book.lost(0)
    book.give_back(1)
    assert book.begins(now=0.0, beats=0) == [1, 2, 3]
    assert book.news() is None
    book.give_back(0)
    book.give(Job(3, "u"))
    assert book.news() == {"jobs": [(3, "u")], "release": [0], "forget": []}


def test_marks_and_heartbeats_are_timed_by_our_own_clock() -> None:
    """An image has its time from when it was first seen, the next one anew; silence is noticed."""
    book = place()
    book.begins(now=0.0, beats=5)
    assert book.overdue(10.0, 7, 6, 30.0) == ""
    assert book.overdue(39.9, 7, 7, 30.0) == ""
    assert "more than 30 s" in book.overdue(40.1, 7, 8, 30.0)
    assert book.overdue(40.2, 8, 9, 30.0) == ""
    assert book.overdue(40.3, 0, 10, 30.0) == ""
    assert book.overdue(40.3 + HEARTBEAT_TIMEOUT + 29, 0, 10, 30.0) == ""
    assert "no sign of life" in book.overdue(40.3 + HEARTBEAT_TIMEOUT + 31, 0, 10, 30.0)


def test_a_place_that_achieves_nothing_waits_longer_and_longer() -> None:
    """Two starts at once, then later and later; an outcome makes up for all."""
    book = place()
    assert [book.back_off(0.0) for _ in range(4)] == [0.0, 0.0, FIRST_BACKOFF, 2 * FIRST_BACKOFF]
    assert [book.back_off(0.0) for _ in range(20)][-1] == MAX_BACKOFF
    book.give(Job(1, "u"))
    book.hear(FetcherReport(failed=(failed(1),)))
    assert book.back_off(5.0) == 0.0
    assert book.start_at == 5.0


@given(st.recursive(st.none() | st.booleans() | st.integers(-3, 2**60) | st.floats() | st.text(), st.lists))
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
