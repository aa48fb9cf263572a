"""The demo's bookkeeping: what is sent, what counts as accounted for, and what is shown."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from imgclust.images.sources import Item
from imgclust.types import EncoderIdentity, Preprocessing
from tests.support.fake_encoder import FakeEncoder
from tests.support.fake_feed import FakeFeed
from worker.demo import training
from worker.demo.checks import check_metrics, check_view
from worker.demo.samples import Samples
from worker.demo.screen import Moment, Ticker, clusters_table, moment_line, moment_picture
from worker.demo.services import topic_names, worker_environment
from worker.demo.summary import agreement, dead_table, latency_line, outcome_line
from worker.demo.training import Chosen, choose
from worker.demo.uploads import DELETED, SUPERSEDED, TAGGED, Event, Ledger, UploadResult, percentile, plan
from worker.errors import ERROR_CODES
from worker.feed import Feed
from worker.messages.tag import Tag
from worker.messages.upload import parse_upload
from worker.telemetry.metrics import Metrics


def planned(images: int = 7, uploads: int = 200) -> list[Event]:
    return plan(
        images, uploads, lambda n: f"http://127.0.0.1/images/{n}", lambda n: f"http://127.0.0.1/broken/{n}"
    )


def tag(name: str, cluster: int = 3, tagged_at: int = 0) -> Tag:
    return Tag(name, cluster, "cats", 0.9, (), False, "m" * 12, "t" * 12, None, 0, tagged_at, {})


def result_of(event: Event, cluster: int = 3) -> UploadResult:
    """What a right worker says of an event."""
    if event.expected == TAGGED:
        return UploadResult(TAGGED, 0.2, b"{}", tag(event.key, cluster))
    return UploadResult(event.expected, 0.2, event.value, message="because")


def finished(
    events: list[Event], change: Callable[[int, UploadResult], UploadResult | None] | None = None
) -> Ledger:
    """A ledger of which all was sent, and answered as it should be but for what `change` does."""
    ledger = Ledger(events)
    for number, event in enumerate(events):
        ledger.sent(number, (number % 4, number))
        result = None if event.expected == SUPERSEDED else result_of(event)
        if result is not None and change is not None:
            result = change(number, result)
        if result is not None:
            ledger.ended((number % 4, number), result)
    return ledger


# ── the plan ─────────────────────────────────────────────────────────────────────────────────────────────


@given(images=st.integers(1, 400), uploads=st.integers(1, 600))
@settings(max_examples=40, deadline=None)
def test_every_picture_is_sent_and_as_many_uploads_as_asked_for(images: int, uploads: int) -> None:
    """Whatever the sizes, each picture is streamed, under an id of its own, and all specials are in."""
    events = planned(images, uploads)
    good = [event for event in events if event.key.startswith("upload-")]
    assert len(good) == max(images, uploads)
    assert {event.image for event in good} == set(range(images))
    assert len({event.key for event in good}) == len(good)
    assert {event.expected for event in events} >= {TAGGED, DELETED, SUPERSEDED, "not-found", "too-large"}


def test_only_what_is_meant_to_be_broken_is() -> None:
    """The worker's own parser refuses exactly the events that are expected as `bad-event`."""
    for event in planned():
        try:
            parsed = parse_upload(event.value, event.key.encode(), 0)
        except Exception:
            assert event.expected == "bad-event", event
        else:
            assert event.expected != "bad-event"
            assert parsed.id == event.key


def test_expected_codes_are_codes_of_the_wire() -> None:
    """A code that the worker does not know could never come back."""
    codes = {event.expected for event in planned()} - {TAGGED, DELETED, SUPERSEDED}
    assert len(codes) == 8
    assert codes <= set(ERROR_CODES)


def test_a_superseded_upload_is_followed_by_its_successor_and_a_delete_waits_for_its_tag() -> None:
    """The two orders on which exact accounting rests."""
    events = planned()
    (early,) = (n for n, event in enumerate(events) if event.expected == SUPERSEDED)
    assert events[early + 1].key == events[early].key
    assert events[early + 1].expected == TAGGED
    (delete,) = (event for event in events if event.expected == DELETED)
    assert delete.after is not None
    assert events[delete.after].key == delete.key
    assert events[delete.after].expected == TAGGED


def test_the_calm_uploads_come_last_and_are_good() -> None:
    """So that their latency is that of an idle worker."""
    calm = [event.calm for event in planned(uploads=400)]
    assert calm.count(True) == 20
    assert calm[-20:] == [True] * 20


def test_the_same_seed_gives_the_same_plan() -> None:
    """A run can be repeated."""
    assert planned() == planned()


# ── the ledger ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_right_worker_leaves_nothing_open() -> None:
    """All as expected: complete, no problems, the deleted upload has no tag."""
    events = planned()
    ledger = finished(events)
    assert ledger.complete
    assert ledger.problems() == []
    assert "gone" not in ledger.tags()
    assert "twice" in ledger.tags()


def test_results_may_come_before_the_acknowledgement() -> None:
    """Kafka may deliver a result before it tells that the upload was taken."""
    ledger = Ledger([Event("a", b"{}")])
    ledger.ended((2, 5), result_of(ledger.events[0]))
    assert not ledger.complete
    ledger.sent(0, (2, 5))
    assert ledger.complete
    assert ledger.problems() == []


def test_a_missing_upload_is_named() -> None:
    """One upload without result: not complete, and the problem names it."""
    events = planned()
    lost = next(n for n, event in enumerate(events) if event.key == "upload-000010")
    ledger = finished(events, lambda number, result: None if number == lost else result)
    assert not ledger.complete
    assert ledger.problems() == ["upload 'upload-000010' is missing: expected as tagged"]


@pytest.mark.parametrize(
    "wrong", [UploadResult("decode-failed", 0.1, b"?"), UploadResult(DELETED, 0.1, None)]
)
def test_a_good_upload_that_ends_otherwise_is_a_problem(wrong: UploadResult) -> None:
    """Accounted for is not enough: it has to have ended as expected."""
    ledger = Ledger([Event("a", b"{}")])
    ledger.sent(0, (0, 0))
    ledger.ended((0, 0), wrong)
    assert ledger.complete
    assert len(ledger.problems()) == 1
    assert wrong.outcome in ledger.problems()[0]


def test_a_tag_for_the_superseded_event_is_a_problem() -> None:
    """The last event of an id wins: a tag for the earlier one must not be published."""
    events = planned()
    early = next(n for n, event in enumerate(events) if event.expected == SUPERSEDED)
    ledger = finished(events)
    ledger.ended((early % 4, early), UploadResult(TAGGED, 0.1, b"{}", tag("twice")))
    assert len(ledger.problems()) == 1


def test_a_dead_letter_that_is_not_the_upload_is_a_problem() -> None:
    """Dead letters are the upload byte for byte, or they cannot be sent again."""
    ledger = Ledger([Event("a", b"{", "bad-event")])
    ledger.sent(0, (0, 0))
    ledger.ended((0, 0), UploadResult("bad-event", 0.1, b"{}"))
    assert ledger.problems() == ["the dead letter of upload 'a' is not the upload, byte for byte"]


def test_equal_repeats_are_allowed_and_counted_others_are_not() -> None:
    """At-least-once delivery may repeat a result; a repeat may differ in `tagged_at` alone."""
    ledger = Ledger([Event("a", b"{}")])
    ledger.sent(0, (0, 0))
    for cluster, tagged_at in ((3, 1), (3, 2)):
        ledger.ended((0, 0), UploadResult(TAGGED, 0.1, b"{}", tag("a", cluster, tagged_at)))
    assert (ledger.repeated, ledger.problems()) == (1, [])
    ledger.ended((0, 0), UploadResult(TAGGED, 0.1, b"{}", tag("a", 4)))
    assert ledger.problems() == ["upload 'a' ended twice: tagged, then tagged"]


def test_a_result_of_no_upload_is_a_problem() -> None:
    """Something else writes to the topics."""
    ledger = Ledger([Event("a", b"{}")])
    ledger.sent(0, (0, 0))
    ledger.ended((0, 0), result_of(ledger.events[0]))
    ledger.ended((0, 7), result_of(ledger.events[0]))
    assert ledger.problems() == ["1 results belong to no upload of this run"]


def test_many_problems_are_cut_short() -> None:
    """A worker that does nothing fills no screen."""
    problems = Ledger(planned()).problems()
    assert len(problems) == 9
    assert problems[-1].endswith("more")


# ── Redis and metrics ────────────────────────────────────────────────────────────────────────────────────


def view(tags: dict[str, Tag], listed: list[str]) -> Feed:
    return FakeFeed(*tags.values(), listed=listed)


def test_a_view_that_is_as_the_topic_is_fine() -> None:
    """All tags by id and in the lists, whatever their `tagged_at`, which a repeat may change."""
    ledger = finished(planned())
    tags = {name: dataclasses.replace(found, tagged_at=77) for name, found in ledger.tags().items()}
    assert check_view(view(tags, list(tags)), ledger) == (len(tags), [])


def test_what_a_view_lacks_or_has_too_much_is_a_problem() -> None:
    """A lost tag, another cluster, a deleted upload that is still there, a list that is too short."""
    ledger = finished(planned())
    tags = ledger.tags()
    lost = {name: found for name, found in tags.items() if name != "upload-000003"}
    moved = {**tags, "upload-000003": tag("upload-000003", 9)}
    undead = {**tags, "gone": tag("gone")}
    for wrong in (lost, moved):
        right, problems = check_view(view(wrong, list(tags)), ledger, patience=0)
        assert right == len(tags) - 1
        assert problems[0] == "Redis differs from the tags topic for 1 uploads, among them upload-000003"
    assert check_view(view(undead, list(tags)), ledger, patience=0)[1]
    assert check_view(view(tags, list(tags)[1:]), ledger, patience=0)[1]


def test_superseded_uploads_are_those_of_the_workers_own_count() -> None:
    """No record tells of them, so the metric has to."""
    ledger = finished(planned())
    counted = Samples('imgclust_uploads_total{outcome="superseded"} 1.0\n')
    assert check_metrics(ledger, counted) == []
    assert check_metrics(ledger, Samples()) == ["0 uploads were superseded, expected: 1"]


# ── figures and screen ───────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentiles_are_values_that_occurred(values: list[float], share: float) -> None:
    """Nearest rank: at least that share of the values is no larger."""
    values.sort()
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6


def test_latency_is_told_in_words() -> None:
    """Milliseconds below a second, seconds above."""
    assert latency_line([n / 100 for n in range(1, 201)]) == "p50 1.00 s, p95 1.90 s, p99 1.98 s"
    assert latency_line([0.1]) == "p50 100 ms, p95 100 ms, p99 100 ms"


def test_agreement_leaves_other_out_and_finds_main_categories() -> None:
    """Two pure clusters agree perfectly, whatever is in "other"."""
    found = agreement({0: 1, 1: 1, 2: 5, 3: 5, 4: -1}, ["cats", "cats", "dogs", "dogs", "cats"])
    assert found.information == pytest.approx(1)
    assert found.main == {1: ("cats", 2, 2), 5: ("dogs", 2, 2)}


def test_agreement_of_nothing_but_other() -> None:
    """A model that knows no picture is no reason to fail at the very end."""
    found = agreement({0: -1, 1: -1}, ["cats", "dogs"])
    assert (found.information, found.main) == (0, {})


def shown(*parts: object, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for part in parts:
        console.print(part)
    return console.export_text()


def test_stages_show_what_the_metrics_say() -> None:
    """The live picture is read from /metrics by the names and labels that the worker gives them."""
    from prometheus_client import generate_latest

    metrics = Metrics()
    metrics.stages["encode"].enter(12)
    metrics.stages["encode"].leave(8, "ok", 0.25)
    metrics.stages["encode"].leave(1, "dead", 0.25)
    samples = Samples(generate_latest(metrics.registry).decode())
    text = shown(moment_picture(Moment(finished(planned()), 12.0, samples), 100))
    (line,) = (line for line in text.splitlines() if line.strip().startswith("encode"))
    assert line.split()[:5] == ["encode", "9", "3", "250", "ms"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_live_picture_fits_the_terminal(width: int) -> None:
    """No line is longer than the terminal is wide, or the picture would tear."""
    text = shown(moment_picture(Moment(finished(planned()), 12.0, Samples()), width), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "uploads done" in text
    assert "stage" in text


def test_what_came_from_outside_is_shown_as_text() -> None:
    """Markup in a cluster's name or a message is neither obeyed nor an error."""
    ledger = Ledger([Event("[red]a", b"{}"), Event("b", b"", "bad-event")])
    ledger.sent(0, (0, 0))
    ledger.sent(1, (0, 1))
    name = dataclasses.replace(tag("[red]a"), name="[/bold]\x1b[2J")
    ledger.ended((0, 0), UploadResult(TAGGED, 0.1, b"{}", name))
    ledger.ended((0, 1), UploadResult("bad-event", 0.1, b"", message="[/] [blink]no"))
    text = shown(clusters_table(ledger, 10), dead_table(ledger))
    assert "[/bold]\\x1b[2J" in text
    assert "[/] [blink]no" in text


def test_uploads_that_go_alone_do_not_look_stuck() -> None:
    """The last ones are sent one after another: the line says so, and shows no rate, which would be 2/s."""
    events = [Event("a", b"{}"), *(Event(f"c{n}", b"{}", calm=True) for n in range(3))]
    ledger = Ledger(events)
    for number in range(2):
        ledger.sent(number, (0, number))
        ledger.ended((0, number), UploadResult(TAGGED, 0.1 * (number + 1), b"{}", tag("x")))
        line = moment_line(Moment(ledger, 2.0, Samples()))
        assert "images/s" not in line
        assert "the last 3 are sent one by one" in line
    assert "latency p50 0.20 s" in line
    assert "images/s" in moment_line(Moment(Ledger(events), 2.0, Samples()))


def test_lines_tell_how_the_stream_stands() -> None:
    """The line of a log and the summary count the same things."""
    ledger = finished(planned(7, 200))
    line = moment_line(Moment(ledger, 61.3, Samples()))
    assert line == "214 of 214 uploads done, 61 images/s, latency p50 0.20 s, 10 dead letters"
    assert outcome_line(ledger, Samples()).startswith("202 tagged, 10 dead letters, 0 superseded")


def test_a_ticker_is_as_slow_as_it_was_told() -> None:
    """It calls once per interval of the clock that it is given."""
    now, calls = [0.0], []
    ticker = Ticker(2.0, lambda: calls.append(now[0]), lambda: now[0])
    for moment in (0.0, 1.9, 2.0, 2.1, 3.9, 9.0, 9.1):
        now[0] = moment
        ticker()
    assert calls == [2.0, 9.0]


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────

PNG = b"\x89PNG\r\n\x1a\n and so on"


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(count):
        (path / f"{number:03d}.png").write_bytes(PNG + bytes([number]))
    return path


def test_files_that_are_no_pictures_are_passed_over(tmp_path: Path) -> None:
    """Anybody's folder holds other files, and names that are no UTF-8."""
    folder = folder_of(tmp_path / "pictures", 3)
    (folder / "notes.txt").write_text("hello")
    (folder / "empty.jpg").touch()
    with contextlib.suppress(OSError):  # there are file systems that take no such name
        (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(PNG)
    chosen = choose([folder])
    assert [item.id for item in chosen.items] == ["000.png", "001.png", "002.png"]
    assert chosen.skipped >= 2


def test_a_large_folder_is_sampled_the_same_way_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's time is bounded, and a second run finds the embeddings of the first."""
    monkeypatch.setattr(training, "MAX_IMAGES", 5)
    folder = folder_of(tmp_path / "pictures", 40)
    first, second = choose([folder]), choose([folder])
    assert (len(first.items), first.found) == (5, 40)
    assert first == second


def test_categories_come_from_labels_csv(tmp_path: Path) -> None:
    """Category and title become attributes; a labels.csv that is something else changes nothing."""
    folder = folder_of(tmp_path / "pictures", 2)
    (folder / "labels.csv").write_text("file,category,title\n000.png,cats,Tom\n", encoding="utf-8")
    assert [dict(item.attributes) for item in choose([folder]).items] == [
        {"category": "cats", "title": "Tom"},
        {},
    ]
    (folder / "labels.csv").write_bytes(b"\xff\xfe\x00 something else")
    assert [dict(item.attributes) for item in choose([folder]).items] == [{}, {}]


def encoder_of(weights: str) -> FakeEncoder:
    return FakeEncoder(EncoderIdentity("mini", "x", weights, Preprocessing(224, 256), "float32", 2))


def test_embeddings_are_kept_only_for_the_same_pictures_and_encoder(tmp_path: Path) -> None:
    """Another size, another encoder or another folder gives another stamp; the same gives the same."""
    folder = folder_of(tmp_path / "pictures", 2)
    other = folder_of(tmp_path / "others", 2)

    def stamp(path: Path = folder, weights: str = "aa") -> str:
        return training._stamp(choose([path]), encoder_of(weights))

    first = stamp()
    assert first == stamp()
    assert len({first, stamp(weights="bb"), stamp(other)}) == 3
    (folder / "000.png").write_bytes(PNG * 2)
    assert stamp() != first


def test_a_second_run_embeds_nothing_and_another_folder_everything(tmp_path: Path) -> None:
    """Embeddings are kept between runs, and those of other pictures never come among them."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (20, 20), (number * 80, 0, 0)).save(tmp_path / name / f"{name}{number}.png")
    encoder, out = encoder_of("aa"), tmp_path / "run"
    for folder, encoded in (("one", 3), ("one", 3), ("two", 6)):
        embeddings, _ = training.embed_images(choose([tmp_path / folder]), out, encoder)
        assert embeddings.ids == [f"{folder}{number}.png" for number in range(3)]
        assert sum(encoder.batches) == encoded


def test_embeddings_that_no_demo_made_are_left_alone(tmp_path: Path) -> None:
    """`--out` may name a folder with somebody's own embeddings: refused, and nothing removed."""
    from imgclust.errors import ImgclustError

    mine = tmp_path / "embeddings"
    mine.mkdir()
    (mine / "embeddings-000000.parquet").write_bytes(b"precious")
    with pytest.raises(ImgclustError, match="was not made by the demo"):
        training._forget_others(mine, "stamp")
    assert (mine / "embeddings-000000.parquet").read_bytes() == b"precious"


def test_the_list_of_pictures_is_one_that_embed_reads(tmp_path: Path) -> None:
    """Ids with commas, quotes and line ends survive the way through images.csv."""
    from imgclust.images.sources import items

    names = ['a,"b".png', "two\nlines.png", " space.png"]
    given_items = [Item(name, str(tmp_path / name), attributes={"category": "c"}) for name in names]
    training._write_list(Chosen(given_items, 3, 0), tmp_path / "images.csv")
    assert [(i.id, dict(i.attributes)["category"]) for i in items([tmp_path / "images.csv"])] == [
        (name, "c") for name in names
    ]


# ── the worker's environment ─────────────────────────────────────────────────────────────────────────────


def test_the_users_own_worker_settings_do_not_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """WORKER_REDIS_PREFIX of somebody's shell would make the check of Redis fail; how to connect may stay."""
    monkeypatch.setenv("WORKER_REDIS_PREFIX", "mine:")
    monkeypatch.setenv("WORKER_KAFKA_SASL_USERNAME", "me")
    monkeypatch.setenv("SOMETHING", "else")
    alone = worker_environment({"WORKER_LOG": "text"}, keep_kafka=False)
    theirs = worker_environment({"WORKER_LOG": "text"}, keep_kafka=True)
    assert not {"WORKER_REDIS_PREFIX", "WORKER_KAFKA_SASL_USERNAME"} & set(alone)
    assert "WORKER_REDIS_PREFIX" not in theirs
    assert theirs["WORKER_KAFKA_SASL_USERNAME"] == "me"
    assert (alone["WORKER_LOG"], alone["SOMETHING"]) == ("text", "else")


def test_topics_of_a_shared_cluster_are_the_runs_own() -> None:
    """A prefix keeps them away from the topics of production."""
    assert topic_names("") == ("uploads", "tags", "uploads.retry", "uploads.dlq")
    assert topic_names("demo-1-") == (
        "demo-1-uploads",
        "demo-1-tags",
        "demo-1-uploads.retry",
        "demo-1-uploads.dlq",
    )


def test_events_are_json_but_for_the_one_that_is_not() -> None:
    """What is expected as anything but `bad-event` or a delete is a JSON object with a url."""
    for event in planned():
        if event.expected not in (DELETED, "bad-event"):
            assert event.value is not None
            assert json.loads(event.value)["url"]
