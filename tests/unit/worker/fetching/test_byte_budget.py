"""`worker.fetching.byte_budget`: how many bytes of bodies a fetcher holds at once."""

import asyncio
from collections.abc import Coroutine

from worker.fetching.byte_budget import ByteBudget, Item


def run(coroutine: Coroutine[object, object, None]) -> None:
    asyncio.run(coroutine)


def item() -> Item:
    return Item(1, "", "")


def test_who_asks_first_gets_first_and_the_total_holds() -> None:
    """What does not fit waits, and what comes after it waits behind it although it would fit."""

    async def go() -> None:
        budget = ByteBudget(100)
        first, large, small = item(), item(), item()
        await budget.reserve(first, 60)
        waiting = [
            asyncio.create_task(budget.reserve(large, 50)),
            asyncio.create_task(budget.reserve(small, 10)),
        ]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        budget.release(first)
        await asyncio.gather(*waiting)
        assert (first.reserved, large.reserved, small.reserved) == (0, 50, 10)

    run(go())


def test_one_that_is_larger_than_all_gets_it_alone() -> None:
    """Nothing waits for ever."""

    async def go() -> None:
        budget = ByteBudget(100)
        huge, other = item(), item()
        await budget.reserve(huge, 1000)
        waiting = asyncio.create_task(budget.reserve(other, 1))
        await asyncio.sleep(0)
        assert not waiting.done()
        budget.release(huge)
        await waiting

    run(go())


def test_who_gives_up_while_waiting_holds_nothing() -> None:
    """Cancelled before or in the very moment of the grant: the budget is there for the next."""

    async def go() -> None:
        budget = ByteBudget(100)
        first, gone, late, last = item(), item(), item(), item()
        await budget.reserve(first, 100)
        one = asyncio.create_task(budget.reserve(gone, 100))
        two = asyncio.create_task(budget.reserve(late, 100))
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.sleep(0)
        budget.release(first)  # grants to the second
        two.cancel()
        await asyncio.gather(one, two, return_exceptions=True)
        assert two.cancelled()
        await asyncio.wait_for(budget.reserve(last, 100), 60)
        assert (gone.reserved, late.reserved, last.reserved) == (0, 0, 100)

    run(go())
