"""`imgclust.fetching.breaker`: a dead host costs the others nothing."""

from imgclust.fetching.breaker import FIRST_PAUSE, MAX_HOSTS, MAX_PAUSE, THRESHOLD, Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(THRESHOLD):
        assert breaker.wait("h") == 0
        breaker.failed("h")
    return breaker


def test_after_failures_in_a_row_the_host_is_not_asked() -> None:
    """It opens at the threshold, for that host alone, and names the seconds left."""
    clock = Clock()
    breaker = opened(clock)
    assert breaker.wait("h") == FIRST_PAUSE
    assert breaker.wait("other") == 0
    clock.now += FIRST_PAUSE / 2
    assert breaker.wait("h") == FIRST_PAUSE / 2


def test_one_probe_after_the_pause_decides() -> None:
    """After the pause one request passes; its answer opens the way for all."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_PAUSE
    assert breaker.wait("h") == 0
    assert breaker.wait("h") > 0
    breaker.answered("h")
    assert [breaker.wait("h") for _ in range(3)] == [0, 0, 0]


def test_failed_probes_double_the_pause_up_to_a_limit() -> None:
    """A host that stays dead is asked more and more rarely, and never forgotten for good."""
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    for _ in range(8):
        clock.now += breaker.wait("h")
        assert breaker.wait("h") == 0
        breaker.failed("h")
        pauses.append(breaker.wait("h"))
    assert pauses[:2] == [2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == MAX_PAUSE


def test_failures_under_way_do_not_count_as_probes() -> None:
    """Requests that were out when the pause began do not lengthen it."""
    clock = Clock()
    breaker = opened(clock)
    for _ in range(40):
        breaker.failed("h")
    assert breaker.wait("h") == FIRST_PAUSE


def test_an_answer_in_between_starts_the_count_anew() -> None:
    """Only failures in a row count."""
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(5 * THRESHOLD):
        breaker.failed("h")
        if breaker.wait("h"):
            raise AssertionError("opened")
        breaker.answered("h")


def test_memory_is_bounded() -> None:
    """Hosts are strangers' words: no more than a fixed number is remembered."""
    breaker = Breaker(Clock())
    for i in range(MAX_HOSTS + 100):
        breaker.failed(str(i))
    assert len(breaker._hosts) == MAX_HOSTS
