"""worker.tagger.pipeline on stand-ins for Kafka, the fetchers and inference.

Every upload ends once, and the last event of an id wins. The same promises are tested on real brokers in
tests/integration and tests/faults.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import orjson
import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from tests.support import fitted
from tests.support.world import MAKER, POLICY, RETRY, TOPICS, World, upload
from worker.errors import StartError
from worker.fetching.protocol import Decoded, Failed
from worker.kafka.delivery import Result
from worker.kafka.offsets import SUSPECT_AFTER, decode_done, lives_of
from worker.messages.embedding import EmbeddingWriter, read_embedding
from worker.messages.record import Record
from worker.messages.tag import Tag
from worker.tagger.pacing import FULL_WAIT, MAX_BYTES, PATIENCE
from worker.tagger.parts import PipelinePolicy
from worker.tagger.poison import DEATHS
from worker.tagger.prediction import Predicted, Ready
from worker.telemetry.metrics import Metrics

# one number draws an event, and one a move: choices of choices take hypothesis several times as long
events = st.sampled_from(
    [upload(f"p-{n}") for n in range(3)] * 2  # few ids, so that they supersede one another
    + [b"not an event", None] * 6
    + [orjson.dumps({"id": f"p-{n}", "deleted": True}) for n in range(2)] * 3
)
steps = st.lists(
    st.sampled_from(
        [("turn", 0), ("commit", 0)] * 84
        + [(how, n) for how in ("tag", "transient", "dead", "unencodable") for n in range(21)]
        + [("later", n) for n in range(1, 6)] * 17
        + [(how, n) for how in ("revoke", "lose", "die") for n in range(2)] * 14
    ),
    max_size=60,
)
METRICS = Metrics()  # of many worlds


def decoded(token: int, slot: int) -> Decoded:
    return Decoded(token, slot, 64, 48, 100, 0.0, 0.0)


def named(partition: int, event: bytes | None) -> bytes | None:
    """The same event with ids of its partition: all events of an id are in one."""
    return None if event is None else event.replace(b"p-", b"%d-" % partition)


@given(st.lists(events, max_size=25), st.lists(events, max_size=10), steps)
def test_every_upload_ends_once_and_the_last_event_of_an_id_wins(
    first: list[bytes | None], second: list[bytes | None], moves: list[tuple[str, int]]
) -> None:
    """Whatever fails, in whatever order results come back, however often partitions go and return and the
    process dies: in the end all offsets are committed, no event has two results, one without any was
    overtaken by a later event of its id, the last result of each id is that of its last event, and nothing is
    left in the retry topic."""
    logs = {0: [named(0, e) for e in first], 1: [named(1, e) for e in second]}
    world = World(logs, metrics=METRICS)
    for move, n in moves:
        if move == "turn":
            world.pipeline.run_once()
        elif move == "commit":
            world.delivery.commit()
        elif move == "later":
            world.now += n
        elif move == "die":
            world = world.next_life()
        elif move in ("revoke", "lose"):
            world.consumer.revoke(n, lost=move == "lose")
            world.pipeline.run_once()
            world.assign(n)
        elif world.fetchers.jobs:
            world.answer(n, move)
    world.settle()

    for partition, log in logs.items():
        position, metadata = world.consumer.stored[partition]
        assert (position, decode_done(position, metadata)) == (len(log), set())
    sources = Counter((r.source.partition, r.source.offset) for r in world.delivery.ends)
    assert set(sources.values()) <= {1}
    last_event: dict[str, int] = {}
    for partition, log in logs.items():
        for offset, event in enumerate(log):
            upload_id = id_of(partition, offset, event)
            if upload_id is None:
                assert sources[partition, offset] == 1
            else:
                last_event[upload_id] = offset
    last_result = {r.key.decode(): r for r in world.delivery.ends if r.key is not None}
    assert set(last_result) == set(last_event)
    for upload_id, offset in last_event.items():
        assert last_result[upload_id].source.offset == offset
    assert all(r.value is None for r in {r.key: r for r in world.delivery.retries}.values())


def id_of(partition: int, offset: int, event: bytes | None) -> str | None:
    if event is None:
        return f"{partition}-{offset % 3}"
    return None if event == b"not an event" else str(orjson.loads(event)["id"])


@given(st.lists(events, max_size=25), steps)
def test_without_a_rebalance_the_counters_are_exact(
    events_: list[bytes | None], moves: list[tuple[str, int]]
) -> None:
    """Each event is counted once, by how it ended."""
    world = World({0: [named(0, e) for e in events_]}, metrics=METRICS)
    for move, n in moves:
        if move == "turn":
            world.pipeline.run_once()
        elif move == "commit":
            world.delivery.commit()
        elif move == "later":
            world.now += n
        elif move not in ("revoke", "lose", "die") and world.fetchers.jobs:
            world.answer(n, move)
    world.settle()
    assert sum(world.ends().values()) == len(events_)
    assert len(world.delivery.ends) == len(events_) - world.ends()["superseded"]


def test_a_tag_says_what_was_predicted() -> None:
    """The published tag has the prediction, the names of the model, and what the upload said."""
    world = World({0: [orjson.dumps({"id": "a", "url": "http://x/1.jpg", "attributes": {"k": 1}})]})
    world.settle()
    (result,) = world.delivery.results
    assert (result.topic, result.key, result.source.partition) == ("tags", b"a", 0)
    tag = Tag.from_json(result.value or b"")
    assert (tag.id, tag.cluster, tag.name, tag.probability, tag.url) == (
        "a",
        1,
        "dogs",
        0.5,
        "http://x/1.jpg",
    )
    assert [(c.cluster, c.name, c.score) for c in tag.candidates] == [(1, "dogs", 0.5), (2, None, 0.25)]
    assert tag.attributes == {"k": 1}


def test_urls_can_be_left_out_of_tags() -> None:
    """WORKER_TAG_URL=false: signed URLs do not travel further."""
    world = World({0: [upload("a", "http://x/1.jpg?signature=s")]}, tag_url=False)
    world.settle()
    assert b"signature" not in (world.delivery.results[0].value or b"")


def test_transient_failures_are_tried_again_and_then_given_up() -> None:
    """Three tries with growing delays, then a dead letter with their number and the value unchanged."""
    world = World({0: [upload("a")]})
    waits = []
    for _ in range(3):
        while not world.fetchers.jobs:
            world.pipeline.run_once()
            world.now += 0.5
        waits.append(world.now)
        world.answer(0, "transient")
    world.pipeline.run_once()
    world.delivery.commit()
    (letter,) = world.delivery.ends
    headers = dict(letter.headers)
    assert (letter.topic, letter.key, letter.value) == ("dlq", b"a", upload("a"))
    assert headers["error-code"] == b"fetch-timeout"
    assert headers["attempts"] == b"3"
    assert waits[2] - waits[1] > waits[1] - waits[0] >= 1.0


def test_not_found_is_given_up_at_once_when_the_upload_is_old() -> None:
    """A 404 is tried again only for an upload of the last ten minutes."""
    for age, ends in ((60, "retried"), (700, "dead")):
        world = World({0: [orjson.dumps({"id": "a", "url": "u", "uploaded_at": "1970-01-01T00:00:00Z"})]})
        world.now = float(age)
        world.pipeline.run_once()
        job = world.fetchers.jobs.pop()
        world.pipeline.on_fetched([Failed(job.token, "not-found", "fetch", "404", True, None)])
        world.pipeline.run_once()
        assert [r.topic for r in world.delivery.gathered] == ["retry" if ends == "retried" else "dlq"]


def test_retry_after_is_honoured() -> None:
    """A server that asks for more time gets it."""
    world = World({0: [upload("a")]})
    world.pipeline.run_once()
    job = world.fetchers.jobs.pop()
    world.pipeline.on_fetched([Failed(job.token, "fetch-failed", "fetch", "503", True, 7.0)])
    world.pipeline.run_once()
    world.now = 6.9
    world.pipeline.run_once()
    assert not world.fetchers.jobs
    world.now = 7.1
    world.pipeline.run_once()
    assert len(world.fetchers.jobs) == 1


def test_a_moment_without_room_stops_reading_and_throws_nothing_away() -> None:
    """Never more in flight than allowed, but for what a look at the group brings; reading is not paused, and
    goes on with the first room."""
    world = World({0: [upload(f"0-{n}") for n in range(30)]})
    for _ in range(5):
        world.pipeline.run_once()
    assert POLICY.max_in_flight <= len(world.fetchers.jobs) <= POLICY.max_in_flight + 1
    assert not world.consumer.paused
    world.delivery.prompt = True
    for _ in range(4):
        world.answer(0, "tag")
    for _ in range(3):
        world.pipeline.run_once()
    assert POLICY.max_in_flight <= len(world.fetchers.jobs) <= POLICY.max_in_flight + 2


def test_what_stays_full_is_paused_and_goes_on_at_half() -> None:
    """A broker that is away for ten minutes: a record comes with each look at the group, for two seconds."""
    world = World({0: [upload(f"0-{n}") for n in range(2000)]})
    while world.now < 600:
        world.pipeline.run_once()
        world.now += 0.05
    assert world.consumer.paused
    assert len(world.fetchers.jobs) <= POLICY.max_in_flight + PATIENCE / FULL_WAIT + 1
    world.delivery.prompt = True
    while len(world.fetchers.jobs) > POLICY.max_in_flight // 2:
        assert world.consumer.paused
        world.answer(0, "tag")
        world.pipeline.run_once()
    world.pipeline.run_once()
    world.pipeline.run_once()
    assert not world.consumer.paused


def test_reading_rests_when_records_are_large() -> None:
    """What is no upload may be large: what waits is bounded by bytes, not only by number."""
    world = World({0: [b"x" * (MAX_BYTES // 4) for _ in range(20)]})
    for _ in range(5):
        world.pipeline.run_once()
    assert world.delivery.waiting <= POLICY.max_in_flight + 1
    read = world.consumer.read[0]
    for _ in range(5):
        world.pipeline.run_once()
    assert world.consumer.read[0] <= read + 1
    world.delivery.commit()
    world.pipeline.run_once()
    assert world.consumer.read[0] > read + 1


def test_a_retry_is_handed_over_and_its_offset_is_done() -> None:
    """A slow retry holds no offset: its record in the retry topic says what, when, how often, and why."""
    world = World({0: [upload("0-0")]})
    world.pipeline.run_once()
    world.answer(0, "transient")
    world.pipeline.run_once()
    world.delivery.commit()
    (record,) = world.delivery.retries
    headers = dict(record.headers)
    assert (record.key, record.value) == (b"0-0", upload("0-0"))
    assert (headers["attempt"], headers["error-code"]) == (b"1", b"fetch-timeout")
    assert int(headers["not-before"]) == 1000
    assert world.consumer.stored[0][0] == 1


def test_a_retry_survives_the_process_with_its_attempts() -> None:
    """Two of three tries before the death leave one after it."""
    world = World({0: [upload("0-0")]})
    for _ in range(2):
        while not world.fetchers.jobs:
            world.pipeline.run_once()
            world.now += 1.0
        world.answer(0, "transient")
        world.pipeline.run_once()
        world.delivery.commit()
    world = world.next_life()
    while not world.fetchers.jobs:
        world.pipeline.run_once()
        world.now += 1.0
    world.answer(0, "transient")
    world.pipeline.run_once()
    world.delivery.commit()
    assert [r.topic for r in world.delivery.ends] == ["dlq"]
    assert dict(world.delivery.ends[0].headers)["attempts"] == b"3"
    assert world.delivery.retries[-1].value is None


def test_a_later_event_ends_a_pending_retry() -> None:
    """A deletion that arrives while an upload waits for another try: the retry is taken back in the same
    transaction, and only the deletion is published."""
    deletion = orjson.dumps({"id": "0-0", "deleted": True})
    world = World({0: [upload("0-0")]})
    world.pipeline.run_once()
    world.answer(0, "transient")
    world.pipeline.run_once()
    world.delivery.commit()
    world.consumer.logs[0].append(deletion)
    world.pipeline.run_once()
    assert [(r.topic, r.value) for r in world.delivery.gathered] == [("retry", None), ("tags", None)]
    world.settle()
    assert world.ends() == {"tagged": 0, "deleted": 1, "dead": 0, "superseded": 1}


def test_what_is_due_again_and_what_is_new_share_the_room() -> None:
    """A flood of new uploads does not starve due retries, nor the other way round."""
    world = World({0: [upload(f"0-{n}") for n in range(40)]})
    world.delivery.prompt = True
    for _ in range(3):
        world.pipeline.run_once()
        while world.fetchers.jobs:
            world.answer(0, "transient")
    world.now += 100
    world.pipeline.run_once()
    world.pipeline.run_once()
    tokens = {job.token for job in world.fetchers.jobs}
    works = [world.pipeline._works.find(token) for token in tokens]
    tries = [work.attempts for work in works if work is not None]
    half = POLICY.max_in_flight // 2
    assert tries.count(2) == half
    assert half <= tries.count(1) <= half + 1  # one comes with a look at the group


def test_one_id_in_two_partitions_is_two_uploads() -> None:
    """All events of an id should be in one partition. Where they are not, each partition goes on by itself: a
    pending retry in one and an event in the other, in flight together, both end."""
    world = World({0: [upload("a")], 1: []})
    world.pipeline.run_once()
    world.answer(0, "transient")
    world.pipeline.run_once()
    world.delivery.commit()
    world.consumer.logs[1].append(upload("a"))
    world.pipeline.run_once()  # the event of the other partition is on its way
    world.now += 5.0
    world.pipeline.run_once()  # and now the retry, too
    assert len(world.fetchers.jobs) == 2
    world.settle()
    assert [(r.topic, r.source.partition) for r in world.delivery.ends] == [("tags", 1), ("tags", 0)]
    assert world.delivery.retries[-1].value is None


def test_what_is_superseded_is_no_longer_fetched() -> None:
    """Of many events of one id one is wanted: the other fetches are cancelled, by the many."""
    world = World({0: [upload("a")]})
    world.pipeline.run_once()
    world.consumer.logs[0] += [upload("a", f"http://x/{n}.jpg") for n in range(5)]
    world.settled_reading()
    (job,) = world.fetchers.jobs
    assert job.url == "http://x/4.jpg"
    assert world.ends()["superseded"] == 5


@pytest.mark.parametrize("lost", [True, False])
def test_what_a_partition_leaves_behind_is_no_longer_fetched(lost: bool) -> None:
    """Fetches of a partition that is somebody else's by now are cancelled."""
    world = World({0: [upload("a")], 1: [upload("b")]})
    world.pipeline.run_once()
    world.consumer.revoke(0, lost=lost)
    world.pipeline.run_once()
    assert [world.pipeline._works.find(job.token).upload.id for job in world.fetchers.jobs] == ["b"]  # type: ignore[union-attr]


def test_a_picture_that_nobody_waits_for_is_not_encoded() -> None:
    """It came although it was cancelled: its slot is free again."""
    world = World({0: [upload("a")]})
    world.pipeline.run_once()
    job = world.fetchers.jobs.pop()
    world.consumer.logs[0].append(orjson.dumps({"id": "a", "deleted": True}))
    world.pipeline.run_once()
    world.pipeline.on_fetched([decoded(job.token, 5)])
    world.pipeline.run_once()
    assert (world.inference.has, world.fetchers.released) == ([], [5])


def test_what_cannot_be_cancelled_counts_as_in_flight() -> None:
    """A fetcher that has not given up a fetch yet has no room for another."""
    world = World({0: [upload(f"0-{n}") for n in range(20)]})
    world.fetchers.cancelling = POLICY.max_in_flight - 2
    for _ in range(3):
        world.pipeline.run_once()
    assert 2 <= len(world.fetchers.jobs) <= 3  # one comes with a look at the group


def test_retries_wait_while_results_do() -> None:
    """Delivery stands still: what is due is tried only as far as there is room, as what is new."""
    world = World({0: [upload(f"0-{n}") for n in range(100)]})
    world.delivery.prompt = True
    for _ in range(40):
        world.pipeline.run_once()
        while world.fetchers.jobs:
            world.answer(0, "transient")
    assert world.pending == 100
    world.delivery.prompt = False  # the broker is away
    world.now += 100
    for _ in range(40):
        world.pipeline.run_once()
        while world.fetchers.jobs:
            world.answer(0, "tag")
    assert world.delivery.waiting <= 3 * POLICY.max_in_flight  # a tag and the end of its retry, for each
    assert world.pending >= 100 - 2 * POLICY.max_in_flight


TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)


def test_a_tag_that_kafka_does_not_take_is_a_dead_letter() -> None:
    """With large attributes, say; the upload stays byte for byte what it was."""
    world = World({0: [upload("a")]})
    world.pipeline.run_once()
    world.answer(0, "tag")
    world.pipeline.run_once()
    (instead,) = world.delivery.on_refused(world.delivery.gathered[0], TOO_LARGE)
    headers = dict(instead.headers)
    assert (instead.topic, instead.key, instead.value) == ("dlq", b"a", upload("a"))
    assert (headers["error-code"], headers["error-stage"]) == (b"too-large", b"publish")
    assert headers["attempts"] == b"1"


def test_a_retry_that_kafka_does_not_take_is_a_dead_letter_and_not_tried() -> None:
    """The retry topic takes less than an upload has; what was superseded meanwhile has no result at all."""
    for superseded in (False, True):
        world = World({0: [upload("a")]})
        world.pipeline.run_once()
        world.answer(0, "transient")
        world.pipeline.run_once()
        (retry,) = world.delivery.gathered
        if superseded:
            world.consumer.logs[0].append(orjson.dumps({"id": "a", "deleted": True}))
            world.pipeline.run_once()
        instead = world.delivery.on_refused(retry, TOO_LARGE)
        assert [(r.topic, r.value is None) for r in instead] == (
            [] if superseded else [("dlq", False), ("retry", True)]
        )
        assert world.pending == 0


def test_a_suspect_that_cannot_be_written_down_is_a_dead_letter() -> None:
    """It would be encoded without a trace; it is not encoded at all."""
    world = World({0: [upload("0-0")]})
    world.consumer.stored[0] = (0, "2:~2:")
    world.consumer.revoke(0, lost=True)
    world.assign(0)
    world.pipeline.run_once()
    world.pipeline.on_fetched([decoded(world.fetchers.jobs.pop().token, 3)])
    world.pipeline.run_once()
    (note,) = world.delivery.gathered
    world.delivery.gathered = list(world.delivery.on_refused(note, TOO_LARGE))
    world.delivery.commit()
    world.pipeline.run_once()
    assert [r.topic for r in world.delivery.ends] == ["dlq"]
    assert (world.inference.has, world.pipeline.in_flight) == ([], 0)


def test_an_embedding_that_kafka_does_not_take_is_left_out() -> None:
    """The tag is published without it; a deletion that is not taken ends the worker."""
    world = World({0: []})
    record = Record(0, 1, 0, b"a", b"v", 7)
    topics = dataclasses.replace(TOPICS, embeddings="embeddings")
    world = World({0: []}, topics=topics)
    assert world.delivery.on_refused(Result("embeddings", b"a", b"x" * 99, record), TOO_LARGE) == []
    with pytest.raises(StartError):
        world.delivery.on_refused(Result("tags", b"a", None, record), TOO_LARGE)


@pytest.mark.parametrize(("bound", "most"), [("MOST", 20), ("MOST_BYTES", 20 * len(upload("0-99")))])
def test_what_is_pending_is_bounded_and_intake_rests_at_the_bound(
    monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """An image host is away for days: no more is taken in than can be remembered, in number and in bytes, and
    reading is paused; when the retries get through, it goes on."""
    monkeypatch.setattr(f"worker.tagger.retrying.{bound}", most)
    world = World(
        {0: [upload(f"0-{n}") for n in range(200)]},
        retry=dataclasses.replace(RETRY, first=200.0, longest=200.0),
    )
    world.delivery.prompt = True
    while world.now < 30:
        world.pipeline.run_once()
        while world.fetchers.jobs:
            world.answer(0, "transient")
        world.now += 0.05
    assert 20 <= world.pending <= 21 + POLICY.max_in_flight + PATIENCE / FULL_WAIT
    assert world.consumer.paused
    world.delivery.prompt = False
    world.settle()
    assert world.ends()["tagged"] == 200


def test_named_records_are_dead_letters_untried() -> None:
    """WORKER_SKIP: nothing of the record is fetched, and what it overtakes is overtaken."""
    policy = dataclasses.replace(POLICY, skip=frozenset({(0, 1)}))
    world = World({0: [upload("0-0"), upload("0-0"), upload("0-1")]}, policy)
    world.settle()
    assert [(r.topic, r.source.offset) for r in world.delivery.ends] == [("dlq", 1), ("tags", 2)]
    assert world.ends()["superseded"] == 1


def test_a_record_that_kills_workers_becomes_a_dead_letter_by_itself() -> None:
    """Two workers die with it in flight; the next three encode one image at a time, write it down before, and
    die of it; the sixth buries it. Its neighbours are tagged, and nothing is asked of anybody."""
    killer = "0-1"
    world = World({0: [upload(f"0-{n}") for n in range(3)]})
    lives = 1
    for _ in range(100):
        world.pipeline.run_once()
        world.delivery.commit()
        while world.fetchers.jobs:
            job = world.fetchers.jobs.pop(0)
            world.pipeline.on_fetched([decoded(job.token, job.token)])
        encoded, world.inference.has = world.inference.has, []
        works = [world.pipeline._works.find(ready.token) for ready in encoded]
        if any(work is not None and work.upload.id == killer for work in works):
            assert lives < 3 or len(encoded) == 1
            world = world.next_life()
            lives += 1
        else:
            world.pipeline.on_predicted([Predicted(MAKER, r.token, 1, 0.5, (), False) for r in encoded])
        world.now += 1.0
    ends = {(r.key or b"").decode(): r for r in world.delivery.ends}
    assert {upload_id: r.topic for upload_id, r in ends.items()} == {
        "0-0": "tags", "0-1": "dlq", "0-2": "tags",
    }  # fmt: skip
    assert len(world.delivery.ends) == 3
    headers = dict(ends[killer].headers)
    assert headers["error-code"] == b"encode-failed"
    assert b"3 workers died" in headers["error-message"]
    assert lives == 6
    assert all(r.value is None for r in {r.key: r for r in world.delivery.retries}.values())


class Encoder:
    """Moves a world whose pictures come at once; one of `killers` in the encoder ends the process.

    Attributes:
        lives: processes so far.
        alone: ids that were encoded with nothing beside them, `beside` those that were not.
    """

    def __init__(self, world: World, killers: set[str]) -> None:
        self.world, self.killers = world, killers
        self.lives = 1
        self.alone: list[str] = []
        self.beside: list[str] = []
        self.late: set[str] = set()  # their pictures do not come

    def turn(self) -> None:
        world = self.world
        world.pipeline.run_once()
        world.delivery.commit()
        for job in list(world.fetchers.jobs):
            work = world.pipeline._works.find(job.token)
            if work is None or work.upload.id not in self.late:
                world.fetchers.jobs.remove(job)
                world.pipeline.on_fetched([decoded(job.token, job.token)])
        encoded, world.inference.has = world.inference.has, []
        works = [world.pipeline._works.find(ready.token) for ready in encoded]
        ids = [work.upload.id for work in works if work is not None]
        (self.alone if len(encoded) == 1 else self.beside).extend(ids)
        if self.killers & set(ids):
            self.world = world.next_life()
            self.lives += 1
        else:
            world.pipeline.on_predicted([Predicted(MAKER, r.token, 1, 0.5, (), False) for r in encoded])
        self.world.now += 1.0


@given(
    killers=st.sets(st.integers(0, 27), max_size=3),
    late=st.sets(st.integers(0, 27), max_size=3),
    comes_after=st.integers(0, 150),
)
def test_whichever_records_kill_they_and_only_they_are_dead_letters(
    killers: set[int], late: set[int], comes_after: int
) -> None:
    """In whatever order, and whatever holds the position meanwhile. Each kills three workers alone and three
    together with others at most, one of them before the position moves: what killed two is not forgotten."""
    names = [f"{p}-{n}" for n in range(14) for p in range(2)]
    world = World(
        {p: [upload(name) for name in names if name.startswith(f"{p}-")] for p in range(2)},
        PipelinePolicy(max_in_flight=16),
        metrics=METRICS,
    )
    encoder = Encoder(world, {names[k] for k in killers})
    encoder.late = {names[n] for n in late - killers}
    quiet = 0  # turns since the last of them has ended
    for turn in range(600):
        if turn == comes_after:
            encoder.late = set()
        encoder.turn()
        quiet += len(encoder.world.delivery.ends) >= len(names)
        if quiet > 20:  # nothing may come after the end
            break
    ends = {(r.key or b"").decode(): r.topic for r in encoder.world.delivery.ends}
    assert {name for name, topic in ends.items() if topic == "dlq"} == encoder.killers
    assert set(ends) == set(names)
    assert len(encoder.world.delivery.ends) == len(names)
    assert encoder.lives <= 1 + (1 + SUSPECT_AFTER + DEATHS) * len(killers)


def test_kills_without_anything_encoded_make_nobody_a_suspect() -> None:
    """Deployments with SIGKILL, idle workers: whoever comes next encodes all together, as always."""
    world = World({0: []})
    for _ in range(4):
        world.pipeline.run_once()
        world.delivery.commit()
        world = world.next_life()
    world.consumer.logs[0] += [upload(f"0-{n}") for n in range(6)]
    encoder = Encoder(world, set())
    for _ in range(5):
        encoder.turn()
    assert len(encoder.beside) == 6


def test_only_what_was_in_flight_is_suspected_and_the_others_go_on() -> None:
    """After two deaths three records are suspects; the twelve that came since are encoded together between
    two of them."""
    world = World({0: [upload(f"0-{n}") for n in range(3)]}, PipelinePolicy(max_in_flight=64))
    world.consumer.stored[0] = (0, "2:~2:")
    world.consumer.revoke(0, lost=True)
    world.assign(0)
    world.consumer.logs[0] += [upload(f"1-{n}") for n in range(12)]
    encoder = Encoder(world, set())
    for _ in range(30):
        encoder.turn()
    assert sorted(encoder.alone) == ["0-0", "0-1", "0-2"]
    assert len(encoder.beside) == 12
    assert len(world.delivery.ends) == 15


def test_the_first_pictures_wait_until_a_commit_says_that_they_are_encoded() -> None:
    """Else a death would leave no trace. Those that follow go straight to the encoder."""
    world = World({0: [upload("0-0"), upload("0-1")]})
    world.pipeline.run_once()
    first, second = world.fetchers.jobs
    world.pipeline.on_fetched([decoded(first.token, 1)])
    world.pipeline.run_once()
    assert world.inference.has == []
    world.delivery.commit()
    world.pipeline.run_once()
    assert [ready.token for ready in world.inference.has] == [first.token]
    world.pipeline.on_fetched([decoded(second.token, 2)])
    assert len(world.inference.has) == 2


def test_an_exit_in_order_is_no_death() -> None:
    """An error that no upload caused: what is done is committed, and no life is counted."""
    world = World({0: [upload("0-0"), upload("0-1")]})
    world.pipeline.run_once()
    for job in world.fetchers.jobs:
        world.pipeline.on_fetched([decoded(job.token, job.token)])
    world.pipeline.run_once()
    world.delivery.commit()
    world.pipeline.run_once()
    assert world.inference.has
    world.delivery.commit()
    assert lives_of(world.consumer.stored[0][1]) == 1
    world.pipeline.give_back()
    assert world.consumer.stored[0] == (0, "")


def test_a_drain_works_on_while_suspects_are_encoded_alone() -> None:
    """What is in flight is finished, one suspect after the other."""
    world = World({0: [upload(f"0-{n}") for n in range(3)]})
    world.consumer.stored[0] = (0, "2:~2:")
    world.consumer.revoke(0, lost=True)
    world.assign(0)
    world.pipeline.run_once()
    world.pipeline.on_fetched([decoded(job.token, job.token) for job in world.fetchers.jobs])
    world.delivery.prompt = True

    def encoded() -> bool:
        done, world.inference.has = world.inference.has, []
        assert len(done) <= 1
        world.pipeline.on_predicted([Predicted(MAKER, r.token, 1, 0.5, (), False) for r in done])
        return False

    assert world.pipeline.drain(10.0, encoded)
    assert len(world.delivery.ends) == 3
    assert world.consumer.stored[0] == (3, "")


@pytest.mark.parametrize(
    "reached", ["waiting", "note written", "note safe", "encoded", "ended", "end written"]
)
@pytest.mark.parametrize("lost", [True, False])
def test_a_partition_that_goes_takes_its_suspect_with_it(reached: str, lost: bool) -> None:
    """However far the suspect is: others are encoded afterwards, and its slot is free again, once."""
    world = World({0: [upload("0-0")], 1: []})
    world.consumer.stored[0] = (0, "2:~2:")
    world.consumer.revoke(0, lost=True)
    world.assign(0)
    world.pipeline.run_once()
    job = world.fetchers.jobs.pop()
    if reached == "waiting":
        world.inference.has.append(Ready(-1, -1))  # the encoder is at work
    world.pipeline.on_fetched([decoded(job.token, 5)])
    world.pipeline.run_once()
    if reached not in ("waiting", "note written"):
        world.delivery.commit()
        assert [ready.slot for ready in world.inference.has] == [5]
    if reached in ("encoded", "end written"):
        world.inference.has.clear()  # it gives the slot back
        world.pipeline.run_once()
    if reached in ("ended", "end written"):  # its outcome may be here before the encoder counts as empty
        world.pipeline.on_predicted([Predicted(MAKER, job.token, 1, 0.5, (), False)])
        world.pipeline.run_once()
        assert [r.topic for r in world.delivery.gathered] == ["tags", "retry"]
    world.delivery.refuses = True  # as a broker that does not answer, or a group that is left already
    world.consumer.revoke(0, lost=lost)
    world.delivery.refuses = False
    world.inference.has.clear()
    world.pipeline.run_once()
    assert world.fetchers.released == ([5] if reached in ("waiting", "note written") else [])
    world.consumer.logs[1].append(upload("1-0"))
    world.pipeline.run_once()
    world.pipeline.on_fetched([decoded(world.fetchers.jobs.pop().token, 6)])
    world.pipeline.run_once()
    world.delivery.commit()
    world.pipeline.run_once()
    assert [ready.slot for ready in world.inference.has] == [6]


def test_pictures_of_superseded_uploads_give_their_slots_back() -> None:
    """One at a time, a picture that nobody waits for any more is not encoded, and its slot is free again."""
    world = World({0: [upload("0-0")]})
    world.consumer.stored[0] = (0, "2:~2:")
    world.consumer.revoke(0, lost=True)
    world.assign(0)
    world.pipeline.run_once()
    job = world.fetchers.jobs.pop()
    world.consumer.logs[0].append(orjson.dumps({"id": "0-0", "deleted": True}))
    world.pipeline.on_fetched([decoded(job.token, 5)])
    world.pipeline.run_once()
    assert (world.inference.has, world.fetchers.released) == ([], [5])


def test_a_revocation_waits_for_what_is_on_its_way() -> None:
    """A result that comes within REVOKE_FINISH is published; what does not come is left to the next owner."""
    for comes, position in ((True, 1), (False, 0)):
        world = World({0: [upload("a")]})
        world.pipeline.run_once()
        if comes:
            world.answer(0, "tag")
        world.consumer.revoke(0, lost=False)
        assert world.consumer.stored[0] == (position, "")


def test_nothing_is_committed_before_the_broker_has_the_result() -> None:
    """The offset moves with the result, not before."""
    world = World({0: [upload("a")]})
    world.pipeline.run_once()
    world.answer(0, "tag")
    world.pipeline.run_once()
    assert world.delivery.gathered
    world.consumer.commit()
    assert world.consumer.stored[0][0] == 0
    world.delivery.commit()
    assert world.consumer.stored[0][0] == 1


def test_drain_finishes_what_is_in_flight_and_takes_nothing_more() -> None:
    """After SIGTERM: what was being fetched is tagged and committed, what was not read stays."""
    world = World({0: [upload(f"0-{n}") for n in range(20)]})
    world.pipeline.run_once()
    taken = len(world.fetchers.jobs)
    while world.fetchers.jobs:
        world.answer(0, "tag")
    world.delivery.prompt = True
    assert world.pipeline.drain(10.0, lambda: False)
    assert world.consumer.stored[0] == (taken, "")  # left in order
    assert taken == POLICY.max_in_flight


def test_drain_leaves_what_cannot_be_finished_to_the_next_worker() -> None:
    """At the deadline it leaves; the unfinished offsets are not committed."""
    world = World({0: [upload("a"), upload("b")]})
    world.pipeline.run_once()
    world.answer(1, "tag")

    def time_passes() -> bool:
        world.now += 1.0
        return False

    assert not world.pipeline.drain(5.0, time_passes)
    position, metadata = world.consumer.stored[0]
    assert (position, decode_done(position, metadata)) == (0, {1})  # the finished one is not done again


@pytest.mark.parametrize("message", ["x" * 5000, "line\nbreak", "\x1b[31mred", "ünïcode"])
def test_error_texts_are_bounded_and_escaped(message: str) -> None:
    """Whatever an error says, the dead letter's header is one bounded line of printable text."""
    world = World({0: [upload("a")]})
    world.pipeline.run_once()
    job = world.fetchers.jobs.pop()
    world.pipeline.on_fetched([Failed(job.token, "decode-failed", "decode", message, False, None)])
    world.pipeline.run_once()
    text = dict(world.delivery.gathered[0].headers)["error-message"].decode()
    assert text.isprintable()
    assert len(text) <= 500


def test_embeddings_go_with_their_tags() -> None:
    """Where they are kept: one record beside the tag, in the same call, with the upload's URL, time and
    attributes; a deletion deletes both. Where they are not, nothing more is published."""
    vector = np.arange(fitted.DIM, dtype="<f2").tobytes()
    event = orjson.dumps({"id": "a", "url": "http://x/a", "attributes": {"n": 7}})
    for topic in ("embeddings", None):
        world = World(
            {0: [event], 1: [None]}, topics=dataclasses.replace(TOPICS, embeddings=topic),
            embeddings=EmbeddingWriter(fitted.ENCODER, keep_url=True),
        )  # fmt: skip
        world.pipeline.run_once()
        (job,) = world.fetchers.jobs
        world.pipeline.on_predicted([Predicted(MAKER, job.token, 1, 0.5, (), False, vector)])
        world.pipeline.run_once()
        world.delivery.commit()
        kept = {r.key: r.value for r in world.delivery.results if r.topic == "embeddings"}
        tags = {r.key: r.value for r in world.delivery.results if r.topic == "tags"}
        assert set(tags) == {b"a", b"1-0"}
        assert set(kept) == (set(tags) if topic else set())
        if topic:
            assert kept[b"1-0"] is None
            record = read_embedding(kept[b"a"] or b"")
            assert (record.id, record.url, record.attributes) == ("a", "http://x/a", {"n": 7})
            assert record.vector.tobytes() == vector
            assert record.identity == fitted.ENCODER
            assert world.consumer.stored[0][0] == 1
