"""`worker.fetching.process.Room`: how many bytes of bodies a fetcher holds at once."""

import asyncio
from collections.abc import Coroutine

from worker.fetching.process import ByteBudget, Item


def run(coroutine: Coroutine[object, object, None]) -> None:
    asyncio.run(coroutine)


def item() -> Item:
    return Item(1, "", "")


def test_who_asks_first_gets_first_and_the_total_holds() -> None:
    """What does not fit waits, and what comes after it waits behind it although it would fit."""

    async def go() -> None:
        room = ByteBudget(100)
        first, large, small = item(), item(), item()
        await room.take(first, 60)
        waiting = [asyncio.create_task(room.take(large, 50)), asyncio.create_task(room.take(small, 10))]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        room.give_back(first)
        await asyncio.gather(*waiting)
        assert (first.room, large.room, small.room) == (0, 50, 10)

    run(go())


def test_one_that_is_larger_than_all_gets_it_alone() -> None:
    """Nothing waits for ever."""

    async def go() -> None:
        room = ByteBudget(100)
        huge, other = item(), item()
        await room.take(huge, 1000)
        waiting = asyncio.create_task(room.take(other, 1))
        await asyncio.sleep(0)
        assert not waiting.done()
        room.give_back(huge)
        await waiting

    run(go())


def test_who_gives_up_while_waiting_holds_nothing() -> None:
    """Cancelled before or in the very moment of the grant: the room is there for the next."""

    async def go() -> None:
        room = ByteBudget(100)
        first, gone, late, last = item(), item(), item(), item()
        await room.take(first, 100)
        one = asyncio.create_task(room.take(gone, 100))
        two = asyncio.create_task(room.take(late, 100))
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.sleep(0)
        room.give_back(first)  # grants to the second
        two.cancel()
        await asyncio.gather(one, two, return_exceptions=True)
        assert two.cancelled()
        await asyncio.wait_for(room.take(last, 100), 5)
        assert (gone.room, late.room, last.room) == (0, 0, 100)

    run(go())
