"""Models change while the worker runs, on a real broker, with real models: nothing stops, nothing is lost."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer

from imgclust.model.model import ClusterModel
from imgclust.training.fit import fit
from imgclust.types import OTHER
from tests.support.kafka_cluster import PARTITIONS, Topics
from tests.support.origin import Origin
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, wait_for
from tests.support.worker_process import WorkerProcess, settings_for
from worker.commands import models as models_command
from worker.commands import set_models
from worker.demo.backends import Kafka
from worker.errors import SettingsError, StartError
from worker.feed import Feed
from worker.kafka.topics import look
from worker.messages.models import Assignment, ModelRef, write_assignment
from worker.messages.tag import Tag
from worker.settings.load import load
from worker.settings.settings import Settings
from worker.tagger.model_loading import first_model, read_state
from worker.wiring import topics_config

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

RATE = 20  # uploads a second: less than one slow core encodes
SWAPS = 10


@pytest.fixture
def topics(apache_kafka: Kafka) -> Topics:
    return Topics(apache_kafka)


@pytest.fixture(scope="module")
def models(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models: `first`; `edited`, which is it with other names and two clusters merged by hand; `again`,
    which starts another taxonomy."""
    root = tmp_path_factory.mktemp("models")
    first = ClusterModel.load(model_folder)
    first.save(root / "first")
    into, merged = (cluster.id for cluster in first.clusters[:2])
    named = first.edit().rename({c.id: f"cluster {c.id}" for c in first.clusters})
    named.edit().merge(into, merged).save(root / "edited")
    rows = first.arrays["embeddings"].astype(np.float32)
    other = {"random_state": 3, "n_epochs": 100, "consensus": 0}
    fit(rows, encoder=first.encoder, parameters=other).model.save(root / "again")
    return root


@pytest.fixture
def env(topics: Topics, redis_store: RedisServer, models: Path, origin: Origin) -> dict[str, str]:
    topic = f"models-{topics.tags}"
    topics.kafka.create_topics([topic], 1)
    env = settings_for(topics, redis_store.url, models / "first", origin.port) | {
        "WORKER_MODELS_TOPIC": topic,
        "WORKER_MODELS_FOLDER": str(models),
    }
    wait_for("the broker knows the topic", lambda: look(topics_config(load(env))).counts[topic])
    return env


@pytest.fixture
def settings(env: dict[str, str]) -> Settings:
    return load(env)


class Stream:
    """Uploads at a steady rate, until it is stopped."""

    def __init__(self, topics: Topics, urls: list[str]) -> None:
        self.sent: list[str] = []
        self._topics, self._urls = topics, urls
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        for n in itertools.count():
            if self._stop.wait(1 / RATE):
                return
            upload_id = f"u{n}"
            value = orjson.dumps({"id": upload_id, "url": self._urls[n % len(self._urls)]})
            self._topics.send(upload_id.encode(), value, n % PARTITIONS)
            self.sent.append(upload_id)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def stop(self) -> list[str]:
        self._stop.set()
        self._thread.join()
        self._topics.flush()
        return self.sent

    def __exit__(self, *_: object) -> None:
        self._stop.set()


@pytest.fixture
def stream(topics: Topics, origin: Origin, held_out: list[str]) -> Iterator[Stream]:
    with Stream(topics, [origin.url(f"/{file}") for file in held_out]) as running:
        yield running


def name_live(settings: Settings, model: ModelRef) -> None:
    """As a record, past all that `models set` checks."""
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    producer.produce(settings.models_topic or "", write_assignment(Assignment(model, 1)), b"live", 0)
    assert producer.flush(PATIENCE) == 0


def test_ten_changes_under_load(
    topics: Topics, env: dict[str, str], settings: Settings, models: Path, stream: Stream, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Uploads come in all the time while the model changes ten times: each is tagged exactly once, every tag
    names a version that existed with its own taxonomy, all three were at work, and /readyz stays good."""
    by_version = {m.version: m for m in (ClusterModel.load(models / f) for f in ("first", "edited", "again"))}
    ready: list[int] = []
    with WorkerProcess(tmp_path, env) as worker:
        worker.ready()
        wait_for("the first tags", lambda: worker.metric('imgclust_uploads_total{outcome="tagged"}') > 10)
        for folder in itertools.islice(itertools.cycle(("edited", "again", "first")), SWAPS):
            assert set_models.set_live(settings, folder, wait=60) == 0
            with urllib.request.urlopen(f"http://{worker.address}/readyz", timeout=PATIENCE) as answer:
                ready.append(answer.status)
        assert worker.metric('imgclust_model_changes_total{outcome="changed"}') == SWAPS
        sent = stream.stop()
        reader = topics.reader(topics.tags)
        wait_for("all are tagged", lambda: len(reader.read()) >= len(sent))
        assert worker.terminate() == 0
    assert ready == [200] * SWAPS
    found = [Tag.from_json(m.value() or b"") for m in reader.read(2.0)]
    reader.close()
    assert Counter(tag.id for tag in found) == Counter(sent)
    for tag in found:
        assert tag.taxonomy == by_version[tag.model].taxonomy
        assert tag.name == by_version[tag.model].name(tag.cluster)
        assert tag.cluster in {OTHER, *by_version[tag.model].numbers.tolist()}  # what was merged is gone
    assert {tag.model for tag in found} == set(by_version)
    times = np.sort([tag.tagged_at for tag in found])
    pauses = np.sort(np.diff(times))
    with capsys.disabled():
        print(
            f"\n{SWAPS} changes of the model, {len(found)} tags: the longest time between two tags was "
            f"{pauses[-1]} ms (99 % below {pauses[int(len(pauses) * 0.99)]} ms; an upload came every "
            f"{1000 // RATE} ms)"
        )


def test_wrong_models_shadows_and_the_way_back(
    topics: Topics, env: dict[str, str], settings: Settings, models: Path, stream: Stream, tmp_path: Path,
    redis_store: RedisServer, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A model that cannot be loaded leaves the old one at work, and says so. A shadow is compared and
    publishes nothing. A new taxonomy fills sets of its own; feeds change over by the pointer, and back. What
    the commands refuse changes nothing. A worker that starts takes the model that is live."""
    first, again = ClusterModel.load(models / "first"), ClusterModel.load(models / "again")
    feed = Feed(redis_store.client(), settings.redis_prefix)

    def told() -> dict[str, object]:
        capsys.readouterr()
        assert models_command.show(settings, as_json=True) == 0
        answer: dict[str, object] = json.loads(capsys.readouterr().out)
        return answer

    with WorkerProcess(tmp_path, env) as worker:
        worker.ready()
        name_live(settings, ModelRef("0" * 12, first.taxonomy, "nowhere"))
        refused = 'imgclust_model_refused{role="live"}'
        wait_for("it is refused", lambda: worker.metric(refused) == 1)
        before = worker.metric('imgclust_uploads_total{outcome="tagged"}')
        wait_for(
            "tags go on", lambda: worker.metric('imgclust_uploads_total{outcome="tagged"}') > before + RATE
        )
        with urllib.request.urlopen(f"http://{worker.address}/readyz", timeout=PATIENCE) as answer:
            assert "no folder 'nowhere'" in json.load(answer)["conditions"]["model"]["reason"]
        (reported,) = told()["workers"].values()  # type: ignore[attr-defined]
        assert reported["version"] == first.version
        assert "no folder 'nowhere'" in reported["refused"]["live"]

        with pytest.raises(SettingsError, match="models there: again, edited, first"):
            set_models.set_live(settings, "nowhere", wait=0)
        with pytest.raises(SettingsError, match="copy it there"):
            set_models.set_live(settings, "/tmp", wait=0)
        assert set_models.set_live(settings, "first", wait=60) == 0
        wait_for("it is refused no more", lambda: worker.metric(refused) == 0)

        assert set_models.set_shadow(settings, "again") == 0
        wait_for("the shadow sees images", lambda: worker.metric("imgclust_shadow_images") > 2 * RATE)
        assert 0 < worker.metric("imgclust_shadow_agreement_ratio") <= 1
        assert (
            worker.metric(
                f'imgclust_model_info{{encoder="mini",taxonomy="{first.taxonomy}",version="{first.version}"}}'
            )
            == 1
        )
        with pytest.raises(SettingsError, match="feeds would be empty"):
            set_models.promote(settings, again.taxonomy)

        assert set_models.set_live(settings, "again", wait=60) == 0
        assert told()["shadow"] is None  # it went live
        wait_for("its sets fill", lambda: feed.clusters(again.taxonomy))
        assert feed.taxonomy() == first.taxonomy
        assert set_models.promote(settings, None) == 0
        assert feed.taxonomy() == told()["feeds"] == again.taxonomy
        assert set_models.promote(settings, first.taxonomy) == 0
        assert feed.taxonomy() == first.taxonomy

        assert set_models.roll_back(settings, wait=60) == 0
        assert read_state(settings).assignments["live"].model.folder == "first"
        assert set_models.roll_back(settings, wait=60) == 0
        sent = stream.stop()
        reader = topics.reader(topics.tags)
        wait_for("all are tagged", lambda: len(reader.read()) >= len(sent))
        assert worker.terminate() == 0
    found = [Tag.from_json(m.value() or b"") for m in reader.read(1.0)]
    reader.close()
    assert Counter(tag.id for tag in found) == Counter(sent)
    assert told()["workers"] == {}  # it took its report back

    with WorkerProcess(tmp_path, env) as worker:  # WORKER_MODEL is `first`
        worker.ready()
        sample = (
            f'imgclust_model_info{{encoder="mini",taxonomy="{again.taxonomy}",version="{again.version}"}}'
        )
        assert worker.metric(sample) == 1


def test_where_a_start_looks_for_its_model(settings: Settings, models: Path, tmp_path: Path) -> None:
    """The live model, else the one before it, else WORKER_MODEL; when none can be used, the error has each
    reason."""
    first, again = ClusterModel.load(models / "first"), ClusterModel.load(models / "again")
    assert first_model(settings).version == first.version
    assert set_models.set_live(settings, "edited", wait=0) == 0
    assert set_models.roll_back(settings, wait=0) == 0  # to WORKER_MODEL, which nobody had named
    assert read_state(settings).assignments["live"].model.version == first.version
    name_live(settings, ModelRef(again.version, again.taxonomy, "again"))
    assert first_model(settings).version == again.version
    set_models._write(
        settings,
        {
            "live": Assignment(
                ModelRef("0" * 12, "0" * 12, "gone"), 1, ModelRef(again.version, again.taxonomy, "again")
            )
        },
    )
    assert first_model(settings).version == again.version
    name_live(settings, ModelRef(again.version, again.taxonomy, "first"))  # another model lies there
    assert first_model(settings).version == first.version
    with pytest.raises(StartError, match=r"no model can be used:\nlive .* holds model"):
        first_model(dataclasses.replace(settings, model=None))
