"""`worker.fetching.quarantine`: the one that kills is found, and nobody else is given up."""

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from worker.fetching.protocol import Job
from worker.fetching.quarantine import INNOCENT_TIMES, Quarantine


def job(token: int) -> Job:
    return Job(token, f"http://h/{token}")


def tokens(jobs: list[Job]) -> list[int]:
    return [j.token for j in jobs]


def test_the_marked_one_is_tried_alone_and_the_others_go_free() -> None:
    """The mark names one suspect; when it kills alone it is given up."""
    suspects = Quarantine(Counter())
    again, given_up = suspects.lost([job(1), job(2), job(3)], marked=2)
    assert (tokens(again), given_up, len(suspects)) == ([1, 3], [], 1)
    assert tokens(suspects.next_group()) == [2]
    assert suspects.trying
    again, given_up = suspects.lost([job(2)], marked=2)
    assert (again, tokens(given_up), suspects.trying) == ([], [2], False)


def test_the_marked_one_that_passes_alone_is_cleared() -> None:
    """After a group has ended well the place is for everybody again."""
    suspects = Quarantine(Counter())
    suspects.lost([job(1), job(2)], marked=2)
    suspects.next_group()
    assert suspects.next_group() == []
    assert not suspects.trying


def test_whoever_is_always_near_becomes_a_suspect() -> None:
    """A job that kills while others bear the mark does not go round for ever."""
    suspects = Quarantine(Counter())
    for round_ in range(INNOCENT_TIMES):
        victim = job(100 + round_)
        again, _ = suspects.lost([victim, job(1)], marked=victim.token)
        assert tokens(again) == ([1] if round_ < INNOCENT_TIMES - 1 else [])
    assert [1] in [tokens(suspects.next_group()) for _ in range(INNOCENT_TIMES + 1)]


def test_the_forgotten_are_not_tried() -> None:
    """A superseded suspect needs no trial."""
    suspects = Quarantine(Counter())
    suspects.lost([job(1), job(2), job(3)], marked=0)
    suspects.forget({1, 2, 3})
    assert len(suspects) == 0
    assert suspects.next_group() == []


@given(
    st.sets(st.integers(1, 40), max_size=4),
    st.integers(1, 40),
    st.integers(1, 12),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_exactly_the_killers_are_given_up(
    killers: set[int], count: int, window: int, marks: bool, chance: object
) -> None:
    """Whichever jobs kill, without a mark or with a wrong one: all others pass, and it comes to an end."""
    suspects, queue = Quarantine(Counter()), deque(job(i + 1) for i in range(count))
    passed: set[int] = set()
    given_up: set[int] = set()
    for _ in range(3000):
        held = suspects.next_group() or [queue.popleft() for _ in range(min(window, len(queue)))]
        if not held:
            break
        chance.shuffle(held)  # type: ignore[attr-defined]
        fatal = next((i for i, j in enumerate(held) if j.token in killers), None)
        passed |= {j.token for j in held[:fatal]}
        if fatal is None:
            continue
        rest = held[fatal:]
        marked = chance.choice(rest).token if marks else 0  # type: ignore[attr-defined]
        again, lost = suspects.lost(rest, marked)
        queue.extendleft(reversed(again))
        given_up |= {j.token for j in lost}
    everything = set(range(1, count + 1))
    assert given_up == killers & everything
    assert passed == everything - killers
