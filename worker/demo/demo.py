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

from imgclust.errors import ImgclustError
from imgclust.images.containers import HEIF_HINT
from imgclust.types import OTHER
from worker.demo import summary
from worker.demo.checks import check_metrics, check_view
from worker.demo.samples import Samples
from worker.demo.screen import Moment, Screen
from worker.demo.services import ENDING, Services, Worker, start_backends, start_worker, started
from worker.demo.stream import BUSY, Stream
from worker.demo.training import Trained, choose, embed_images, train
from worker.demo.uploads import DELETED, SUPERSEDED, TAGGED, Ledger, plan
from worker.messages.text import printable

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "clipart"
SILENT_SECONDS = 60.0  # without any result: something is lost, and waiting longer brings nothing
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
        with _ended_by_signals(), warnings.catch_warnings(), started() as stack:
            warnings.simplefilter("ignore")  # of libraries, about themselves
            folders, out = _folders(images), _made(out)
            # first, so that what is missing is reported before the fit
            backends = start_backends(screen, stack, kafka)
            trained = _train(screen, folders, out, encoder)
            report = _report(screen, trained, out)
            running = start_worker(screen, stack, backends, trained, out)
            streamed = _stream(screen, running, trained, uploads)
            _summarise(screen, trained, streamed)
            code = _verdict(screen, streamed, trained, out, report)
            if screen.console.is_terminal:
                _stay(screen, running)
    except KeyboardInterrupt:
        screen.console.print("\n  stopped; nothing that the demo started is left running")
        return 130
    return code


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

    before = {number: signal.signal(number, stop) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ── pictures → model ─────────────────────────────────────────────────────────────────────────────────────


def _train(screen: Screen, folders: Sequence[Path], out: Path, name: str) -> Trained:
    from imgclust.embedding.encoder import load_encoder
    from imgclust.naming.hierarchy import by_hierarchy

    screen.step("Pictures")
    chosen = choose(folders)
    shown = ", ".join(printable(str(summary.short_path(folder))).strip("'\"") for folder in folders)
    screen.say(f"{chosen.found:,} pictures in {shown}")
    if len(chosen.items) < chosen.found:
        screen.say(f"{len(chosen.items):,} of them, chosen at random, are enough for a demo")
    encoder = load_encoder(name)
    vocabulary = None if by_hierarchy(encoder.identity) else encoder.vocabulary()
    embeddings, done = embed_images(chosen, out, encoder)
    screen.say(
        f"{len(embeddings):,} embeddings of {encoder.identity.dim} numbers by the encoder {name!r}"
        + ("" if done.embedded else ", kept from an earlier run")
    )
    for code, count in done.failed.most_common():
        screen.say(f"{count:,} could not be read ({code}): see {done.folder / 'failed.csv'}")
    if done.needs_heif:
        screen.say(f"{done.needs_heif:,} of them are HEIC photos; to read them: {HEIF_HINT}")
    screen.step("Model")
    with screen.stages(STAGES) as progress:
        result, trained = train(embeddings, out, vocabulary, progress)
    screen.say(
        f"{len(result.model.clusters)} clusters from {len(result.split.train):,} pictures; "
        f"{len(result.split.test):,} are held out, {len(result.duplicates):,} duplicates left out"
    )
    return trained


def _report(screen: Screen, trained: Trained, out: Path) -> Path:
    from imgclust.report.page import write_report

    with screen.console.status("the report page is written"):
        page = write_report(trained.model, out / "report.html", images=out / "embeddings")
    screen.say(f"report page: {summary.short_path(page)}")
    return page


# ── the stream ───────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class Streamed:
    """What came of the stream.

    Attributes:
        rate: results per second under full load.
        samples: the worker's metrics at the end.
        view: tags that were found in Redis, equal to those on the topic.
        problems: what is not as it should be.
        log: the end of the worker's log.
    """

    ledger: Ledger
    rate: float
    samples: Samples
    view: int
    problems: Sequence[str]
    log: str


def _stream(screen: Screen, running: Services, trained: Trained, uploads: int) -> Streamed:
    """Send everything, wait until each upload is accounted for and Redis has it, end the worker."""
    ledger = Ledger(plan(len(trained.files), uploads, running.images.url, running.images.broken_url))
    broken = sum(event.expected not in (TAGGED, DELETED, SUPERSEDED) for event in ledger.events)
    screen.step("Stream")
    screen.say(
        f"{len(ledger.events):,} uploads of {len(trained.files):,} pictures that the model has never seen; "
        f"{broken} are broken on purpose"
    )
    uploads_topic, tags, _, dead = running.topics
    with Stream(running.kafka, (uploads_topic, tags, dead), ledger) as stream:
        silent = _until_complete(screen, running.worker, stream, ledger)
        rate = stream.busy_rate or stream.rate()
    view, problems = check_view(running.feed, ledger)
    samples = running.worker.samples()
    problems = [*ledger.problems(), *problems, *check_metrics(ledger, samples)]
    if silent:
        problems.insert(0, f"nothing came for {SILENT_SECONDS:g} s, so the demo stopped waiting")
    code = running.worker.stop()
    if code != 0:
        problems.append(f"the worker ended with exit code {code} after SIGTERM; see {running.worker.log}")
    return Streamed(ledger, rate, samples, view, problems, f"the worker: {running.worker.last_words()}")


def _until_complete(screen: Screen, worker: Worker, stream: Stream, ledger: Ledger) -> bool:
    """Send and read until all is accounted for; True if nothing came any more before that."""

    def moment() -> Moment:
        return Moment(ledger, stream.rate(), worker.samples())

    progress, since = -1, time.monotonic()
    with screen.streaming(moment) as tick:
        while not ledger.complete:
            stream.run_once(0.02)
            worker.check()
            tick()
            if ledger.done > progress:
                progress, since = ledger.done, time.monotonic()
            elif time.monotonic() - since > SILENT_SECONDS:
                return True
    return False


def _stay(screen: Screen, running: Services) -> None:
    """Keep what the wall needs until Ctrl-C: somebody sits there, and may want to look."""
    screen.step("Look around")
    screen.say(
        f"the wall with all that was tagged stays at {running.wall}; press Ctrl-C to end the demo", "bold"
    )
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────


def _summarise(screen: Screen, trained: Trained, streamed: Streamed) -> None:
    ledger, labels = streamed.ledger, streamed.ledger.labels()
    found = summary.agreement(labels, trained.categories) if trained.categories and labels else None
    screen.step("Summary")
    screen.table(summary.facts_table(_facts(trained, streamed, labels, found)))
    if labels:
        screen.table(summary.largest_table(ledger, found), "The largest clusters")
    screen.table(summary.dead_table(ledger), "Dead letters")


def _facts(
    trained: Trained, streamed: Streamed, labels: Mapping[int, int], found: summary.Agreement | None
) -> Iterator[tuple[str, str]]:
    ledger = streamed.ledger
    yield "uploads", summary.outcome_line(ledger, streamed.samples)
    yield "speed", f"{streamed.rate:.0f} images/s, with {BUSY} uploads on their way at once"
    yield "latency", f"{summary.latency_line(ledger.latencies(calm=False))} from upload to tag, at that load"
    yield "", f"{summary.latency_line(ledger.latencies(calm=True))} with one upload at a time"
    yield "Redis", f"{streamed.view:,} tags, each equal to the one in the topic"
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
        screen.say("something is not as expected", "bold red")
        screen.say(streamed.log, "dim")
        return 1
    screen.say(f"✓ all {len(streamed.ledger.events):,} uploads are accounted for", "bold green")
    screen.step("What next")
    screen.say(f"look at the report page: {report.resolve().as_uri()}")
    for command, purpose in summary.next_commands(trained, out).items():
        screen.say(f"{purpose}:")
        screen.paste(command)
    return 0
