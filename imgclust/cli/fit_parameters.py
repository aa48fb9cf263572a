"""The parameters of a fit on the command line: by option, by `--set NAME=VALUE`, and from and to a file."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.training.parameters import Parameters

OPTIONS = ("n_neighbors", "min_cluster_size", "min_samples", "consensus")  # that have an option of their own


def chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    """What differs from the defaults: the file's, then `--set`, then options of their own.

    Raises:
        ImgclustError: a file that cannot be read, or a parameter that is unknown or of another kind.
    """
    found: dict[str, Any] = {}
    if arguments.parameters is not None:
        found |= {name: _value(name, value) for name, value in _read(arguments.parameters).items()}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ImgclustError(f"--set takes NAME=VALUE, like min_dist=0, got {text!a:.80}")
        found[name.strip()] = _value(name.strip(), value.strip())
    for name in OPTIONS:
        if (value := getattr(arguments, name)) is not None:
            found[name] = value
    return found


def save(parameters: Parameters, path: Path) -> None:
    """Write all parameters as TOML. Raises ImgclustError if the file cannot be written."""
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in parameters.to_dict().items()]
    try:
        path.write_text("".join(lines), "utf-8")
    except OSError as error:
        raise ImgclustError(f"the parameters cannot be written to {str(path)!a}: {error.strerror}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ImgclustError(
            f"the parameters {str(path)!a} cannot be read: {error}; lines like min_dist = 0.0 are expected"
        ) from None


def _value(name: str, value: Any) -> Any:
    """A parameter's value as its kind: `int`, `float` or `str`, as `Parameters` declares it."""
    from imgclust.training.parameters import Parameters

    kinds: dict[str, str] = {
        field.name: str(field.type) for field in Parameters.__dataclass_fields__.values()
    }
    if name not in kinds:
        raise ImgclustError(f"there is no parameter {name!a:.60}; there are {', '.join(sorted(kinds))}")
    kind = {"int": int, "float": float, "str": str}[kinds[name]]
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError):
        what = {int: "a whole number", float: "a number", str: "a word"}[kind]
        raise ImgclustError(f"{name} is {what}, got {value!a:.60}") from None
