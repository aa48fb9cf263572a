"""The checker of the fault tests catches every way in which a history can be wrong, and no right one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.checker import Event, History, Published, Shown, Verdict, check
from tests.support.strategies import of_any_length


def event(number: int, upload_id: str, offset: int, kind: str = "tag", partition: int = 1) -> Event:
    return Event(
        number,
        upload_id,
        partition,
        offset,
        cluster=number % 7 if kind == "tag" else None,
        deletion=kind == "delete",
        codes=frozenset({"not-found"}) if kind == "dead" else frozenset(),
    )


def result(of: Event, offset: int, at: int = 0, code: str | None = None) -> Published:
    tagged = of.cluster is not None and code is None
    return Published(
        of.id, of.partition, offset, of.position, at, code,
        b"tag %d" % of.number if tagged else None,
        of.number if tagged else None,
        of.cluster if tagged else None,
    )  # fmt: skip


TAGGED = event(0, "a", 10)
EARLIER, LATER = event(1, "b", 11), event(2, "b", 12)
DELETED = event(3, "c", 13, "delete")
DEAD = event(4, "d", 14, "dead")
TWICE, AGAIN = event(5, "e", 15), event(6, "e", 16)
R_TAGGED, R_LATER, R_DELETED = result(TAGGED, 0), result(LATER, 1), result(DELETED, 2)
R_DEAD = result(DEAD, 0, code="not-found")
R_TWICE, R_AGAIN = result(TWICE, 3), result(AGAIN, 4)

GOOD = History(
    events=[TAGGED, EARLIER, LATER, DELETED, DEAD, TWICE, AGAIN],
    results=[R_TAGGED, R_LATER, R_DELETED, R_DEAD, R_TWICE, R_AGAIN],
    view={
        "a": Shown((1, 0), b"tag 0"),
        "b": Shown((1, 1), b"tag 2"),
        "c": Shown((1, 2), None),
        "e": Shown((1, 4), b"tag 6"),
    },
)


def with_results(*results: Published) -> History:
    return dataclasses.replace(GOOD, results=results, view=None)


def test_a_right_history_is_right() -> None:
    """Tagged, superseded, deleted, dead, tagged twice for two events: counted, and nothing is found."""
    report = check(GOOD)
    assert report.ok
    assert dataclasses.astuple(report)[:9] == (7, 4, 1, 1, 1, 0, 0, 0, 0)
    assert [line.split()[0] for line in report.lines()] == [
        "sent", "tagged", "deleted", "dead", "superseded", "duplicates", "lost", "out", "wrong",
    ]  # fmt: skip


WITHOUT_VIEW = dataclasses.replace(GOOD, view=None)
R_STALE = result(EARLIER, 9)  # of the superseded event, behind that of the later one
WRONG: dict[str, tuple[History, Callable[[Verdict], int], str]] = {
    "a tag twice": (
        with_results(*GOOD.results, dataclasses.replace(R_TAGGED, offset=9)),
        lambda r: r.duplicates, "has tags 1:0 and tags 1:9",
    ),
    "a tag and a dead letter": (
        dataclasses.replace(
            WITHOUT_VIEW,
            events=[dataclasses.replace(TAGGED, codes=frozenset({"not-found"})), *GOOD.events[1:]],
            results=[*GOOD.results, result(TAGGED, 5, code="not-found")],
        ),
        lambda r: r.duplicates, "has tags 1:0 and dead letter 1:5",
    ),
    "a deletion twice": (
        with_results(*GOOD.results, dataclasses.replace(R_DELETED, offset=9)), lambda r: r.duplicates, "'c'",
    ),
    "a dead letter twice": (
        with_results(*GOOD.results, dataclasses.replace(R_DEAD, offset=9)), lambda r: r.duplicates, "'d'",
    ),
    "an upload without a result": (
        with_results(*GOOD.results[1:]), lambda r: r.lost, "event 0 of 'a' at 1:10",
    ),
    "a deletion without a result": (
        with_results(R_TAGGED, R_LATER, R_DEAD, R_TWICE, R_AGAIN), lambda r: r.lost, "event 3",
    ),
    "the last event of an id without a result": (
        with_results(R_TAGGED, R_STALE, R_DELETED, R_DEAD, R_TWICE, R_AGAIN), lambda r: r.lost, "event 2",
    ),
    "a stale tag last": (
        with_results(*GOOD.results, R_STALE), lambda r: r.out_of_order, "1:9, of (1, 11), follows tags 1:1",
    ),
    "two tags the wrong way round": (
        with_results(R_TAGGED, R_LATER, R_DELETED, R_DEAD,
                     dataclasses.replace(R_TWICE, offset=4), dataclasses.replace(R_AGAIN, offset=3)),
        lambda r: r.out_of_order, "follows tags 1:3",
    ),
    "a duplicate of an old tag, last": (
        with_results(*GOOD.results, dataclasses.replace(R_TWICE, offset=9)),
        lambda r: r.out_of_order and r.duplicates, "follows tags 1:4",
    ),
    "a dead letter long after a later tag": (
        dataclasses.replace(
            WITHOUT_VIEW,
            events=[TAGGED, dataclasses.replace(EARLIER, codes=frozenset({"x"})), *GOOD.events[2:]],
            results=[*GOOD.results, result(EARLIER, 5, at=1000, code="x")],
        ),
        lambda r: r.out_of_order, "was made 1000 ms after tags 1:1",
    ),
    "a result in another partition": (
        with_results(dataclasses.replace(R_TAGGED, partition=2), *GOOD.results[1:]),
        lambda r: r.wrong, "another partition",
    ),
    "a result under another key": (
        with_results(dataclasses.replace(R_TAGGED, id="z"), *GOOD.results[1:]),
        lambda r: r.wrong, "its key is 'z'",
    ),
    "a result of nothing": (
        with_results(*GOOD.results, dataclasses.replace(R_TAGGED, source=(1, 99))),
        lambda r: r.wrong, "no event",
    ),
    "a result without a source": (
        with_results(*GOOD.results, dataclasses.replace(R_TAGGED, source=None)),
        lambda r: r.wrong, "no event",
    ),
    "another picture's tag": (
        with_results(dataclasses.replace(R_TAGGED, cluster=5), *GOOD.results[1:]),
        lambda r: r.wrong, "cluster 5",
    ),
    "another event's tag": (
        with_results(dataclasses.replace(R_TAGGED, number=7), *GOOD.results[1:]),
        lambda r: r.wrong, "of event 7",
    ),
    "a tag where none can be": (
        with_results(R_TAGGED, R_LATER, R_DELETED,
                     dataclasses.replace(R_DEAD, code=None, value=b"tag"), R_TWICE, R_AGAIN),
        lambda r: r.wrong, "none can be",
    ),
    "a deletion that nobody asked for": (
        with_results(dataclasses.replace(R_TAGGED, value=None), *GOOD.results[1:]),
        lambda r: r.wrong, "none was asked for",
    ),
    "a dead letter that should be a tag": (
        with_results(result(TAGGED, 5, code="not-found"), *GOOD.results[1:]),
        lambda r: r.wrong, "a dead letter with not-found",
    ),
    "a dead letter with another code": (
        with_results(*GOOD.results[:3], dataclasses.replace(R_DEAD, code="too-large"), R_TWICE, R_AGAIN),
        lambda r: r.wrong, "too-large",
    ),
    "something still pending": (
        dataclasses.replace(GOOD, pending=frozenset({"a"})), lambda r: r.wrong, "still pending",
    ),
    "a view that lacks a tag": (
        dataclasses.replace(GOOD, view={k: v for k, v in (GOOD.view or {}).items() if k != "a"}),
        lambda r: r.wrong, "lacks 'a'",
    ),
    "a view with an older tag": (
        dataclasses.replace(GOOD, view={**(GOOD.view or {}), "e": Shown((1, 3), b"tag 5")}),
        lambda r: r.wrong, "at (1, 3)",
    ),
    "a view with a tag of a deleted upload": (
        dataclasses.replace(GOOD, view={**(GOOD.view or {}), "c": Shown((1, 2), b"tag")}),
        lambda r: r.wrong, "another tag",
    ),
    "a view with what tags does not have": (
        dataclasses.replace(GOOD, view={**(GOOD.view or {}), "y": Shown((1, 8), b"tag")}),
        lambda r: r.wrong, "does not have",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WRONG)
def test_a_wrong_history_is_caught(way: str) -> None:
    """Each way of being wrong is counted as what it is, and named."""
    history, count, text = WRONG[way]
    report = check(history)
    assert not report.ok
    assert count(report) == 1
    assert any(text in finding.text for finding in report.findings), report.findings
    ends = report.tagged + report.deleted + report.dead + report.superseded + report.lost
    assert report.sent == ends


def test_letters_and_tags_of_the_same_moment_are_in_order() -> None:
    """Timestamps of two topics may differ by the clock's grain."""
    events = [event(1, "b", 11, "dead"), event(2, "b", 12)]
    results = [result(events[0], 0, at=1020, code="not-found"), result(events[1], 0, at=1000)]
    assert check(History(events, results)).ok


@given(of_any_length(st.integers(0, 4 * 2**8 - 1), 1, 30), st.integers(0, 29))
def test_one_break_is_always_seen(history: list[int], broken: int) -> None:
    """In any right history, a result that is dropped, repeated or moved behind a later one is found."""
    events, results, offset = [], [], 0
    for number, drawn in enumerate(history):
        stays, who = divmod(drawn, 4)
        made = event(number, "abcd"[who], number)
        events.append(made)
        # what came before it may have been superseded
        results = [r for i, r in enumerate(results) if r.id != made.id or stays >> i % 8 & 1]
        results.append(result(made, offset))
        offset += 1
    assert check(History(events, results)).ok
    victim = results[broken % len(results)]
    later = [r for r in results if r.id == victim.id and (r.source or ()) > (victim.source or ())]
    repeated = [*results, dataclasses.replace(victim, offset=offset)]
    assert check(History(events, repeated)).duplicates == 1
    rest = [r for r in results if r is not victim]
    assert check(History(events, rest)).lost == (0 if later else 1)
    moved = check(History(events, [*rest, dataclasses.replace(victim, offset=offset)]))
    assert moved.out_of_order == (1 if later else 0)
