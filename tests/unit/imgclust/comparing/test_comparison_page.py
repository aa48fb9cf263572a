"""Two models side by side on one page."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

from imgclust.cli.arguments import main
from imgclust.comparing.compare import compare
from imgclust.comparing.comparison_page import page
from tests.support.fitted import fitted
from tests.support.report_sample import ATTACKS, webp


class Tags(HTMLParser):
    """Counts start tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


def test_what_became_of_each_cluster_in_pictures() -> None:
    """A cluster that is gone, kept ones, typical pictures of both, and names that are text."""
    model = fitted().model
    typical = [image for cluster in model.clusters for image in cluster.exemplars]
    before = dataclasses.replace(model, thumbnails=dict.fromkeys(typical, webp((9, 90, 9))))
    dropped, renamed = model.clusters[0].id, model.clusters[1].id
    after = before.edit(who="a").drop(dropped).edit(who="a").rename({renamed: ATTACKS[0]})
    found = compare(before, after)
    text = page(found, before, after, {})
    tags = Tags(text).found
    assert tags.count("script") == 0
    assert ATTACKS[0].replace("<", "&lt;").replace(">", "&gt;") in text
    assert "<summary>Gone (1)</summary>" in text
    assert f"<summary>Kept ({len(model.clusters) - 1})</summary>" in text
    assert tags.count("img") > 6 * len(model.clusters)
    assert f"{found.moved:,} of {found.images:,} images" in text
    assert "in no cluster" in text


def test_the_command_writes_it(tmp_path: Path) -> None:
    """`compare A B -o page.html` is the page."""
    model = fitted().model
    model.save(tmp_path / "a")
    model.edit(who="a").merge(model.clusters[0].id, model.clusters[1].id).save(tmp_path / "b")
    target = tmp_path / "page.html"
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(target)]) == 0
    text = target.read_text("utf-8")
    assert "<summary>Merged into another (1)</summary>" in text
    assert "default-src &#x27;none&#x27;" in text
