"""The faults: each breaks one thing, for real, and repairs it before it returns."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from tests.faults.surroundings import EXIT_START, SESSION, Surroundings, Worker

# Of worker/kafka/failpoints.py: those that only a partition that comes or goes leads to need a rebalance.
FAILPOINTS = (
    "before-send-offsets",
    "after-send-offsets",
    "before-commit",
    "during-commit",
    "after-commit",
    "in-revoke",
    "after-committed-read",
    "retry-restore",
)
AT_START = ("after-committed-read", "retry-restore")
READY = 240.0  # seconds until a worker is ready
PATIENCE = 60.0  # seconds from then on until a failpoint is reached
TRIES = 2
T = TypeVar("T")


def _look_for(find: Callable[[], T]) -> T:
    """What there is within `PATIENCE`; nothing of its kind if there is none."""
    deadline = time.monotonic() + PATIENCE
    while not (found := find()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@dataclasses.dataclass(slots=True)
class Breaker:
    """Breaks the parts of a run; the dice are the run's own, so that it can be repeated.

    Attributes:
        share: uploads of this step that are not sent yet.
        spare: uploads of no step, which are sent at the end.
        done: how often each thing was done.
        missed: failpoints that were not reached.
        anew: makes the topics anew, with nobody there or not; whether that was seen by the workers.
    """

    parts: Surroundings
    dice: random.Random
    say: Callable[[str], None]
    grant: Callable[[int], None]
    anew: Callable[[bool], bool]
    share: int = 0
    spare: int = 0
    done: Counter[str] = dataclasses.field(default_factory=Counter)
    missed: list[str] = dataclasses.field(default_factory=list)

    def feed(self, count: int | None = None) -> None:
        """Let so many of this step's uploads be sent, or the rest of them."""
        count = self.share if count is None else min(count, self.share)
        self.share -= count
        self.grant(count)

    def _some_worker(self) -> Worker:
        self.parts.watch()
        return self.dice.choice(self.parts.workers)

    def _while(self, low: float, high: float) -> None:
        time.sleep(self.dice.uniform(low, high))

    # ── workers ──────────────────────────────────────────────────────────────────────────────────────────

    def failpoint(self, name: str, action: str) -> None:
        """A worker that kills or freezes itself at a failpoint joins; after that it is as any that died.

        Where it is not reached in time (the group may be busy with an earlier fault), another one tries, with
        uploads that were spared for the end.
        """
        for _ in range(TRIES):
            if self._failpoint(name, action):
                return
            borrowed = self.spare // 2
            self.spare -= borrowed
            self.share += borrowed
        self.missed.append(name)

    def _failpoint(self, name: str, action: str) -> bool:
        """Whether it was reached."""
        nth = self.dice.randint(1, 3 if name in AT_START else 6) if name != "in-revoke" else 1
        worker = self.parts.join(IMGCLUST_FAILPOINT=f"{name}={action}@{nth}")
        others: list[Worker] = []
        portion, ready = max(1, self.share // 20), name in AT_START
        deadline = time.monotonic() + (PATIENCE if ready else READY)
        while time.monotonic() < deadline and worker.code is None and not worker.stopped:
            if not ready:
                if ready := worker.is_ready():
                    deadline = time.monotonic() + PATIENCE
            elif name == "in-revoke" and not others:
                others.append(self.parts.join())  # takes a share of everybody's partitions
            if ready:
                self.feed(portion)  # a little at a time, so that there is something to do until it happens
            time.sleep(0.1)
        reached = True
        if worker.stopped:
            self.done[f"{name}, frozen"] += 1
            time.sleep(SESSION + 2)
            worker.signal(signal.SIGCONT)
            self._while(1, 3)
        elif worker.code == -signal.SIGKILL:
            self.done[f"{name}, killed"] += 1
        else:
            reached = False
            self.say(f"{name} was not reached within {PATIENCE:g} s")
        if worker.code is None:
            froze = self.parts.leave(worker, armed=not reached)
            if froze or (not reached and worker.code == -signal.SIGKILL):
                reached = True  # in the revocation of its leaving
                self.done[f"{name}, {'frozen' if froze else 'killed'}"] += 1
        else:
            worker.expected = {-signal.SIGKILL} if worker.code == -signal.SIGKILL else None
            self.parts.gone(worker)
        for other in others:
            self.parts.leave(other)
        return reached

    def kill_worker(self) -> None:
        """kill -9 at a random moment, and a new one at once."""
        self.feed()
        self._while(0, 1.5)
        self.parts.kill(self._some_worker())
        self.parts.join()
        self.done["worker killed"] += 1

    def freeze_worker(self) -> None:
        """It sleeps for longer than its membership lasts, and wakes up with what it held."""
        self.feed()
        self._some_worker().freeze(SESSION + self.dice.uniform(1, 4))
        self.done["worker frozen"] += 1

    def rebalance(self) -> None:
        """One joins under load, and one leaves: two rebalances."""
        self.feed()
        worker = self.parts.join()
        self.parts.wait_ready(worker)
        self._while(0.5, 1.5)
        self.parts.leave(self._some_worker())
        self.done["joined and left"] += 1

    def kill_fetcher(self) -> None:
        """A fetcher process dies with the images that it holds."""
        self.feed()
        worker = self._some_worker()
        self.parts.wait_ready(worker)
        if fetchers := _look_for(worker.fetchers):
            os.kill(fetchers[0], signal.SIGKILL)
            self.done["fetcher killed"] += 1
        else:
            self.missed.append("a fetcher to kill")

    # ── what they rest on ────────────────────────────────────────────────────────────────────────────────

    def restart_broker(self) -> None:
        self.feed()
        self.parts.broker.restart(self.dice.uniform(0.5, 3))
        self.done["broker killed"] += 1

    def freeze_broker(self) -> None:
        self.feed()
        self.parts.broker.freeze(30)
        self.done["broker frozen for 30 s"] += 1

    def start_without_broker(self) -> None:
        """A worker starts while the broker is away: it waits, and then works like the others."""
        self.feed()
        before = len(self.parts.workers)
        self.parts.broker.restart(self.dice.uniform(3, 6), meanwhile=lambda: self.parts.join() and None)
        newest = self.parts.workers[before]
        if self.parts.wait_ready(newest):
            self.done["started without the broker"] += 1
        else:
            self.missed.append("a start without the broker")
        self.parts.leave(newest)

    def add_partition(self) -> None:
        """To the uploads topic alone, and to the others a while later."""
        self.feed()
        self.parts.broker.add_partition(self.dice.uniform(3, 6))
        self.done["partition added"] += 1

    def make_topics_anew(self) -> None:
        """Those of uploads and retries, while workers run or while none does."""
        self.feed()
        stopped = self.dice.random() < 0.5
        if self.anew(stopped):
            self.done[f"topics made anew, {'nobody there' if stopped else 'workers at work'}"] += 1
        else:
            self.missed.append("topics made anew")

    def withdraw_right(self) -> None:
        """To write tags: every worker ends and says so; when it is granted again, others go on."""
        workers = list(self.parts.workers)
        self.parts.broker.forbid()
        self.feed()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and any(worker.code is None for worker in workers):
            time.sleep(0.2)
        codes = {worker.code for worker in workers}
        self.parts.broker.allow()
        if codes == {EXIT_START}:
            self.done["right withdrawn"] += 1
        else:
            self.missed.append(f"the end of workers without a right (exit codes {codes})")

    def cut_log(self) -> None:
        self.feed()
        cut = _look_for(self.parts.broker.cut_log)
        self.parts.kill(self._some_worker())  # whoever comes next begins at the cut
        self.parts.join()
        if cut:
            self.done["log cut"] += 1
        else:
            self.missed.append("something to cut from the log")

    def kill_redis(self) -> None:
        """It comes back empty."""
        self.feed()
        self.parts.redis.kill()
        self._while(0.5, 2)
        self.parts.redis.start()
        self.done["Redis killed"] += 1

    def freeze_redis(self) -> None:
        self.feed()
        self.parts.redis.freeze()
        time.sleep(6)  # its clients give up after 5
        self.parts.redis.thaw()
        self.done["Redis frozen"] += 1

    def fill_redis(self) -> None:
        """It refuses every write that needs memory."""
        self.feed()
        client = self.parts.redis.client()
        client.config_set("maxmemory", "1mb")
        self._while(2, 4)
        client.config_set("maxmemory", "0")
        self.done["Redis filled"] += 1

    def stop_images(self) -> None:
        self.feed()
        self.parts.images.kill()
        self._while(0.5, 2)
        self.parts.images.start()
        self.done["image server down"] += 1


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How often each fault comes.

    Attributes:
        failpoint_kills, failpoint_freezes: at each of `kill_at`, and of `freeze_at`.
        rebalances: each time one joins and one leaves, which makes two.
    """

    failpoint_kills: int = 0
    failpoint_freezes: int = 0
    kills: int = 0
    freezes: int = 0
    rebalances: int = 0
    fetchers: int = 0
    broker_restarts: int = 0
    broker_freezes: int = 0
    redis: int = 0  # each of killed, frozen, filled
    images: int = 0
    starts_without_broker: int = 0
    partitions: int = 0  # added
    cuts: int = 0  # of the log's start
    topics_anew: int = 0
    rights: int = 0  # withdrawn; the workers log in then
    kill_at: tuple[str, ...] = FAILPOINTS
    freeze_at: tuple[str, ...] = FAILPOINTS

    @property
    def breaks_broker(self) -> bool:
        return bool(self.broker_restarts or self.broker_freezes or self.starts_without_broker)

    @property
    def outages(self) -> bool:
        """Whether a good picture may become a dead letter."""
        return bool(self.images)


Step = tuple[str, Callable[[Breaker], None]]


def schedule(plan: Plan, dice: random.Random) -> list[Step]:
    """All faults of a plan, in an order that the dice decide."""
    steps: list[Step] = []
    for action, names, times in (
        ("kill", plan.kill_at, plan.failpoint_kills),
        ("stop", plan.freeze_at, plan.failpoint_freezes),
    ):
        for name in names:
            step = (f"{name}={action}", lambda b, n=name, a=action: b.failpoint(n, a))
            steps += [step] * times
    several: list[tuple[str, Callable[[Breaker], None], int]] = [
        ("kill -9 a worker", Breaker.kill_worker, plan.kills),
        ("freeze a worker", Breaker.freeze_worker, plan.freezes),
        ("one joins, one leaves", Breaker.rebalance, plan.rebalances),
        ("kill a fetcher", Breaker.kill_fetcher, plan.fetchers),
        ("kill the broker", Breaker.restart_broker, plan.broker_restarts),
        ("freeze the broker for 30 s", Breaker.freeze_broker, plan.broker_freezes),
        ("kill Redis", Breaker.kill_redis, plan.redis),
        ("freeze Redis", Breaker.freeze_redis, plan.redis),
        ("fill Redis", Breaker.fill_redis, plan.redis),
        ("stop the image server", Breaker.stop_images, plan.images),
        ("start a worker without the broker", Breaker.start_without_broker, plan.starts_without_broker),
        ("add a partition", Breaker.add_partition, plan.partitions),
        ("cut the log", Breaker.cut_log, plan.cuts),
        ("make the topics anew", Breaker.make_topics_anew, plan.topics_anew),
        ("withdraw a right", Breaker.withdraw_right, plan.rights),
    ]
    for name, do, times in several:
        steps += [(name, do)] * times
    dice.shuffle(steps)
    return steps
