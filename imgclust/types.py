"""The values that pass between the parts of imgclust. Loads nothing but numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from imgclust.errors import EmbeddingsError

if TYPE_CHECKING:
    import pyarrow as pa

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]

MAX_CANDIDATES = 3
OTHER = -1  # the label of images that are in no cluster
MINI = "tf_efficientnet_lite0"  # the architecture of the encoder `mini`
IMPORTED = "imported"  # the architecture of an identity that was named by hand: no encoder is known


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an encoder wants its pictures: resize the shorter side (or squash), centre crop, normalise.

    `resize` is the length in pixels to which the shorter side is brought before the centre crop of
    `size` × `size` (`mode="shortest"`, open_clip's and timm's default), or both sides are brought to
    `size` (`mode="squash"`). `mean` and `std` are per channel, for values in 0..1, and are applied by the
    encoder, on its device.
    """

    size: int
    resize: int
    interpolation: str = "bicubic"  # or "bilinear"
    mode: str = "shortest"  # or "squash"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """What makes two embeddings comparable: equal identities, comparable numbers.

    `weights` is a SHA-256 over the tensors in name order (name, dtype, shape, bytes), not over a file, so
    the same weights in another container are the same encoder.
    """

    name: str  # how `load_encoder` was asked for it: "mini", "ViT-B-32/laion2b_s34b_b79k"
    architecture: str
    weights: str
    preprocessing: Preprocessing
    precision: str  # float32, bf16, fp16
    dim: int
    licence: str | None = None  # of the weights; recorded, not compared

    def same_space(self, other: EncoderIdentity) -> bool:
        """Whether embeddings of both may be mixed (all that counts is equal; name and licence do not)."""
        ignored: dict[str, Any] = {"name": "", "licence": None}
        return dataclasses.replace(self, **ignored) == dataclasses.replace(other, **ignored)

    def check_same(
        self,
        wanted: EncoderIdentity,
        where: str,
        remedy: str,
        *,
        here: str = "the embeddings are from",
        error: type[Exception] = EmbeddingsError,
    ) -> None:
        """Refuse to mix embeddings of this encoder with another's.

        Args:
            where: what wants the other one, as the beginning of a sentence: "this model was fitted on".
            remedy: what to do about it.
            here: what has this one, likewise.

        Raises:
            EmbeddingsError, or `error`: naming both encoders.
        """
        if not self.same_space(wanted):
            raise error(f"{here} {self.describe()}, {where} {wanted.describe()}: {remedy}")

    def describe(self) -> str:
        """An identity in a few words: name, precision, width, weights."""
        return f"{self.name} ({self.precision}, {self.dim} numbers, weights {self.weights[:12]}…)"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderIdentity:
        p = dict(data["preprocessing"])
        p["mean"], p["std"] = tuple(p["mean"]), tuple(p["std"])
        return cls(**{**data, "preprocessing": Preprocessing(**p)})


class Encoder(Protocol):
    """Pixels → embeddings. Implementations: `imgclust.embedding.torch_encoder`."""

    @property
    def identity(self) -> EncoderIdentity: ...

    def encode(self, pixels: Pixels) -> Floats:
        """Embed pictures.

        Args:
            pixels: uint8 (n, size, size, 3), RGB, resized and cropped as `identity.preprocessing` says.

        Returns:
            float32 (n, dim): unit-norm rows, rounded once to float16 values.
        """
        ...


@runtime_checkable
class StreamingEncoder(Encoder, Protocol):
    """An encoder on a device that goes on by itself; what was put first is taken first.

    While batches are under way nothing else is asked of it. Implementation:
    `imgclust.embedding.streamed_encoder`.
    """

    @property
    def most(self) -> int:
        """Pictures in a batch; it becomes smaller when memory is short."""
        ...

    @property
    def full(self) -> bool:
        """Whether `take` must come before another `put`."""
        ...

    @property
    def under_way(self) -> int:
        """Batches that were put and not taken."""
        ...

    def put(self, pictures: Sequence[Pixels]) -> None:
        """Ask for a batch of at most `most` pictures, and do not wait.

        They must stay as they are until it is taken. After an error this batch is not under way.
        """
        ...

    def take(self) -> Floats:
        """Wait for a batch's rows, as `encode` gives them, but not looked at: some may not be finite."""
        ...

    def register(self, memory: Pixels) -> str | None:
        """Prepare memory that pictures will be put from; None, or why copies from it go on as before."""
        ...

    def unregister(self) -> None:
        """The memory is about to go."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """What a frozen model says of n embeddings. Every array has n rows.

    Attributes:
        labels: int32 (n,); -1 is "other".
        probabilities: float32 (n,), 0..1; strength of the membership in the label's cluster (0 for "other").
        points: float32 (n, d); the place in the UMAP space.
        novel: bool (n,); unlike all that it was fitted on; of images like those one in a thousand is, too.
        candidates: int32 (n, 3); likely clusters, best first, also for "other"; padded with -1.
        scores: float32 (n, 3); the candidates' soft memberships, 0..1; padded with 0.
        similarities: float32 (n,); cosine to the nearest training embedding; `novel` is judged on it, too.
        assigned: bool (n,); between clusters, and put into the best candidate (see
            `imgclust.predictor.assignment`); its score is the probability.
    """

    labels: Ints
    probabilities: Floats
    points: Floats
    novel: Bools
    candidates: Ints
    scores: Floats
    similarities: Floats
    assigned: Bools

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, rows: npt.NDArray[Any]) -> Prediction:
        """Some of the rows, by their numbers or a mask."""
        return type(self)(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    def numbered(self, numbers: Ints) -> Prediction:
        """The same prediction with other cluster numbers.

        Args:
            numbers: int32 (k + 1,); of each cluster that this one has, then -1.
        """
        return dataclasses.replace(self, labels=numbers[self.labels], candidates=numbers[self.candidates])

    def unassigned(self) -> Prediction:
        """The same prediction with what was assigned back in "other": what the fit itself would say."""
        return dataclasses.replace(
            self,
            labels=np.where(self.assigned, np.int32(OTHER), self.labels),
            probabilities=np.where(self.assigned, np.float32(0), self.probabilities),
            assigned=np.zeros(len(self), bool),
        )

    def to_arrow(self, ids: Sequence[str] | None = None) -> pa.Table:
        """A pyarrow table: predicted_cluster, probability, novel, candidates, scores, similarity, assigned.

        Args:
            ids: of the rows, for a first column `id`.
        """
        import pyarrow as pa

        width = self.candidates.shape[1]
        columns = {
            "predicted_cluster": pa.array(self.labels),
            "probability": pa.array(self.probabilities),
            "novel": pa.array(self.novel),
            "candidates": pa.FixedSizeListArray.from_arrays(pa.array(self.candidates.ravel()), width),
            "scores": pa.FixedSizeListArray.from_arrays(pa.array(self.scores.ravel()), width),
            "similarity": pa.array(self.similarities),
            "assigned": pa.array(self.assigned),
        }
        if ids is not None:
            columns = {"id": pa.array([str(image) for image in ids], pa.string()), **columns}
        return pa.table(columns)

    def to_pandas(self, ids: Sequence[str] | None = None) -> Any:
        """As `to_arrow`, as a pandas DataFrame."""
        return self.to_arrow(ids).to_pandas()

    @classmethod
    def concat(cls, parts: list[Prediction]) -> Prediction:
        """Stack predictions of consecutive rows."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(cls)))


class Predictor(Protocol):
    """Embeddings → Prediction over frozen arrays. See `imgclust.predictor.predictor`."""

    def predict(self, embeddings: Floats) -> Prediction: ...
