"""One offline page of pictures in groups: what a search found, duplicates side by side, images that moved.

Like the report, the page loads nothing, and names, which come from strangers, are text.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from imgclust.support.tables import utf8, write_whole

MAX_BYTES = 30_000_000  # of pictures on one page; those beyond are shown by their names

_CSS = """
:root { color-scheme: light dark; --line: #d5dae3; --muted: #667085; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 20px 16px 60px; }
h1 { font-size: 24px; line-height: 1.2; }
h2 { font-size: 17px; margin: 28px 0 8px; }
p { color: var(--muted); margin: 4px 0 12px; overflow-wrap: anywhere; }
ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 12px; }
ul { list-style: none; margin: 0; padding: 0; }
figure { margin: 0; }
figcaption { font-size: 12px; color: var(--muted); overflow-wrap: anywhere; }
figcaption b { color: CanvasText; display: block; font-weight: 600; }
img, .none { width: 100%; aspect-ratio: 1; object-fit: contain; box-sizing: border-box; }
img, .none { border: 1px solid var(--line); border-radius: 8px; background: #8882; }
.none { display: grid; place-items: center; color: var(--muted); font-size: 12px; }
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """A picture with its name, a line in bold, and a small WebP; None: it cannot be read here."""

    name: str
    bold: str
    webp: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class PictureGroup:
    """Pictures under a heading, with a line about them."""

    heading: str
    about: str
    pictures: Sequence[Picture]


def write_pictures(path: Path, title: str, about: str, groups: Iterable[PictureGroup]) -> None:
    """Write the page. Raises ImgclustError if it cannot be written."""
    write_whole(path, page(title, about, groups).encode())


def page(title: str, about: str, groups: Iterable[PictureGroup]) -> str:
    """The page as text; a pure function of its arguments."""
    room = [MAX_BYTES]
    return document(title, about, "".join(_group(group, room) for group in groups))


def document(title: str, about: str, body: str, css: str = "") -> str:
    """An offline page around a body that is made of escaped text: nothing is loaded, nothing runs.

    Args:
        css: more of it, behind that of pages with pictures.
    """
    style = _CSS + css
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escaped(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{style}</style></head>"
        f"<body><h1>{escaped(title)}</h1><p>{escaped(about)}</p>{body}</body></html>\n"
    )


def _group(group: PictureGroup, room: list[int]) -> str:
    pictures = "".join(_picture(picture, room) for picture in group.pictures)
    about = f"<p>{escaped(group.about)}</p>" if group.about else ""
    heading = f"<h2>{escaped(group.heading)}</h2>" if group.heading else ""
    return f"<section>{heading}{about}<ul>{pictures}</ul></section>"


def _picture(picture: Picture, room: list[int]) -> str:
    shown = image(picture.name, picture.webp, room)
    caption = f"<figcaption><b>{escaped(picture.bold)}</b>{escaped(picture.name)}</figcaption>"
    return f"<li><figure>{shown}{caption}</figure></li>"


def image(name: str, webp: bytes | None, room: list[int]) -> str:
    """An element with the picture, or a square that says that there is none.

    Args:
        room: one number, the bytes that pictures of the page may still have; this one's are subtracted.
    """
    if webp is None or len(webp) > room[0]:
        return '<div class="none">no picture here</div>'
    room[0] -= len(webp)
    data = base64.b64encode(webp).decode()
    return f'<img loading="lazy" alt="{escaped(name)}" src="data:image/webp;base64,{data}">'


def escaped(text: str) -> str:
    """Text that may stand in an element or in a quoted attribute."""
    return html.escape(utf8(text), quote=True)
