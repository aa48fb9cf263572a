"""The order of the wings: whoever breaks it learns which import runs up, and from where."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter

from tests.support.promql import script

wings = script("docs/wings.py")
KNOWN = wings.modules()
FLOOR = {
    (package, name): height
    for package, floors in wings.FLOORS.items()
    for height, (name, _) in enumerate(reversed(floors))
}

# a model hands out its editor, and an editor returns models: the second names the first in its signatures
FOR_TYPES = {("imgclust.model.editor", "imgclust.model.model")}


@cache
def imports() -> dict[str, list[tuple[str, int]]]:
    """Module → what it imports, and where; read once."""
    return {module: list(wings.imports(file, KNOWN)) for module, file in KNOWN.items()}


def test_every_wing_has_its_floor() -> None:
    """A new wing says where it stands, and one that is gone leaves no floor behind."""
    assert {wings.wing(module) for module in KNOWN} == set(FLOOR), "name it in FLOORS of docs/wings.py"


def test_a_wing_imports_only_what_stands_below_it() -> None:
    """Imports in functions and for types count: what is loaded late is a dependency all the same."""
    up = [
        f"{KNOWN[module].relative_to(wings.ROOT)}:{line} imports {name}"
        for module, found in imports().items()
        for name, line in found
        if wings.wing(module)[0] == wings.wing(name)[0]
        and FLOOR[wings.wing(module)] < FLOOR[wings.wing(name)]
    ]
    assert not up


def test_imgclust_never_imports_worker() -> None:
    """The library works without the service."""
    found = [
        f"{module} imports {name}"
        for module, imported in imports().items()
        for name, _ in imported
        if module.startswith("imgclust.") and name.startswith("worker.")
    ]
    assert not found


def test_no_module_imports_itself_in_a_circle() -> None:
    """Not within a wing either, and not for types alone."""
    graph: defaultdict[str, set[str]] = defaultdict(set)
    for module, found in imports().items():
        graph[module] |= {name for name, _ in found if (module, name) not in FOR_TYPES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' → '.join(error.args[1])}") from None


def test_a_wings_init_is_empty() -> None:
    """A fetcher process imports one wing and must not load torch with it."""
    inits = [
        file
        for package in wings.FLOORS
        for file in (wings.ROOT / package).rglob("*/__init__.py")
        if file.read_text().strip()
    ]
    assert not inits
