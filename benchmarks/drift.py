"""Does the stability index see a stream change, and is it quiet when nothing does?

    python -m benchmarks.drift [--svg docs/images/drift.svg]

A model is fitted on the clip-art without one category. A stream of pictures that it was not fitted on, drawn
with replacement, then changes on purpose: as held out; one category takes over a third; as held out again;
the category that the model has never seen makes a third; as held out again. The window is that of the worker
(30 blocks of 400 images at least). Prints a JSON line per thousand images.
"""

from __future__ import annotations

import argparse
import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.clipart import Data, clipart
from benchmarks.line_chart import Curve, line_chart
from imgclust.model.drift import PARTS, Reference, SlidingTally
from imgclust.training.fit import fit

UNSEEN, FAVOURITE, SHARE = "smileys", "flags", 1 / 3
PHASES = (("as held out", 14_000), ("a third are flags", 14_000), ("as held out", 14_000),
          ("a third are smileys, never seen", 14_000), ("as held out", 14_000))  # fmt: skip
BATCH = 50
COLOURS = {"clusters": "#2b55c4", "probabilities": "#d0653a", "similarities": "#1f9a74"}


def measure(data: Data, seed: int) -> Iterator[dict[str, object]]:
    rng = np.random.default_rng(seed)
    seen = np.flatnonzero(data.categories != UNSEEN)
    result = fit(data.rows[seen], seed=seed)
    model, held_out = result.model, seen[result.split.test]
    reference = Reference.of_model(model)
    assert reference is not None
    pools = {
        "as held out": held_out,
        "a third are flags": held_out[data.categories[held_out] == FAVOURITE],
        "a third are smileys, never seen": np.flatnonzero(data.categories == UNSEEN),
    }
    tallies = {  # labels depend on the picture alone, so each is predicted once
        row: reference.count(model.predict(data.rows[row : row + 1]))
        for row in np.concatenate([held_out, pools["a third are smileys, never seen"]]).tolist()
    }
    window = SlidingTally(reference, lambda: 0.0, block_seconds=0.0)
    sent = 0
    for phase, images in PHASES:
        for _ in range(images // BATCH):
            rows = np.where(
                rng.random(BATCH) < (0 if phase == "as held out" else SHARE),
                rng.choice(pools[phase], BATCH),
                rng.choice(held_out, BATCH),
            )
            for row in rows.tolist():
                window.add(tallies[row])
            sent += BATCH
            if sent % 1000 == 0:
                yield _line(phase, sent, window)


def _line(phase: str, sent: int, window: SlidingTally) -> dict[str, object]:
    drift = window.drift()
    return {
        "phase": phase,
        "sent": sent,
        "window": drift.tally.images,
        "held_out": drift.reference.images,
        **{part: round(drift.index[part], 4) for part in PARTS},
        **{f"{part}_chance": round(drift.chance[part], 4) for part in PARTS},
        **{f"{part}_verdict": drift.verdict(part) for part in PARTS},
        "other": round(drift.tally.other, 4),
        "novel": round(drift.tally.novelty, 4),
    }


def svg(lines: list[dict[str, object]]) -> str:
    """The three indexes over the stream, with the customary limits and the phases."""
    curves = [
        Curve(part, COLOURS[part], [(int(str(line["sent"])), float(str(line[part]))) for line in lines])
        for part in PARTS
    ]
    ends = list(itertools.accumulate((images for _, images in PHASES), initial=0))
    bands = list(itertools.pairwise(ends))
    ticks = [(sum(band) / 2, phase) for band, (phase, _) in zip(bands, PHASES, strict=True)]
    return line_chart(curves, limits=(0.1, 0.25), ticks=ticks, bands=bands, width=860)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split and the stream (%(default)s)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the curves")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = []
    for line in measure(clipart(), arguments.seed):
        print(json.dumps(line), flush=True)
        lines.append(line)
    if arguments.svg:
        arguments.svg.write_text(svg(lines))


if __name__ == "__main__":
    main()
