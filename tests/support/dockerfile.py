"""What deploy/Dockerfile says, stage by stage, for tests that have no container engine."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex

from tests.support.paths import ROOT

PATH = ROOT / "deploy" / "Dockerfile"


@dataclasses.dataclass
class Stage:
    """One `FROM … AS name`; `instructions` has those of the stages that it stands on too, first."""

    base: str
    instructions: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == name]

    @property
    def env(self) -> dict[str, str]:
        pairs = (pair for rest in self.all("ENV") for pair in shlex.split(rest))
        return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}

    def command(self, name: str) -> list[str]:
        """The last instruction of this name in its exec form."""
        found: list[str] = json.loads(re.sub(r"^[^\[]*", "", self.all(name)[-1]))
        return found


def stages() -> dict[str, Stage]:
    text = re.sub(r"^\s*#.*\n", "", PATH.read_text(), flags=re.M).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    now = Stage("", [])
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            now = found[name] = Stage(base, list(found[base].instructions) if base in found else [])
        now.instructions.append((word, rest.strip()))
    return found
