"""The report page without a browser: what is in the file, and what cannot be."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import ImgclustError
from imgclust.naming.given import folder_of
from imgclust.report.annotations import Note, read_notes
from imgclust.report.data import Facet, facets
from imgclust.report.figures import label, shown
from imgclust.report.page import page, script_json, write_page
from imgclust.report.palette import colours, differences
from tests.support.report_sample import ATTACKS, hostile_report, webp


class Elements(HTMLParser):
    """Collects start tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def only(tag: str, text: str) -> str:
    """The content of the one element of this kind that has no attributes."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return str(content)


def payload(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


@given(
    st.recursive(
        st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_no_value_leaves_its_script(value: object) -> None:
    """Any JSON value comes back equal, and its text holds nothing that HTML or JavaScript could end at."""
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()


def test_hostile_names_add_no_element() -> None:
    """A report of attacks has the same elements as one of harmless names."""
    hostile = hostile_report()
    rename = {image: f"image-{i}" for i, image in enumerate(hostile.ids)}
    harmless = dataclasses.replace(
        hostile,
        ids=list(rename.values()),
        clusters=tuple(
            dataclasses.replace(c, name="name", exemplars=tuple(rename[e] for e in c.exemplars))
            for c in hostile.clusters
        ),
        thumbnails={rename[i]: t for i, t in hostile.thumbnails.items()},
        encoder={},
        figures={},
        notes={},
    )
    attacked = Elements(page(hostile, title=ATTACKS[0]))
    assert [t for t, _ in attacked.tags] == [t for t, _ in Elements(page(harmless)).tags]
    assert html.escape(ATTACKS[0]) in page(hostile, title=ATTACKS[0])


def test_the_policy_allows_this_script_and_style_alone() -> None:
    """The content security policy names the hashes of what is in the page, and pictures from data: alone."""
    text = page(hostile_report())
    policy = next(a["content"] for t, a in Elements(text).tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["script-src"] == digest(only("script", text))
    assert rules["style-src"] == digest(only("style", text))
    assert rules["img-src"] == "data:"


def test_nothing_is_loaded_from_anywhere() -> None:
    """No attribute of the page, and nothing in its style, names an address."""
    text = page(hostile_report())
    addresses = [
        a[k] for _, a in Elements(text).tags for k in ("src", "href", "action", "srcset") if a.get(k)
    ]
    assert addresses == ["data:,", "#clusters"]
    assert "url(" not in only("style", text)
    assert "@import" not in only("style", text)
    code = only("script", text)
    for way_out in (
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "import(",
        "innerHTML",
        "insertAdjacent",
        "eval(",
    ):
        assert way_out not in code


def test_same_model_same_bytes(tmp_path: Path) -> None:
    """The page holds no clock and no chance: twice the same data, twice the same bytes, no file left over."""
    one = write_page(hostile_report(), tmp_path / "one.html").read_bytes()
    two = write_page(hostile_report(), tmp_path / "two.html").read_bytes()
    assert one == two
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.html", "two.html"]


def test_places_labels_and_probabilities_survive_packing() -> None:
    """What the browser unpacks is the map: order kept, coordinates to 1/65535, probabilities to 1/254."""
    data = hostile_report()
    images = payload(page(data))["images"]

    def unpacked(name: str, kind: str) -> np.ndarray[Any, Any]:
        return np.frombuffer(base64.b64decode(images[name]), kind)

    x, y = unpacked("x", "<u2").astype(float), unpacked("y", "<u2").astype(float)
    span = max(np.ptp(data.x), np.ptp(data.y))
    np.testing.assert_allclose(x / 65535 * span, data.x - data.x.min(), atol=span / 65535)
    np.testing.assert_allclose(y / 65535 * span, data.y.max() - data.y, atol=span / 65535)
    assert unpacked("cluster", "<i4").tolist() == data.labels.tolist()
    assert unpacked("probability", "u1").tolist() == [
        0 if label < 0 else round(254 * (1 + i % 3) / 4) for i, label in enumerate(data.labels)
    ]
    assert images["ids"] == data.ids


def test_a_typical_picture_off_the_map_has_no_place() -> None:
    """Exemplars that a sampled map left out are still shown: they come after the placed images."""
    data = hostile_report()
    first = data.clusters[0]
    beyond = dataclasses.replace(first, exemplars=("not on the map", *first.exemplars[:23]))
    data = dataclasses.replace(
        data, clusters=(beyond, *data.clusters[1:]), thumbnails={"not on the map": webp((1, 2, 3))}
    )
    images = payload(page(data))["images"]
    assert images["placed"] == len(data.ids)
    assert images["ids"][images["placed"] :] == ["not on the map"]
    assert [number for number, _ in images["thumbs"]] == [len(data.ids)]


def test_a_strange_map_still_has_places() -> None:
    """Coordinates that are not finite and clusters that do not exist become a place and "other"."""
    data = hostile_report(40, 4)
    x, labels = data.x.copy(), data.labels.copy()
    x[:2], labels[2] = (np.nan, np.inf), 99
    images = payload(page(dataclasses.replace(data, x=x, labels=labels)))["images"]
    assert len(base64.b64decode(images["x"])) == 2 * 40
    assert np.frombuffer(base64.b64decode(images["cluster"]), "<i4")[2] == -1


def test_sizes_add_up() -> None:
    """Clusters and "other" together are all training images, and the headline says how many."""
    data = hostile_report()
    found = payload(page(data))
    assert sum(c["size"] for c in found["clusters"]) + found["other"] == data.images == 400
    assert {t["label"]: t["value"] for t in found["tiles"]} == {
        "Pictures": "400", "Clusters": "8", "In no cluster": "10.0 %",
    }  # fmt: skip


def test_a_model_without_an_encoder_claims_none() -> None:
    """A pair that was fitted elsewhere may not say whose embeddings it takes: no table pretends to."""
    titles = [
        s["title"] for s in payload(page(dataclasses.replace(hostile_report(), encoder={})))["sections"]
    ]
    assert "Encoder" not in titles
    assert "UMAP" in titles


def test_the_headline_calls_only_the_largest_largest() -> None:
    """The three largest are named as such; where one of them has no name, it says "among them"."""
    data = hostile_report()
    sized = [dataclasses.replace(c, name=f"n{c.id}", size=100 - c.id) for c in data.clusters]
    text = payload(page(dataclasses.replace(data, clusters=tuple(sized))))["lede"]
    assert text.endswith("into 8 clusters; the largest are n0, n1 and n2.")
    sized[0] = dataclasses.replace(sized[0], name=None)
    text = payload(page(dataclasses.replace(data, clusters=tuple(sized))))["lede"]
    assert text.endswith("into 8 clusters; among them n1, n2 and n3.")


def test_fifteen_hundred_images_stay_small(tmp_path: Path) -> None:
    """1,500 images in 60 clusters with 24 pictures each, of the size of photographs, take their 15 MB."""
    data = hostile_report(1500, 60)
    noise = webp((9, 9, 9))[:12] + bytes(9_000)
    data = dataclasses.replace(data, thumbnails=dict.fromkeys(data.thumbnails, noise))
    assert sum(map(len, data.thumbnails.values())) > data.picture_bytes  # there is more than has room
    path = write_page(data, tmp_path / "large.html")
    assert path.stat().st_size <= data.budget + 500_000
    found = payload(path.read_text("utf-8"))
    with_picture = {number for number, _ in found["images"]["thumbs"]}
    each = [len(with_picture.intersection(c["pictures"])) for c in found["clusters"]]
    assert max(each) - min(each) <= 1  # no cluster goes without for another's sake


def test_only_webp_becomes_a_picture() -> None:
    """A thumbnail that is something else (an SVG, a script) is left out."""
    data = hostile_report()
    image = data.clusters[0].exemplars[0]
    data = dataclasses.replace(data, thumbnails={image: b"<svg onload=alert(1)>"})
    assert payload(page(data))["images"]["thumbs"] == []


def test_a_page_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    """A missing folder is an error that names the file and the remedy."""
    with pytest.raises(ImgclustError, match=r"missing/report\.html.*an existing folder"):
        write_page(hostile_report(8, 2), tmp_path / "missing" / "report.html")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("other_share_test", 0.3117, "31.2 %"),
        ("images", 150000, "150,000"),
        ("ami", 0.53, "0.53"),
        ("min_dist", 0.03, "0.03"),
        ("agreement", None, "–"),
        ("sizes", [1, 2], "1, 2"),
    ],
)
def test_figures_read_well(key: str, value: object, text: str) -> None:
    """Shares are per cent, large numbers have commas, nothing is a dash."""
    assert shown(key, value) == text


def test_labels_read_well() -> None:
    """Keys become words; short forms stay short forms."""
    assert label("other_share_test") == "Other share test"
    assert label("ami") == "AMI"


# ---- facets and notes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "folder"),
    [
        ("birds/a.png", "birds"),
        ("a.png", None),
        ("https://x/birds/a.png", None),
        ("/abs/a.png", None),
        ("../a/b", None),
    ],
)
def test_folders_are_categories_only_where_they_are_folders(image: str, folder: str | None) -> None:
    """A relative path has a first folder; names, URLs and absolute paths have none."""
    assert folder_of(image) == folder


def test_facets() -> None:
    """Attributes with 2 to 60 values are filters, "category" first; without any, the folders are."""
    ids = [f"f{i % 2}/{i}" for i in range(100)]
    notes = {i: Note(attributes={"b": i[:2], "category": i[-1:], "unique": i, "same": "1"}) for i in ids}
    found = facets(ids, notes)
    assert [f.name for f in found] == ["category", "b"]
    by_folder = facets(ids, {})
    assert [(f.name, f.values) for f in by_folder] == [("folder", ["f0", "f1"])]
    assert by_folder[0].codes.tolist() == [i % 2 for i in range(100)]
    assert isinstance(by_folder[0], Facet)


def test_numbers_that_are_no_shares_are_brought_into_range(tmp_path: Path) -> None:
    """Probabilities and scores from a file are 0 to 1 afterwards, whatever the file says; NaN is 0."""
    record = '{"id": "a", "probability": NaN, "candidates": [{"cluster": 1, "score": 1e9}]}'
    (tmp_path / "t.jsonl").write_text(record)
    assert read_notes(tmp_path / "t.jsonl") == {"a": Note(0.0, False, ((1, 1.0),), {})}


def test_notes_from_tags(tmp_path: Path) -> None:
    """Tags as JSON lines give probability, candidates and attributes by id."""
    tag = {
        "id": "a", "cluster": 1, "probability": 0.5, "novel": True,
        "candidates": [{"cluster": 1, "name": "x", "score": 0.7}], "attributes": {"category": "c", "n": 3},
    }  # fmt: skip
    file = tmp_path / "tags.jsonl"
    file.write_text(json.dumps(tag) + "\n")
    assert read_notes(file) == {"a": Note(0.5, True, ((1, 0.7),), {"category": "c", "n": "3"})}


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.jsonl", '{"no id": 1}'), ("t.jsonl", "[]"), ("t.csv", "id,probability\na,x\n"), ("t.txt", "")],
)
def test_what_is_not_tags_is_refused(tmp_path: Path, name: str, content: str) -> None:
    """A file of something else is an error for the user, not a traceback."""
    (tmp_path / name).write_text(content)
    with pytest.raises(ImgclustError):
        read_notes(tmp_path / name)


# ---- colours --------------------------------------------------------------------------------------------


def rgb(colour: str) -> np.ndarray[Any, Any]:
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


@given(st.integers(0, 120), st.integers(0, 2**32 - 1))
def test_every_cluster_has_a_colour(n: int, seed: int) -> None:
    """Any number of clusters gets as many colour pairs; up to 50 all differ, and each can be seen."""
    pairs = colours(np.random.default_rng(seed).normal(size=(n, 2)))
    assert len(pairs) == n
    assert len(set(pairs[:50])) == min(n, 50)
    for light, dark in pairs:
        luminance = [float(rgb(c) @ [0.2126, 0.7152, 0.0722]) for c in (light, dark)]
        assert 1.05 / (luminance[0] + 0.05) >= 1.9  # on white
        assert (luminance[1] + 0.05) / 0.06 >= 2.5  # on near black


def test_clusters_side_by_side_differ_more_than_by_chance() -> None:
    """On a grid of 36 clusters neighbours differ more, to the worst of three eyes, than pairs at large."""
    centres = np.array(list(itertools.product(range(6), range(6))), float)
    given_to = colours(centres)
    apart = differences(np.array([rgb(light) for light, _ in given_to]))
    beside = np.linalg.norm(centres[:, None] - centres[None], axis=2) == 1
    everywhere = ~np.eye(36, dtype=bool)
    assert apart[beside].min() > 2 * apart[everywhere].min()
    assert np.median(apart[beside]) > np.median(apart[everywhere])
