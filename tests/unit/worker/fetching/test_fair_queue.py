"""`worker.fetching.fair_queue`: no host keeps the others waiting."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from worker.fetching.fair_queue import FairQueue, host_of


def test_hosts_take_turns() -> None:
    """A host with many items gets no more than its turn."""
    queue: FairQueue[int] = FairQueue(per_host=10)
    for i in range(3):
        queue.put("a", i)
    queue.put("b", 10)
    assert [queue.take() for _ in range(4)] == [("a", 0), ("b", 10), ("a", 1), ("a", 2)]
    assert queue.take() is None


def test_a_host_at_its_limit_waits_and_goes_on() -> None:
    """The limit holds the host's own items back, and nobody else's."""
    queue: FairQueue[int] = FairQueue(per_host=1)
    for i in range(2):
        queue.put("a", i)
    assert queue.take() == ("a", 0)
    assert queue.take() is None
    queue.put("b", 5)
    assert queue.take() == ("b", 5)
    queue.done("a")
    assert queue.take() == ("a", 1)


@given(st.lists(st.tuples(st.sampled_from(["put", "take", "done"]), st.sampled_from("abc")), max_size=200))
def test_every_item_comes_once_in_its_hosts_order_within_the_limit(steps: list[tuple[str, str]]) -> None:
    """Whatever the order of calls: nothing is lost or doubled, order holds within a host, limits hold."""
    queue: FairQueue[int] = FairQueue(per_host=2)
    put: dict[str, list[int]] = {host: [] for host in "abc"}
    taken: dict[str, list[int]] = {host: [] for host in "abc"}
    working: Counter[str] = Counter()
    for number, (step, host) in enumerate(steps):
        if step == "put":
            queue.put(host, number)
            put[host].append(number)
        elif step == "done" and working[host]:
            queue.done(host)
            working[host] -= 1
        elif step == "take":
            found = queue.take()
            could = [h for h in "abc" if len(taken[h]) < len(put[h]) and working[h] < 2]
            assert (found is not None) == bool(could)
            if found is not None:
                taken[found[0]].append(found[1])
                working[found[0]] += 1
        assert max(working.values(), default=0) <= 2
        assert len(queue) == sum(len(put[h]) - len(taken[h]) for h in "abc")
    for host in "abc":
        assert put[host][: len(taken[host])] == taken[host]


def test_what_was_held_comes_first_again() -> None:
    """Items that are put back go before their host's others, and their host before the other hosts."""
    queue: FairQueue[int] = FairQueue(per_host=5)
    queue.put("b", 1)
    queue.put("a", 1)
    queue.put_first("a", 0)
    assert [queue.take() for _ in range(3)] == [("a", 0), ("b", 1), ("a", 1)]


def test_claims_count_and_drops_leave_nothing() -> None:
    """Work that did not come from the queue counts towards the limit; what is dropped is gone for good."""
    queue: FairQueue[int] = FairQueue(per_host=1)
    queue.put("a", 0)
    queue.put("b", 1)
    queue.claim("a")
    assert queue.take() == ("b", 1)
    assert queue.take() is None
    queue.put("b", 2)
    queue.drop(lambda item: item == 0)
    assert len(queue) == 1
    queue.done("a")
    queue.done("b")
    assert queue.take() == ("b", 2)
    assert (len(queue), queue.take()) == (0, None)


def test_the_host_of_hostile_urls_is_bounded() -> None:
    """Whatever stands there, a short text comes out."""
    assert host_of("http://A.example:80/x?y//z") == "a.example:80"
    assert host_of("nonsense") == ""
    assert len(host_of("http://" + "a" * 9000)) == 300
