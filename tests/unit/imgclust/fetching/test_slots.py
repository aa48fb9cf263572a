"""`imgclust.fetching.slots`: nobody exceeds a limit, nobody waits behind a key that is full."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.fetching.slots import Slots


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=40),
)
def test_limits_hold_and_all_are_served(
    total: int, per_key: int, holders: list[tuple[str, int, bool]]
) -> None:
    """Whatever comes, stays how long, or is cancelled while it waits or holds: the limits hold, and in the
    end everything is free again."""

    async def go() -> None:
        slots = Slots(total, lambda _: per_key)
        held: Counter[str] = Counter()
        served = []

        async def holder(number: int, key: str, turns: int) -> None:
            async with slots.hold(key):
                held[key] += 1
                try:
                    assert held.total() <= total
                    assert held[key] <= per_key
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    served.append(number)
                finally:
                    held[key] -= 1

        tasks = []
        for number, (key, turns, cancel) in enumerate(holders):
            tasks.append(asyncio.create_task(holder(number, key, turns)))
            await asyncio.sleep(0)
            if cancel:
                tasks[number // 2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert set(served) == {n for n, task in enumerate(tasks) if not task.cancelled()}
        assert held.total() == 0
        await asyncio.wait_for(asyncio.gather(*(holder(-1, "d", 1) for _ in range(total))), 60)

    asyncio.run(go())


def test_a_full_key_blocks_nobody_else_and_the_first_come_first() -> None:
    """Others pass those that wait for their own key; among equals the order of asking counts."""

    async def go() -> None:
        slots = Slots(2, lambda key: 1)
        order = []
        leave = asyncio.Event()

        async def holder(name: str, key: str) -> None:
            async with slots.hold(key):
                order.append(name)
                await leave.wait()

        tasks = []
        for name, key in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
            tasks.append(asyncio.create_task(holder(name, key)))
            await asyncio.sleep(0)
        assert order == ["a1", "b1"]
        leave.set()
        await asyncio.gather(*tasks)
        assert order == ["a1", "b1", "a2", "a3"]

    asyncio.run(go())


def test_a_key_may_be_refused_while_it_waits() -> None:
    """Those that wait for it fail, those that hold it and all others go on."""

    async def go() -> None:
        slots = Slots(2, lambda key: 1)
        async with slots.hold("a"):
            waiting = asyncio.create_task(slots.hold("a").__aenter__())
            await asyncio.sleep(0)
            slots.refuse("a", lambda: ValueError("no"))
            with pytest.raises(ValueError, match="no"):
                await waiting
            async with slots.hold("b"):
                pass
        async with slots.hold("a"):
            pass

    asyncio.run(go())
