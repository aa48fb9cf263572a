"""worker.kafka.pending_retries: pending retries and their due times."""

from hypothesis import given
from hypothesis import strategies as st

from worker.kafka.pending_retries import PendingRetries, delay
from worker.settings.values import RetryLimits


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from("abcdef"), st.floats(0, 100)),
            st.tuples(st.just("remove"), st.sampled_from("abcdef"), st.just(0.0)),
            st.tuples(st.just("take"), st.just(""), st.floats(0, 100)),
        ),
        max_size=200,
    )
)
def test_like_a_plain_dictionary(steps: list[tuple[str, str, float]]) -> None:
    """Against a dictionary as the model: an item comes back once, when due, earliest first; a removed or
    replaced one never."""
    pending: PendingRetries[int] = PendingRetries()
    model: dict[str, tuple[float, int]] = {}
    for number, (step, key, time) in enumerate(steps):
        if step == "add":
            pending.add(key, number, time, 0.0)
            model[key] = (time, number)
        elif step == "remove":
            expected = model.pop(key, None)
            assert pending.remove(key) == (None if expected is None else expected[1])
        else:
            due = sorted((t, n, k) for k, (t, n) in model.items() if t <= time)
            assert [(dict(pending_times(model)))[n] for n in pending.take_due(time, 1000)] == [
                t for t, _, _ in due
            ]
            for _, _, k in due:
                del model[k]
        assert len(pending) == len(model)
        assert sorted(pending.items()) == sorted(n for _, n in model.values())


def pending_times(model: dict[str, tuple[float, int]]) -> list[tuple[int, float]]:
    return [(number, time) for time, number in model.values()]


def test_take_due_is_bounded() -> None:
    """No more than the room that there is; the rest stays pending."""
    pending: PendingRetries[int] = PendingRetries()
    for n in range(5):
        pending.add(str(n), n, float(n), 0.0)
    assert pending.take_due(10.0, 2) == [0, 1]
    assert (len(pending), pending.due(3.5)) == (3, 3)
    assert pending.take_due(10.0, 0) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "take", "due"]), st.sampled_from("abcd"), st.integers(0, 50)
        ),
        max_size=100,
    )
)
def test_counts_agree_with_a_plain_count(steps: list[tuple[str, str, int]]) -> None:
    """How many are due, since when the oldest waits, how many bytes there are: whatever was added, replaced,
    removed or taken."""
    pending: PendingRetries[str] = PendingRetries()
    model: dict[str, tuple[int, int]] = {}  # key → due, since
    now = 0
    for number, (step, key, time) in enumerate(steps):
        if step == "add":
            pending.add(key, key, time, number, number)
            model[key] = (time, number)
        elif step == "remove":
            pending.remove(key)
            model.pop(key, None)
        elif step == "take":
            for taken in pending.take_due(now, 1):
                del model[taken]
        else:
            now = max(now, time)
        # what was due once stays due: time does not go back
        assert pending.due(now) == sum(due <= now for due, _ in model.values())
        assert pending.oldest() == min((since for _, since in model.values()), default=None)
        assert pending.nbytes == sum(number for _, number in model.values())


def test_limits_by_code() -> None:
    """A code may have a number of tries of its own."""
    limits = RetryLimits(5, {"not-found": 8})
    assert [limits.of(code) for code in ("not-found", "fetch-failed")] == [8, 5]


@given(st.integers(1, 50), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1e6)))
def test_delays_grow_within_bounds(attempt: int, spread: float, retry_after: float | None) -> None:
    """At least 80 % of the grown delay, never above the longest; Retry-After is honoured up to it."""
    wait = delay(attempt, 2.0, 600.0, spread, retry_after)
    assert min(600.0, 2.0 * 4 ** (attempt - 1)) * 0.8 <= wait <= 600.0
    assert wait >= min(600.0, retry_after or 0.0)


def test_delays_by_hand() -> None:
    """2, 8, 32 seconds in the middle of the spread."""
    assert [delay(n, 2.0, 600.0, 0.5) for n in (1, 2, 3)] == [2.0, 8.0, 32.0]
