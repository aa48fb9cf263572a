"""More than three thousand bad images, made anew from a fixed seed, each with the code that it must end with.

    python tests/hostile/corpus.py FOLDER     writes them as files, for a look or for another system

What is cut, lied about or built as a bomb has its code from how it was made. Fuzzed bytes cannot have it, for
some decode all the same; `fuzzed` keeps those that Pillow alone, which knows nothing of us, refuses as well.
"""

from __future__ import annotations

import functools
import io
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.hostile.bombs import bombs
from tests.hostile.images import MAX_PIXELS, SEED, Case, seeds
from tests.hostile.lies import lies
from tests.hostile.strangers import strangers
from tests.hostile.truncated import truncated


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, moved, doubled or taken out."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 40))):
        at = rng.randrange(len(out))
        match rng.randrange(5):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                out[at : at + 4] = rng.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1")
                )
            case 2:
                del out[at : at + rng.randrange(1, 64)]
            case 3:
                out[at:at] = out[at : at + rng.randrange(1, 64)]
            case _:
                out[at] ^= 1 << rng.randrange(8)
        if not out:
            return b"\0"
    return bytes(out)


def refused_by_pillow(data: bytes) -> bool:
    """Whether Pillow, left to itself, makes no picture of this."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                return True
            image.load()
    except Exception:
        return True
    return False


def fuzzed(per_seed: int = 40) -> Iterator[tuple[str, bytes]]:
    """Mutations of the seeds that Pillow alone refuses, too; which code they end with is not known before."""
    for name, data in seeds().items():
        rng = random.Random(f"{SEED}{name}")
        for number in range(per_seed):
            changed = mutated(data, rng)
            if refused_by_pillow(changed):
                yield f"fuzz/{name}-{number}", changed


@functools.cache
def cases() -> tuple[Case, ...]:
    """All whose code is known from how they were made."""
    return (*truncated(), *bombs(), *strangers(), *lies())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    made = [(case.name, case.data) for case in cases()] + list(fuzzed())
    for name, data in made:
        (folder / name.replace("/", "-")).write_bytes(data)
    print(f"{len(made)} bad images in {folder}")
