"""open_clip models: `MODEL/PRETRAINED_TAG`, or `MODEL@CHECKPOINT` for weights in a local file."""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgclust.embedding.batch_invariance import CPU_BATCH, AtLeast
from imgclust.embedding.network import Network, unit
from imgclust.errors import EncoderError
from imgclust.types import Floats, Preprocessing

CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin")
# What a hub's folder usually calls its file, best first; else a single checkpoint will do.
_USUAL = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")  # what published weights may say of it

# Where nothing but a phrase is known, the mean over a few sentences is steadier than any one of them.
TEMPLATES = ("{}", "a picture of {}", "an image showing {}", "a photo of {}, posted online")

# Licences of published weights by the beginning of their tag; read on the publishers' pages.
_LICENCES = {
    "openai": "MIT", "laion": "MIT", "datacomp": "MIT", "commonpool": "MIT", "webli": "Apache-2.0",
    "metaclip": "CC-BY-NC-4.0",
}  # fmt: skip

_TEXT_BATCH = 64


class ImageTower(torch.nn.Module):
    """An open_clip model's image tower; of those that also return tokens, only the embedding."""

    def __init__(self, visual: torch.nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.projection: torch.nn.Module = torch.nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.visual(images)
        embedding: torch.Tensor = features[0] if isinstance(features, tuple) else features
        projected: torch.Tensor = self.projection(embedding)
        return projected

    def separate_projection(self) -> None:
        """Take a vision transformer's last product, with one row a picture, out of its `forward`."""
        weights = getattr(self.visual, "proj", None)
        if isinstance(weights, torch.nn.Parameter):
            self.visual.register_parameter("proj", None)
            self.projection = AtLeast(_Product(weights), CPU_BATCH)  # always as many rows


class _Product(torch.nn.Module):
    def __init__(self, weights: torch.nn.Parameter) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weights


def load(name: str, weights: Path | None = None) -> Network:
    """Load a model by name.

    Args:
        name: `MODEL/TAG`, or `MODEL@FILE`.
        weights: a checkpoint, or a folder with one, that is used in place of the download or of FILE.

    Raises:
        EncoderError: see `imgclust.embedding.encoder.load_encoder`.
    """
    import open_clip

    architecture, tag, file = _parse(name, open_clip.list_models())
    settings = _tag_settings(open_clip, architecture, tag) if tag else {}
    path = _checkpoint(weights) if weights is not None else file and _checkpoint(file)
    path = path or _download(open_clip, name, settings)
    model = _create(open_clip, architecture, path, settings)
    embed_texts = _TextTower(open_clip, architecture, model)
    return Network(
        name=name,
        architecture=architecture,
        visual=ImageTower(model.visual),
        preprocessing=_preprocessing(name, open_clip.get_model_preprocess_cfg(model)),
        vocabulary=embed_texts.vocabulary,
        embed_texts=embed_texts,
        licence=_licence(tag),
    )


def _parse(name: str, models: Sequence[str]) -> tuple[str, str | None, Path | None]:
    """Name → architecture, tag, file; one of the last two is None."""
    architecture, at, file = name.partition("@")
    tag = ""
    if not at:
        architecture, _, tag = name.partition("/")
    if architecture not in models:
        raise EncoderError(
            f"unknown model {architecture!a}{_similar(architecture, models)}; an encoder is `mini`, or "
            "an open_clip MODEL/PRETRAINED such as ViT-B-32/laion2b_s34b_b79k, or MODEL@CHECKPOINT"
        )
    if (at and not file) or not (at or tag):
        raise EncoderError(
            f"{name!a} does not say which weights: {architecture}/PRETRAINED for published ones "
            f"(`open_clip.list_pretrained()`), or {architecture}@CHECKPOINT for a file"
        )
    return architecture, tag or None, Path(file).expanduser() if file else None


def _similar(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=3)
    return f"; similar: {', '.join(close)}" if close else ""


def _tag_settings(open_clip: Any, architecture: str, tag: str) -> Mapping[str, Any]:
    """What open_clip knows of published weights; refuses them in a model with another activation.

    open_clip itself only warns, and the embeddings come out wrong without looking wrong.
    """
    settings: Mapping[str, Any] = open_clip.get_pretrained_cfg(architecture, tag)
    if not settings:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise EncoderError(
            f"no published weights {tag!a} for {architecture}; there are: {', '.join(tags) or 'none'}"
        )
    trained = bool(settings.get("quick_gelu", False))
    if trained != bool(open_clip.get_model_config(architecture).get("quick_gelu", False)):
        other = f"{architecture}-quickgelu" if trained else architecture.removesuffix("-quickgelu")
        with_it, uses = ("with", "does not use") if trained else ("without", "uses")
        raise EncoderError(
            f"QuickGELU mismatch: the weights {tag!a} were trained {with_it} QuickGELU, "
            f"{architecture} {uses} it; the right name is {other}/{tag}"
        )
    return settings


def _checkpoint(path: Path) -> Path:
    """A file, or the checkpoint in a folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise EncoderError(f"there is no checkpoint at {str(path)!a}")
    found = sorted(p for p in path.iterdir() if p.suffix in CHECKPOINTS)
    usual = [path / name for name in _USUAL if path / name in found]
    if not usual and len(found) != 1:
        names = ", ".join(ascii(p.name) for p in found[:10]) or "none"
        raise EncoderError(
            f"the folder {str(path)!a} should hold one checkpoint, it holds {names}; name the file"
        )
    return (usual or found)[0]


def _download(open_clip: Any, name: str, settings: Mapping[str, Any]) -> Path:
    try:
        return Path(open_clip.download_pretrained(dict(settings)))
    except Exception as error:
        source = settings.get("hf_hub") or settings.get("url") or "the hub"
        raise EncoderError(
            f"the weights of {name!a} could not be downloaded from {source} "
            f"({type(error).__name__}: {ascii(str(error))[:200]}); download them on a machine with access "
            "to it and name the file (--weights FILE, WORKER_ENCODER_WEIGHTS), or use the encoder `mini`"
        ) from None


def _create(open_clip: Any, architecture: str, path: Path, settings: Mapping[str, Any]) -> Any:
    try:
        return open_clip.create_model(
            architecture,
            pretrained=str(path.resolve()),
            precision="fp32",
            device="cpu",
            weights_only=True,  # a checkpoint must not be able to run code
            force_preprocess_cfg={k: settings[k] for k in _PREPROCESSING if k in settings},
        )
    except Exception as error:
        raise EncoderError(
            f"{str(path)!a} does not hold weights of {architecture} that can be loaded safely "
            f"({type(error).__name__}: {ascii(str(error))[:300]}); a .safetensors file, or a .pt file with "
            "nothing but a state dict, of this very model is needed"
        ) from error


def _preprocessing(name: str, cfg: Mapping[str, Any]) -> Preprocessing:
    size = cfg["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = cfg.get("resize_mode", "shortest")
    if height != width or mode not in ("shortest", "squash"):
        raise EncoderError(
            f"{name!a} takes pictures of {width} × {height} in mode {mode!a}; "
            "only square ones, in the modes 'shortest' and 'squash', are supported"
        )
    return Preprocessing(
        size=int(width),
        resize=int(width),
        interpolation="bilinear" if cfg.get("interpolation") == "bilinear" else "bicubic",
        mode=mode,
        mean=_three(cfg["mean"]),
        std=_three(cfg["std"]),
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _licence(tag: str | None) -> str | None:
    return next((v for k, v in _LICENCES.items() if tag and tag.startswith(k)), None)


class _TextTower:
    """Texts → the space of the images; on the CPU in float32, as it is needed once in a fit."""

    def __init__(self, open_clip: Any, architecture: str, model: Any) -> None:
        self._open_clip, self._architecture, self._model = open_clip, architecture, model.eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Floats:
        try:
            tokenizer = self._open_clip.get_tokenizer(self._architecture)
        except Exception as error:
            raise EncoderError(
                f"the tokenizer of {self._architecture} could not be loaded ({type(error).__name__}: "
                f"{ascii(str(error))[:200]}); some come from the hub, so access to it is needed once"
            ) from None
        parts = [
            self._model.encode_text(tokenizer(list(texts[start : start + _TEXT_BATCH]))).float().numpy()
            for start in range(0, len(texts), _TEXT_BATCH)
        ]
        return unit(np.concatenate(parts))

    def vocabulary(self, phrases: Sequence[str] | None) -> tuple[list[str], Floats]:
        """Each phrase as the mean over some sentences that it may stand in."""
        names = list(phrases) if phrases is not None else builtin_phrases()
        total = sum(self([template.replace("{}", name) for name in names]) for template in TEMPLATES)
        assert not isinstance(total, int)
        return names, unit(total)


def builtin_phrases() -> list[str]:
    """Phrases for what people post: one a line in `vocabulary.txt`."""
    text = (importlib.resources.files("imgclust.embedding") / "vocabulary.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
