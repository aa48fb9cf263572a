"""`imgclust-worker demo`: pictures → model → a stream of uploads through the real worker, on this machine.

Nothing is simplified but the surroundings: the worker is the very process that production runs; Kafka is
librdkafka's mock cluster (or a real one), Redis is a real server, and the pictures come over HTTP.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import redis

from imgclust.errors import ImgclustError
from worker import demo_screen as screens
from worker.demo_images import Trained, choose, embed_images, train
from worker.demo_screen import Moment, Screen
from worker.demo_stream import BUSY, Samples, Stream, Worker, topic_names, worker_environment
from worker.demo_uploads import DELETED, SUPERSEDED, TAGGED, Ledger, plan
from worker.embedded import Kafka, MockKafka, choose_kafka, free_ports, valkey_url
from worker.feed import Feed
from worker.image_server import ImageServer
from worker.messages import OTHER, Tag, printable
from worker.metrics import UPLOADS
from worker.settings import load

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "clipart"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SILENT_SECONDS = 60.0  # without any result: something is lost, and waiting longer brings nothing
VIEW_SECONDS = 30.0  # for the Redis view to have what the topic has
STAGES = {
    "duplicates": "same pictures left out",
    "umap": "UMAP",
    "hdbscan": "HDBSCAN",
    "predict": "held-out pictures predicted",
    "map": "map, names and typical pictures",
}


def demo(
    images: Sequence[Path] = (),
    *,
    kafka: str | None = None,
    out: Path = Path("demo-run"),
    encoder: str = "mini",
    uploads: int = 2000,
) -> int:
    """Run the demo.

    Args:
        images: folders of pictures; by default the clip-art of the repository.
        kafka: host:port of a running Kafka; by default an embedded one.
        out: folder for embeddings, model, report and the worker's log.
        encoder: as `imgclust embed --encoder` takes it.
        uploads: good uploads to stream.

    Returns:
        0 if every upload ended as it should, 1 if not, 130 after Ctrl-C.

    Raises:
        ImgclustError, StartError: something that it needs is not there; the text says what to do.
    """
    screen = Screen()
    try:
        with _ended_by_signals(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about themselves
            trained = _train(screen, _folders(images), _made(out), encoder)
            report = _report(screen, trained, out)
            with _surroundings(screen, trained, kafka, out) as around:
                streamed = _stream(screen, around, trained, uploads)
    except KeyboardInterrupt:
        screen.console.print("\n  stopped; nothing that the demo started is left running")
        return 130
    _summarise(screen, trained, streamed)
    return _verdict(screen, streamed, trained, out, report)


def _folders(images: Sequence[Path]) -> list[Path]:
    folders = [folder.expanduser() for folder in images] or [EXAMPLES]
    if not images and not EXAMPLES.is_dir():
        raise ImgclustError("the example pictures are not here; name a folder: imgclust-worker demo FOLDER")
    for folder in folders:
        if not folder.is_dir():
            raise ImgclustError(f"{str(folder)!a} is not a folder; name a folder of pictures")
    return folders


def _made(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImgclustError(f"{str(out)!a} cannot be made: {error.strerror}; see --out") from None
    return out


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does, so that its children end with it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ── pictures → model ─────────────────────────────────────────────────────────────────────────────────────


def _train(screen: Screen, folders: Sequence[Path], out: Path, name: str) -> Trained:
    from imgclust.encoder import load_encoder

    screen.step("Pictures")
    chosen = choose(folders)
    shown = ", ".join(printable(str(screens.short_path(folder))).strip("'\"") for folder in folders)
    screen.say(f"{chosen.found:,} pictures in {shown}")
    if len(chosen.items) < chosen.found:
        screen.say(f"{len(chosen.items):,} of them, chosen at random, are enough for a demo")
    encoder = load_encoder(name)
    embeddings, failed, present = embed_images(chosen, out, encoder)
    screen.say(
        f"{len(embeddings):,} embeddings of {encoder.identity.dim} numbers by the encoder {name!r}"
        + (", kept from an earlier run" if present else "")
    )
    for code, count in failed.most_common():
        screen.say(f"{count:,} could not be read ({code}): see {out / 'embeddings' / 'failed.csv'}")
    screen.step("Model")
    with screen.stages(STAGES) as progress:
        result, trained = train(embeddings, out, encoder.vocabulary(), progress)
    screen.say(
        f"{len(result.model.clusters)} clusters from {len(result.split.train):,} pictures; "
        f"{len(result.split.test):,} are held out, {len(result.duplicates):,} duplicates left out"
    )
    return trained


def _report(screen: Screen, trained: Trained, out: Path) -> Path:
    from imgclust.report import write_report

    with screen.console.status("the report page is written"):
        page = write_report(trained.model, out / "report.html", images=out / "embeddings")
    screen.say(f"report page: {screens.short_path(page)}")
    return page


# ── the surroundings ─────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What the worker runs in, all of it up."""

    kafka: Mapping[str, str]
    topics: tuple[str, str, str, str]
    images: ImageServer
    worker: Worker
    feed: Feed


@contextlib.contextmanager
def _surroundings(screen: Screen, trained: Trained, address: str | None, out: Path) -> Iterator[Surroundings]:
    """Kafka, Redis, the image server and the worker, up; all of them end with the block."""
    screen.step("Services")
    with contextlib.ExitStack() as stack:
        try:
            yield _started(screen, stack, trained, address, out)
        finally:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # ending them takes seconds, and is not interrupted


def _started(
    screen: Screen, stack: contextlib.ExitStack, trained: Trained, address: str | None, out: Path
) -> Surroundings:
    with screen.console.status("Kafka and Redis start"):
        kafka = stack.enter_context(choose_kafka(address))
        redis_url = stack.enter_context(valkey_url())
    names = topic_names(f"demo-{time.strftime('%Y%m%d-%H%M%S')}-" if address else "")
    screen.say(f"Kafka: {kafka.kind}" + ("" if address else f", {kafka.bootstrap}"))
    if address:
        screen.say(f"its topics of this run, which stay: {', '.join(names)}")
    screen.say(f"Redis: an embedded Valkey, {redis_url}")
    images = stack.enter_context(ImageServer(trained.files))
    screen.say(f"pictures: http://127.0.0.1:{images.port}/images/…")
    if isinstance(kafka, MockKafka):
        kafka.create_topics(names)
    metrics = "127.0.0.1:{}".format(*free_ports(1))
    settings = _settings(trained, kafka, names, redis_url, images.port, metrics)
    environment = worker_environment(settings, keep_kafka=address is not None)
    worker = stack.enter_context(Worker(environment, metrics, out / "worker.log"))
    with screen.console.status("the worker starts"):
        worker.wait_until_ready()
    screen.say(f"worker: http://{metrics}/metrics, its log: {screens.short_path(worker.log)}")
    connection = {**load(environment).kafka, "bootstrap.servers": kafka.bootstrap}
    return Surroundings(connection, names, images, worker, Feed.from_url(redis_url, timeout=10))


def _settings(
    trained: Trained, kafka: Kafka, names: Sequence[str], redis_url: str, images: int, metrics: str
) -> dict[str, str]:
    """The worker's settings: what production sets, and leave to fetch from this machine."""
    uploads, tags, retry, dead = names
    return {
        "WORKER_MODEL": str(trained.model),
        "WORKER_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "WORKER_GROUP_ID": uploads,
        "WORKER_UPLOADS_TOPIC": uploads,
        "WORKER_TAGS_TOPIC": tags,
        "WORKER_RETRY_TOPIC": retry,
        "WORKER_DLQ_TOPIC": dead,
        "WORKER_CREATE_TOPICS": "false" if isinstance(kafka, MockKafka) else "true",
        "WORKER_PARTITIONS": "4",
        "WORKER_REDIS_URL": redis_url,
        "WORKER_HTTP": metrics,
        "WORKER_FETCH_ALLOW_NETWORKS": "127.0.0.0/8",
        "WORKER_FETCH_ALLOW_PORTS": str(images),
        "WORKER_RETRY_LIMIT": "2",  # a missing picture is known as missing after a second, not after minutes
        "WORKER_RETRY_FIRST": "0.5",
        "WORKER_LOG": "text",
    }


# ── the stream ───────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class Streamed:
    """What came of the stream.

    Attributes:
        rate: results per second under full load.
        samples: the worker's metrics at the end.
        view: tags that were found in Redis, equal to those on the topic.
        problems: what is not as it should be.
    """

    ledger: Ledger
    rate: float
    samples: Samples
    view: int
    problems: Sequence[str]


def _stream(screen: Screen, around: Surroundings, trained: Trained, uploads: int) -> Streamed:
    """Send everything, wait until each upload is accounted for and Redis has it, end the worker."""
    ledger = Ledger(plan(len(trained.files), uploads, around.images.url, around.images.broken_url))
    broken = sum(event.expected not in (TAGGED, DELETED, SUPERSEDED) for event in ledger.events)
    screen.step("Stream")
    screen.say(
        f"{len(ledger.events):,} uploads of {len(trained.files):,} pictures that the model has never seen; "
        f"{broken} are broken on purpose"
    )
    uploads_topic, tags, _, dead = around.topics
    with Stream(around.kafka, (uploads_topic, tags, dead), ledger) as stream:
        silent = _until_complete(screen, around.worker, stream, ledger)
        rate = stream.busy_rate or stream.rate()
    view, problems = _check_view(around.feed, ledger)
    samples = around.worker.samples()
    problems = [*ledger.problems(), *problems, *_check_metrics(ledger, samples)]
    if silent:
        problems.append(f"nothing came for {SILENT_SECONDS:g} s, so the demo waited no longer")
    code = around.worker.stop()
    if code != 0:
        problems.append(f"the worker ended with exit code {code} after SIGTERM; see {around.worker.log}")
    return Streamed(ledger, rate, samples, view, problems)


def _until_complete(screen: Screen, worker: Worker, stream: Stream, ledger: Ledger) -> bool:
    """Send and read until all is accounted for; True if nothing came any more before that."""

    def moment() -> Moment:
        return Moment(ledger, stream.rate(), worker.samples())

    progress, since = -1, time.monotonic()
    with screen.streaming(moment) as tick:
        while not ledger.complete:
            stream.turn(0.02)
            worker.check()
            tick()
            if ledger.done > progress:
                progress, since = ledger.done, time.monotonic()
            elif time.monotonic() - since > SILENT_SECONDS:
                return True
    return False


def _check_view(feed: Feed, ledger: Ledger) -> tuple[int, list[str]]:
    """Wait until Redis has what the topic has: every tag by its id, and every cluster's list.

    Returns:
        Tags that are there, and what is wrong.
    """
    expected = ledger.tags()
    deadline = time.monotonic() + VIEW_SECONDS
    while True:
        try:
            found = feed.get(ledger.ids())
            listed = {tag.id for cluster in feed.clusters() for tag in _all(feed, cluster)}
        except redis.RedisError as error:
            return 0, [f"Redis does not answer: {type(error).__name__}"]
        if (found == expected and listed == set(expected)) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    problems = []
    if found != expected:
        wrong = [i for i in {*found, *expected} if found.get(i) != expected.get(i)]
        problems.append(
            f"Redis differs from the tags topic for {len(wrong)} uploads, among them {min(wrong)}"
        )
    if listed != set(expected):
        problems.append(f"the clusters' lists in Redis hold {len(listed)} of {len(expected)} uploads")
    return sum(found.get(i) == tag for i, tag in expected.items()), problems


def _all(feed: Feed, cluster: int) -> Iterator[Tag]:
    cursor: str | None = None
    while True:
        page = feed.latest(cluster, 1000, cursor)
        yield from page.tags
        cursor = page.cursor
        if cursor is None:
            return


def _check_metrics(ledger: Ledger, samples: Samples) -> list[str]:
    """Whether the worker's own count of superseded uploads is what was sent to be superseded."""
    expected = sum(event.expected == SUPERSEDED for event in ledger.events)
    counted = samples.value(UPLOADS.name, outcome=SUPERSEDED)
    return [] if counted == expected else [f"{counted:.0f} uploads were superseded, expected: {expected}"]


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────


def _summarise(screen: Screen, trained: Trained, streamed: Streamed) -> None:
    ledger, labels = streamed.ledger, streamed.ledger.labels()
    found = screens.agreement(labels, trained.categories) if trained.categories and labels else None
    screen.step("Summary")
    screen.table(screens.facts_table(_facts(trained, streamed, labels, found)))
    screen.table(screens.largest_table(ledger, found), "The largest clusters")
    screen.table(screens.dead_table(ledger), "Dead letters")


def _facts(
    trained: Trained, streamed: Streamed, labels: Mapping[int, int], found: screens.Agreement | None
) -> Iterator[tuple[str, str]]:
    ledger = streamed.ledger
    yield "uploads", screens.outcome_line(ledger, streamed.samples)
    yield "speed", f"{streamed.rate:.0f} images/s, with {BUSY} uploads on their way at once"
    yield "latency", f"{screens.latency_line(ledger.latencies(calm=False))} from upload to tag, at that load"
    yield "", f"{screens.latency_line(ledger.latencies(calm=True))} when uploads come alone"
    yield "Redis", f"{streamed.view:,} tags, each as on the topic"
    same = sum(trained.labels[image] == cluster for image, cluster in labels.items())
    yield "clusters", f"{same:,} of {len(labels):,} pictures are in the one that the fit predicted for them"
    other = sum(cluster == OTHER for cluster in labels.values()) / max(len(labels), 1)
    yield "", f'{other:.0%} of the pictures are in "other"'
    if found:
        yield (
            "agreement",
            (
                f"{found.information:.2f} adjusted mutual information with the folder's categories, "
                'without "other" (1 is perfect, 0 is chance)'
            ),
        )


def _verdict(screen: Screen, streamed: Streamed, trained: Trained, out: Path, report: Path) -> int:
    screen.console.print()
    for problem in streamed.problems:
        screen.say(f"✗ {problem}", "red")
    if streamed.problems:
        screen.say(f"not all is as it should be; the worker's log is {out / 'worker.log'}", "bold red")
        return 1
    screen.say(f"✓ all {len(streamed.ledger.events):,} uploads are accounted for", "bold green")
    screen.step("What next")
    screen.say(f"look at the report page: {report.resolve().as_uri()}")
    for command, purpose in screens.next_commands(trained, out).items():
        screen.say(f"{purpose}:")
        screen.paste(command)
    return 0
