"""Draws docs/images/wings.svg for docs/architecture.md, from the imports in the code: `make docs`.

`FLOORS` is the order of the wings, from the top down: a wing imports only what stands below it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Wing = tuple[str, str]  # of a package
Arrows = set[tuple[Wing, Wing]]

FLOORS: dict[str, tuple[tuple[str, str], ...]] = {
    "worker": (
        ("__main__", "exit codes"),
        ("commands", "what operators type"),
        ("run", "tagger and view"),
        ("signals", "clean shutdown"),
        ("testing", "fixtures for your tests"),
        ("demo", "everything on one machine"),
        ("wall", "the live page"),
        ("serving", "tags over HTTP"),
        ("feed", "the reader for feeds"),
        ("reader", "reads and cursors"),
        ("retagging", "embeddings in, tags out"),
        ("tagger", "uploads in, tags out"),
        ("view", "tags → Redis"),
        ("wiring", "settings → plain values"),
        ("kafka", "consume, deliver, retry"),
        ("fetching", "fetch, decode, isolated"),
        ("http", "a server with limits"),
        ("telemetry", "metrics, health, logs"),
        ("settings", "the environment, checked"),
        ("messages", "formats on the wire"),
        ("errors", "exceptions, error codes"),
    ),
    "imgclust": (
        ("__main__", "exit codes"),
        ("cli", "what people type"),
        ("tuning", "best parameters"),
        ("engines", "on many machines"),
        ("explaining", "images in no cluster"),
        ("comparing", "two models compared"),
        ("report", "one offline page"),
        ("exporting", "to and from other tools"),
        ("training", "embeddings → model"),
        ("naming", "clusters → names"),
        ("searching", "similar images"),
        ("tagging", "predictions as rows"),
        ("model", "the frozen artefact"),
        ("editing", "what people changed"),
        ("embedding", "pixels → embeddings"),
        ("images", "files → pixels"),
        ("placing", "neighbours → points"),
        ("predictor", "embedding → cluster"),
        ("fetching", "URL → bytes"),
        ("support", "progress, memory, cores"),
        ("types", "shared types"),
        ("errors", "exceptions"),
    ),
}


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of both packages by its dotted name, without the packages' own `__init__`."""
    files = [file for package in FLOORS for file in sorted((root / package).rglob("*.py"))]
    return {
        ".".join(file.relative_to(root).with_suffix("").parts): file
        for file in files
        if file.name != "__init__.py"
    }


def imports(file: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """The modules that a file imports, with the line: at the top, in a function, and for types alone."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in known:
                    yield name, node.lineno
                elif node.module in known:
                    yield node.module, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in known)


def wing(module: str) -> Wing:
    """The package and the wing of a module."""
    package, name, *_ = module.split(".")
    return package, name


def arrows(known: dict[str, Path]) -> Arrows:
    """Which wing imports which."""
    found = {(wing(module), wing(name)) for module, file in known.items() for name, _ in imports(file, known)}
    return {(a, b) for a, b in found if a != b}


def plain(found: Arrows) -> Arrows:
    """Without the arrows that follow from others: A → C where A → B → C."""
    below: dict[Wing, set[Wing]] = {}

    def reached(start: Wing) -> set[Wing]:
        if start not in below:
            below[start] = set()
            for _, end in [arrow for arrow in found if arrow[0] == start]:
                below[start] |= {end} | reached(end)
        return below[start]

    return {
        (a, c) for a, c in found if not any(c in reached(b) for other, b in found if other == a and b != c)
    }


# ── the picture ──────────────────────────────────────────────────────────────────────────────────────────

WIDTH, BOX, HEIGHT, GAP, TOP, MARGIN = 1060, 300, 38, 14, 64, 170
INK, PAPER, FRAME, LINE, ACROSS = "#1f2937", "#f3f6fb", "#93a7c4", "#5b7fb5", "#c2cad6"


def draw() -> str:
    """The picture as SVG: a column of wings for each package; what a wing imports hangs on arcs beside it."""
    rows = max(len(floors) for floors in FLOORS.values())
    height = TOP + rows * (HEIGHT + GAP) + 20
    left = {"worker": MARGIN, "imgclust": WIDTH - MARGIN - BOX}
    centre = {
        (package, name): TOP + (row + rows - len(floors)) * (HEIGHT + GAP) + HEIGHT / 2
        for package, floors in FLOORS.items()
        for row, (name, _) in enumerate(floors)
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="14">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for (package, name), (other, target) in sorted(plain(arrows(modules()))):
        start, end = centre[package, name], centre[other, target]
        if package != other:
            x, far = left[package] + BOX, left[other]
            parts.append(f'<line x1="{x}" y1="{start}" x2="{far}" y2="{end}" stroke="{ACROSS}"/>')
            continue
        side, out = (left[package], -1) if package == "worker" else (left[package] + BOX, 1)
        bend = side + out * (14 + (end - start) * 0.2)
        parts.append(
            f'<path d="M{side},{start} C{bend:.0f},{start} {bend:.0f},{end} {side},{end}" '
            f'fill="none" stroke="{LINE}" stroke-opacity="0.55"/>'
        )
    for package, floors in FLOORS.items():
        x = left[package]
        parts.append(
            f'<text x="{x + BOX / 2}" y="36" font-size="20" text-anchor="middle" fill="{INK}">'
            f"{package}</text>"
        )
        for name, says in floors:
            y = centre[package, name]
            parts.append(
                f'<rect x="{x}" y="{y - HEIGHT / 2}" width="{BOX}" height="{HEIGHT}" rx="5" fill="{PAPER}" '
                f'stroke="{FRAME}"/>'
                f'<text x="{x + 12}" y="{y + 5}" fill="{INK}" font-weight="600">{name}</text>'
                f'<text x="{x + BOX - 12}" y="{y + 5}" fill="{INK}" text-anchor="end" '
                f'opacity="0.75">{says}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "images" / "wings.svg").write_text(draw())
