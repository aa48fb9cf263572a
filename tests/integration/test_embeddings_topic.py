"""The embeddings topic on a real broker: exported for training, and tagged again."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from imgclust.embedding.store import read_embeddings
from imgclust.errors import ImgclustError
from imgclust.types import OTHER, EncoderIdentity
from tests.support import fitted
from tests.support.kafka_cluster import PARTITIONS, Topics
from tests.support.waiting import PATIENCE, wait_for
from tests.support.worker_process import WorkerProcess
from worker.commands import tag_changes
from worker.commands.export import export
from worker.commands.retag import retag, status
from worker.commands.set_models import set_live
from worker.demo.backends import Kafka
from worker.errors import SettingsError, StartError
from worker.kafka.claim import Claim
from worker.kafka.failpoints import VARIABLE
from worker.messages.embedding import EmbeddingWriter, halves
from worker.messages.tag import Tag
from worker.messages.upload import Upload
from worker.retagging import member
from worker.settings.load import load
from worker.settings.settings import Settings
from worker.tagger.prediction import ModelInfo, rows

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

STRANGER = EncoderIdentity.from_dict({**fitted.ENCODER.to_dict(), "weights": "1" * 64})


@pytest.fixture
def kept(apache_kafka: Kafka) -> Topics:
    return Topics(apache_kafka)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    fitted.fitted().model.save(tmp_path / "model")
    return tmp_path / "model"


def settings_of(topics: Topics, model: Path | None = None) -> Settings:
    return load(
        {
            "WORKER_BOOTSTRAP_SERVERS": topics.bootstrap,
            "WORKER_GROUP_ID": topics.group,
            "WORKER_EMBEDDINGS_TOPIC": topics.embeddings,
            "WORKER_GROUP_PROTOCOL": "consumer",
            **({"WORKER_MODEL": str(model)} if model else {}),
        }
    )


def fill(topics: Topics, times: int = 1) -> dict[str, np.ndarray]:
    """300 embeddings, some of them twice (the later one counts), ten deleted, one of another encoder, one
    that is none; the embeddings and deletions so many times; → id → embedding, of those that are left."""
    vectors, _ = fitted.grouped(seed=31)
    producer = Producer({"bootstrap.servers": topics.bootstrap})
    writer, other = EmbeddingWriter(fitted.ENCODER, keep_url=True), EmbeddingWriter(STRANGER, keep_url=True)

    def send(n: int, value: bytes | None) -> None:
        producer.produce(topics.embeddings, value, f"id-{n}".encode(), n % PARTITIONS)

    for _ in range(times):
        for n, vector in enumerate(halves(vectors)):
            if n % 10 == 0:
                send(n, writer.value(Upload(f"id-{n}", "http://x/old", 0), halves(vectors[:1])[0]))
            send(n, writer.value(Upload(f"id-{n}", f"http://x/{n}", 1000 * n, {"n": n}), vector))
        for n in range(5, 300, 30):
            send(n, None)
        producer.poll(0)
    send(1000, other.value(Upload("id-1000", "http://x/", 0), halves(vectors[:1])[0]))
    send(1001, b"somebody else's")
    assert producer.flush(PATIENCE) == 0
    return {f"id-{n}": vectors[n] for n in range(300) if n % 30 != 5}


def test_an_export_is_what_fit_reads(kept: Topics, model: Path, tmp_path: Path) -> None:
    """The newest embedding of each id that is not deleted, bit for bit, with its attributes; nothing of
    another encoder; never into a folder that has some."""
    wanted = fill(kept)
    assert export(settings_of(kept, model), tmp_path / "out") == 0
    found = read_embeddings(tmp_path / "out")
    assert found.identity == fitted.ENCODER
    assert sorted(found.ids) == sorted(wanted)
    for upload_id, vector, source, attributes in zip(
        found.ids, found.vectors, found.sources, found.attributes, strict=True
    ):
        n = int(upload_id.removeprefix("id-"))
        assert np.array_equal(vector, wanted[upload_id])
        assert (source, attributes) == (f"http://x/{n}", {"n": n})
    with pytest.raises(ImgclustError, match="holds embeddings already"):
        export(settings_of(kept, model), tmp_path / "out")


def check_tags(topics: Topics, to: str, wanted: dict[str, np.ndarray], records: int) -> None:
    """Each record is answered once, and the last tag of each id is what the model says, bit for bit."""
    with contextlib.closing(topics.reader(to)) as reader:
        wait_for("all is there", lambda: len(reader.read(0.5)) >= records)
        reader.read(1.0)
    places = Counter((m.partition(), dict(m.headers() or [])["source-offset"]) for m in reader.messages)
    assert set(places.values()) == {1}
    assert len(places) == records
    last = {upload_id: m.value() for upload_id, m in reader.last().items()}
    assert {upload_id for upload_id, value in last.items() if value is not None} == set(wanted)
    loaded = fitted.fitted().model
    order = sorted(wanted)
    expected = rows(
        ModelInfo.of(loaded), range(len(order)), loaded.predict(np.stack([wanted[i] for i in order]))
    )
    for upload_id, predicted in zip(order, expected, strict=True):
        tag = Tag.from_json(last[upload_id] or b"")
        assert (tag.cluster, tag.probability, tag.novel) == (
            predicted.cluster, predicted.probability, predicted.novel
        )  # fmt: skip
        assert tuple((c.cluster, c.score) for c in tag.candidates) == predicted.candidates
        assert (tag.model, tag.attributes) == (loaded.version, {"n": int(upload_id[3:])})


def test_retag_goes_on_where_it_was_stopped(
    kept: Topics, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in the middle of a transaction and begun again: every embedding is tagged once, every deletion
    is there, and the last tag of each id is what the model says. Again: nothing is left."""
    wanted = fill(kept)
    monkeypatch.setattr(member, "BATCH", 16)
    monkeypatch.setattr(member, "COMMIT_BATCHES", 3)
    commits = 0

    def stopped(self: Claim, offsets: dict[int, tuple[int, str]]) -> None:
        nonlocal commits
        commits += 1
        if commits == 4:
            raise KeyboardInterrupt
        original(self, offsets)

    original = Claim.commit
    monkeypatch.setattr(Claim, "commit", stopped)
    to = f"again-{kept.tags}"
    with pytest.raises(KeyboardInterrupt):
        retag(settings_of(kept), to, model=model, quiet=True)
    other = model.parent / "other"
    fitted.fitted().model.renamed({0: "another name"}).save(other)
    with pytest.raises(StartError, match=f"tags of model {fitted.fitted().model.version}: "):
        retag(settings_of(kept), to, model=other, quiet=True)
    assert status(settings_of(kept), to, quiet=True) == 0
    assert retag(settings_of(kept), to, model=model) == 0
    told = capsys.readouterr()
    assert "continuing" in told.err
    check_tags(kept, to, wanted, 300 + 30 + 10)
    assert retag(settings_of(kept), to, model=model, quiet=True) == 0
    assert capsys.readouterr().out.startswith("0 tags of model")


def sharing(topics: Topics, group: str) -> int:
    """Members of a group that have partitions."""
    admin = AdminClient({"bootstrap.servers": topics.bootstrap})
    found = admin.describe_consumer_groups([group])[group].result(PATIENCE)
    return sum(bool(member.assignment.topic_partitions) for member in found.members)


def test_three_processes_one_of_them_killed(kept: Topics, model: Path, tmp_path: Path) -> None:
    """The one that is alone at first dies in its second transaction. Those that come, one of them with
    another at its side, share what is left: each embedding is tagged once, as one process would tag it, and
    the counts are of all."""
    wanted = fill(kept, times=100)
    to = f"again-{kept.tags}"
    env = {
        "WORKER_BOOTSTRAP_SERVERS": kept.bootstrap,
        "WORKER_GROUP_ID": kept.group,
        "WORKER_EMBEDDINGS_TOPIC": kept.embeddings,
        "WORKER_KAFKA_SESSION_TIMEOUT_MS": "6000",
    }
    arguments = ("retag", "--to", to, "--model", str(model))
    dying = WorkerProcess(tmp_path, {**env, VARIABLE: "after-send-offsets=kill@3"}, *arguments)
    with dying:
        wait_for("it is killed", lambda: dying.process is not None and dying.process.poll() is not None)
        assert dying.process is not None
        assert dying.process.poll() == -signal.SIGKILL, dying.text()
    one = WorkerProcess(tmp_path, env, *arguments)
    two = WorkerProcess(tmp_path, env, *arguments, "--processes", "2")
    with one, two:
        wait_for("they share", lambda: sharing(kept, f"{kept.group}.retag.{to}") >= 2)
        assert [one.end(), two.end()] == [0, 0], one.text() + two.text()
    check_tags(kept, to, wanted, 100 * 340)
    for process in (one, two):
        assert "33,000 tags of model" in process.text()
        assert f"in {to!r}, 1,000 deletions" in process.text()


def test_what_retag_refuses(kept: Topics, model: Path) -> None:
    """No topic of embeddings, no model, a topic that is in use, or one with another number of partitions."""
    with pytest.raises(SettingsError, match="WORKER_EMBEDDINGS_TOPIC is not set"):
        retag(load({}), "x", model=model)
    with pytest.raises(SettingsError, match="no model to tag with"):
        retag(settings_of(kept), "x")
    with pytest.raises(SettingsError, match="one of the worker's own topics"):
        retag(settings_of(kept), kept.embeddings, model=model)
    kept.kafka.create_topics([f"narrow-{kept.tags}"], 1)
    with pytest.raises(StartError, match="has 1 partitions, the embeddings topic 4"):
        retag(settings_of(kept), f"narrow-{kept.tags}", model=model)


def test_what_another_model_would_change(
    kept: Topics, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models set` says it before it sets, of the uploads of the last week alone; of many, of a sample."""
    before = fitted.fitted().model
    labels = Counter(before.predict(np.stack([*fill(kept).values()])).labels.tolist())
    first, second = [number for number, _ in labels.most_common() if number != OTHER][:2]
    after = before.edit().merge(first, second)
    before.save(tmp_path / "before")
    after.save(tmp_path / "after")
    topic = f"models-{kept.tags}"
    kept.kafka.create_topics([topic], 1)
    settings = load(
        {
            "WORKER_BOOTSTRAP_SERVERS": kept.bootstrap,
            "WORKER_GROUP_ID": kept.group,
            "WORKER_EMBEDDINGS_TOPIC": kept.embeddings,
            "WORKER_MODELS_TOPIC": topic,
            "WORKER_MODELS_FOLDER": str(tmp_path),
            "WORKER_MODEL": str(tmp_path / "before"),
        }
    )
    assert set_live(settings, "after", wait=0, dry_run=True) == 0
    uploads = labels.total()
    moved = f"{labels[second] / uploads:.1%} of {uploads} uploads of the last 7 days"
    assert capsys.readouterr().out.splitlines() == [
        f"{moved} would be in another cluster, 0.0% have another name",
        "nothing was changed",
    ]
    monkeypatch.setattr(tag_changes, "SAMPLE", 100)
    monkeypatch.setattr(tag_changes, "STRETCHES", 4)
    assert set_live(settings, "after", wait=0) == 0
    assert "of a sample of " in capsys.readouterr().out
    assert set_live(settings, "before", wait=0) == 0
    assert "would be in another cluster" in capsys.readouterr().out
