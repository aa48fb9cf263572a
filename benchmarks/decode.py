"""What decoding a JPEG costs: libjpeg-turbo's scaling by eighths beside Pillow's halving and libvips.

    python -m benchmarks.decode                    with pyvips (pip install pyvips-binary pyvips): libvips too

Photographs of several sizes (two of scikit-learn, enlarged; two qualities, both subsamplings, square crops)
and the clip-art of the examples. All sides make the picture that `mini` wants, on one core, in turns; the
figure of a side is its fastest turn. The cosines are between the embeddings of a side and of decoding at full
size.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import machine
from imgclust.images import decode, jpeg
from imgclust.types import Pixels, Preprocessing

CLIPART = Path(__file__).resolve().parents[1] / "examples" / "clipart"
Side = Callable[[bytes], Pixels]


def encoded(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def photographs(width: int, **options: object) -> list[bytes]:
    from sklearn.datasets import load_sample_images

    files = []
    for pixels in load_sample_images().images:
        image = Image.fromarray(pixels)
        image = image.resize((width, width * image.height // image.width), Image.Resampling.LANCZOS)
        for quality, subsampling in ((75, 2), (90, 2), (92, 0)):
            files.append(encoded(image, quality=quality, subsampling=subsampling, **options))
        files.append(encoded(image.crop((0, 0, image.height, image.height)), quality=85, **options))
    return files


@contextmanager
def by_pillow() -> Iterator[None]:
    """As if simplejpeg could not read anything."""
    before, jpeg.load = jpeg.load, lambda *_: None  # type: ignore[assignment]
    try:
        yield
    finally:
        jpeg.load = before


def sides(wanted: Preprocessing) -> dict[str, Side]:
    def ours(data: bytes) -> Pixels:
        return decode.decode(data, wanted).pixels

    def pillow(data: bytes) -> Pixels:
        with by_pillow():
            return decode.decode(data, wanted).pixels

    found: dict[str, Side] = {"Pillow, halving": pillow, "simplejpeg, eighths": ours}
    with suppress(ImportError):
        found["libvips"] = _libvips(wanted)
    return found


def _libvips(wanted: Preprocessing) -> Side:
    import pyvips

    pyvips.cache_set_max(0)

    def thumbnail(data: bytes) -> Pixels:
        image = pyvips.Image.new_from_buffer(data, "", access="sequential")
        scale = wanted.resize / min(image.width, image.height)
        across, down = (max(wanted.size, round(n * scale)) for n in (image.width, image.height))
        image = pyvips.Image.thumbnail_buffer(data, across, height=down, size="force")
        if image.bands == 1:
            image = image.colourspace("srgb")
        left, top = (across - wanted.size) // 2, (down - wanted.size) // 2
        pixels: Pixels = image.crop(left, top, wanted.size, wanted.size).numpy()[:, :, :3]
        return np.ascontiguousarray(pixels)

    return thumbnail


def main() -> None:
    import torch

    from imgclust.embedding.encoder import load_encoder

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=4)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    encoder = load_encoder("mini")
    wanted = encoder.identity.preprocessing
    sets = {"clip-art, at most 288": [p.read_bytes() for p in sorted(CLIPART.rglob("*.jpg"))[:120]]}
    sets |= {f"{width} pixels wide": photographs(width) for width in (640, 1000, 1500, 1920, 4000)}
    sets["1920, progressive"] = photographs(1920, progressive=True)
    print(machine())
    print("| pictures | side | ms of CPU an image | of Pillow's | lowest cosine | mean |")
    print("|---|---|---|---|---|---|")
    for name, files in sets.items():
        full = np.stack([decode.decode(f, wanted, shrink_on_load=False).pixels for f in files])
        reference = encoder.encode(full)
        chosen, best = sides(wanted), dict[str, float]()
        for _ in range(turns):
            for side, run in chosen.items():
                started = time.process_time()
                for file in files:
                    run(file)
                best[side] = min(best.get(side, np.inf), (time.process_time() - started) / len(files) * 1e3)
        for side, run in chosen.items():
            cosines = (encoder.encode(np.stack([run(f) for f in files])) * reference).sum(1)
            ratio = best[side] / best["Pillow, halving"]
            figures = f"{best[side]:.2f} | {ratio:.2f} | {cosines.min():.4f} | {cosines.mean():.4f}"
            print(f"| {name} | {side} | {figures} |")


if __name__ == "__main__":
    main()
