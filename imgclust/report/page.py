"""A model → one HTML page that works offline: map, clusters with their pictures, figures.

The page is one file and loads nothing: styles, script, data and pictures are inside, and a content
security policy of hashes forbids the rest. Names and ids come from strangers; they travel as JSON and
reach the page as text nodes. The same model gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.embedding.store import shards
from imgclust.errors import ImgclustError
from imgclust.report.data import BUDGET, ReportData, from_model
from imgclust.report.payload import payload
from imgclust.support.tables import write_whole

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

_SCRIPTS = ("1-data.js", "2-view.js", "3-paint.js", "4-map.js", "5-lists.js", "6-app.js")


def write_report(
    model: ClusterModel | Path | str,
    path: Path | str,
    *,
    tags: Path | str | None = None,
    images: Path | str | None = None,
    title: str | None = None,
    budget: int = BUDGET,
) -> Path:
    """Write the report of a model as one HTML file.

    Args:
        model: a loaded model, or its folder.
        path: where the page goes; an existing file is replaced once the new page is complete.
        tags: predictions (`imgclust predict -o`) or tags of the images on the map, as CSV, JSON lines or
            Parquet, or a folder of Parquet parts: they add probabilities, candidates and attributes to filter
            by. An embeddings folder is taken as `images`.
        images: the embeddings folder that the model was fitted on. It adds the attributes, what the model
            says of held-out images, and a small picture of each image on the map whose file is still there;
            without it only typical pictures are shown.
        title: the page's heading; by default the model's version.
        budget: bytes of the page that pictures may take. Typical pictures come first, then borderline and
            random ones of each cluster, then "other", then the rest, as large as all of them have room.

    Returns:
        The page's path.

    Raises:
        ModelError: the model folder is damaged.
        EmbeddingsError: the images are another encoder's.
        ImgclustError: the tags or embeddings cannot be read, the page cannot be written, or the budget is
            negative.
    """
    if budget < 0:
        raise ImgclustError(f"the budget for pictures is 0 bytes or more, got {budget}")
    if isinstance(model, Path | str):
        from imgclust.model.model import ClusterModel

        model = ClusterModel.load(model)
    if tags and shards(Path(tags)):  # an embeddings folder, which tells of images what tags do, and more
        tags, images = None, images or tags
    data = from_model(
        model, images=Path(images) if images else None, tags=Path(tags) if tags else None, budget=budget
    )
    return write_page(data, Path(path), title=title)


def write_page(data: ReportData, path: Path, *, title: str | None = None) -> Path:
    """Write a page from what it shows. Raises ImgclustError if the file cannot be written."""
    write_whole(path, page(data, title=title).encode())
    return path


def page(data: ReportData, *, title: str | None = None) -> str:
    """The page as text; a pure function of its arguments."""
    source = importlib.resources.files("imgclust.report") / "web"
    css = (source / "report.css").read_text("utf-8")
    js = "\n".join((source / name).read_text("utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n{{\n{js}}}\n'
    heading = (title or f"Model {data.version}").encode("utf-8", "replace").decode()  # no lone surrogates
    parts = {
        "csp": html.escape(_policy(css, script)),
        "title": html.escape(heading),
        "css": css,
        "js": script,
        "data": script_json(payload(data)),
    }
    template = (source / "template.html").read_text("utf-8")
    # one pass: what has been put in is not searched again
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def script_json(value: object) -> str:
    """JSON that may stand in a script element: ASCII, and no character that means something to HTML."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(css: str, script: str) -> str:
    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(css)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
