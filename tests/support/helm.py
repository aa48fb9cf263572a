"""Renders the chart of deploy/helm as `helm template` does, as far as the chart uses Helm's language.

That is little: if, range over a map, toYaml with nindent, quote, toJson, sha256sum, and raw text. Anything
else in a template is an error here, and so is a value that is not there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Values = dict[str, Any]
_IF = re.compile(r"\{\{- if \.Values\.([\w.]+) \}\}")
_RANGE = re.compile(r" *\{\{- range \$name, \$value := \.Values\.([\w.]+) \}\}")
_BLOCK = re.compile(r" *\{\{- toYaml \.Values\.([\w.]+) \| nindent (\d+) \}\}")
_END = re.compile(r" *\{\{- end \}\}")
_INLINE = re.compile(r"\{\{(`.*?`| .*? )\}\}")


def values(folder: Path, *more: str, **over: Any) -> Values:
    """`values.yaml`, with other files of values and single ones merged over it."""
    found: Values = yaml.safe_load((folder / "values.yaml").read_text())
    for name in more:
        found = merged(found, yaml.safe_load((folder / name).read_text()))
    return merged(found, over)


def merged(base: Values, over: Values) -> Values:
    """Maps are merged, everything else is replaced."""
    return {
        **base,
        **{
            k: merged(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v
            for k, v in over.items()
        },
    }


def render(folder: Path, given: Values) -> list[dict[str, Any]]:
    """The resources that the chart makes.

    Raises:
        ValueError: a template uses what is not known here, or a value that is not there.
    """
    found: list[dict[str, Any]] = []
    for template in sorted((folder / "templates").glob("*.yaml")):
        text = "\n".join(_lines(template.read_text().splitlines(), given))
        found += [resource for resource in yaml.safe_load_all(text) if resource]
    return found


def look_up(given: Values, path: str) -> Any:
    for name in path.split("."):
        if name not in given:
            raise ValueError(f".Values.{path} is not in values.yaml")
        given = given[name]
    return given


def _lines(lines: list[str], given: Values) -> Iterator[str]:
    waiting = iter(lines)
    for line in waiting:
        if found := _IF.fullmatch(line):
            inner = list(_until_end(waiting))
            if look_up(given, found[1]):
                yield from _lines(inner, given)
        elif found := _RANGE.fullmatch(line):
            inner = list(_until_end(waiting))
            for name, value in sorted(look_up(given, found[1]).items()):
                yield from (_inline(each, given, {"$name": name, "$value": value}) for each in inner)
        elif found := _BLOCK.fullmatch(line):
            text = yaml.safe_dump(look_up(given, found[1]), sort_keys=True)
            yield from (" " * int(found[2]) + each for each in text.splitlines())
        else:
            yield _inline(line, given, {})


def _until_end(lines: Iterator[str]) -> Iterator[str]:
    depth = 1
    for line in lines:
        depth += bool(_IF.fullmatch(line) or _RANGE.fullmatch(line)) - bool(_END.fullmatch(line))
        if not depth:
            return
        yield line
    raise ValueError("an end is missing")


def _inline(line: str, given: Values, names: dict[str, Any]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1].startswith("`"):
            return found[1][1:-1]
        first, *filters = found[1].strip().split(" | ")
        result = names[first] if first in names else look_up(given, first.removeprefix(".Values."))
        for name in filters:
            if name not in _FILTERS:
                raise ValueError(f"{name} is not known here")
            result = _FILTERS[name](result)
        return str(result)

    text = _INLINE.sub(value, line)
    if "{{-" in text:
        raise ValueError(f"not known here: {line}")
    return text


_FILTERS: dict[str, Any] = {
    "quote": lambda value: json.dumps(str(value)),
    "toJson": lambda value: json.dumps(value, sort_keys=True, separators=(",", ":")),
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
}
