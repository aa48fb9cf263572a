"""README.md and docs/ say what the code says."""

import re

import yaml

from tests.support.paths import ROOT
from tests.support.promql import script

generate = script("docs/generate.py")
README = (ROOT / "README.md").read_text()


def test_its_tables_are_those_of_the_code() -> None:
    """The settings and metrics tables are up to date; `make docs` writes them."""
    for page in generate.TABLES:
        assert generate.render(page) == page.read_text(), f"stale tables in {page.name}; run `make docs`"


def test_the_index_names_every_decision() -> None:
    """By number and title, as the pages have them; `make docs` writes it."""
    assert generate.INDEX.read_text() == generate.decisions(), "stale index; run `make docs`"


def test_the_schemas_are_those_of_the_code() -> None:
    """JSON Schemas, OpenAPI: what docs/schemas shows is what the worker reads, writes and answers."""
    found = {file.name: file.read_text() for file in (ROOT / "docs" / "schemas").iterdir()}
    assert found == generate.schemas(), "stale; run `make docs`"


def test_the_pages_name_files_that_exist() -> None:
    """A file of the code that moves takes its mention in the docs along."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for named in re.findall(
            r"`((?:worker|imgclust|tests|benchmarks|deploy)/[\w/.-]+?)`", page.read_text()
        ):
            assert (ROOT / named).exists(), f"{page.relative_to(ROOT)} names {named}"


def test_the_documentation_begins_at_the_beginning_and_has_every_page() -> None:
    """Install, quickstart and concepts come first, how it works comes last, and no page is left out."""
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text())
    nav = yaml.safe_load(text)["nav"]
    assert [next(iter(entry)) for entry in nav[:4]] == ["Start", "Install", "Quickstart", "Concepts"]
    assert next(iter(nav[-1])) == "How it works"
    pages = re.findall(r"[\w./-]+\.md", str(nav))
    docs = ROOT / "docs"
    written = {str(page.relative_to(docs)) for page in docs.rglob("*.md")}
    decisions = {page for page in written if page.startswith("decisions/0")}  # their index names them
    assert sorted(pages) == sorted(written - decisions)


def test_its_links_lead_somewhere() -> None:
    """Every relative link of the README and of docs/ names a file that exists."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_its_commands_exist() -> None:
    """Each `imgclust …` and `imgclust-worker …` command that it and the quickstart show is known."""
    from imgclust.cli.arguments import parser as library
    from worker.commands.arguments import parser as worker

    for program, parser in (("imgclust", library()), ("imgclust-worker", worker())):
        text = README + (ROOT / "docs" / "quickstart.md").read_text()
        shown = set(re.findall(rf"(?<![\w/-]){program} ([a-z]+)", text)) - {"groups", "import"}
        known = set(parser._subparsers._group_actions[0].choices)  # type: ignore[union-attr, arg-type]
        assert shown <= known, f"{program}: {shown - known}"
        assert shown
