"""Endpoints described once: what parses a request, what routes it, and the OpenAPI document."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Literal

from aiohttp import web

from imgclust import __version__
from worker.http.answers import Handler, refused

Schema = Mapping[str, Any]

ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"description": "What was wrong, and what to do.", "type": "string"}},
}


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a path or a query.

    Attributes:
        schema: its JSON Schema: an integer with bounds, a string with lengths, or an array of either, which
            is a parameter that may be repeated.
        default: what a query without it means.
    """

    name: str
    schema: Schema
    meaning: str
    where: Literal["path", "query"] = "query"
    default: Any = None

    def described(self) -> dict[str, Any]:
        schema = dict(self.schema) if self.default is None else {**self.schema, "default": self.default}
        return {
            "name": self.name,
            "in": self.where,
            "required": self.where == "path",
            "description": self.meaning,
            "schema": schema,
        }

    def read(self, request: web.Request) -> Any:
        """Its value: int, str, a list of them, or the default.

        Raises:
            HTTPBadRequest: it is not what the schema allows.
        """
        texts = (
            [request.match_info[self.name]] if self.where == "path" else request.query.getall(self.name, [])
        )
        if self.schema["type"] == "array":
            if len(texts) > self.schema["maxItems"]:
                raise self._wrong(f"may be given {self.schema['maxItems']} times")
            return [self._value(text, self.schema["items"]) for text in texts]
        return self._value(texts[-1], self.schema) if texts else self.default

    def _value(self, text: str, schema: Schema) -> int | str:
        if schema["type"] == "integer":
            return self._integer(text, schema)
        if not schema["minLength"] <= len(text) <= schema["maxLength"]:
            raise self._wrong(f"has {schema['minLength']} to {schema['maxLength']} characters")
        return text

    def _integer(self, text: str, schema: Schema) -> int:
        digits = text.removeprefix("-")
        if digits.isascii() and digits.isdecimal() and len(digits) <= 10:
            value = int(text)
            if schema["minimum"] <= value <= schema["maximum"]:
                return value
        raise self._wrong(f"is a whole number of {schema['minimum']} to {schema['maximum']}")

    def _wrong(self, allowed: str) -> web.HTTPException:
        return refused(web.HTTPBadRequest, f"{self.name} {allowed}")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """One path and method.

    Attributes:
        answers: status → what it means; the schema of 200 is `result`, of the others Error.
        body: JSON Schema of the request's body by its content type, if it has one.
        headers: that a good answer has beside the content type, with their meaning.
    """

    path: str
    summary: str
    result: Schema
    answers: Mapping[int, str]
    parameters: tuple[Parameter, ...] = ()
    method: Literal["get", "post"] = "get"
    body: Mapping[str, Schema] | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def values(self, request: web.Request) -> dict[str, Any]:
        """Every parameter's value by its name; raises HTTPBadRequest."""
        return {parameter.name: parameter.read(request) for parameter in self.parameters}

    def described(self) -> dict[str, Any]:
        headers = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in self.headers.items()
        }
        found: dict[str, Any] = {
            "summary": self.summary,
            "operationId": self.method + "".join(filter(str.isalnum, self.path.title())),
            "parameters": [parameter.described() for parameter in self.parameters],
            "responses": {
                str(status): self._answer(status, meaning, headers)
                for status, meaning in self.answers.items()
            },
        }
        if self.body is not None:
            content = {kind: {"schema": schema} for kind, schema in self.body.items()}
            found["requestBody"] = {"required": True, "content": content}
        return found

    def _answer(self, status: int, meaning: str, headers: Mapping[str, Any]) -> dict[str, Any]:
        if status == 304:
            return {"description": meaning}
        schema = self.result if status == 200 else {"$ref": "#/components/schemas/Error"}
        answer = {"description": meaning, "content": {"application/json": {"schema": schema}}}
        return {**answer, "headers": headers} if status == 200 and headers else answer


def add_routes(app: web.Application, handlers: Mapping[Endpoint, Handler]) -> None:
    for endpoint, handler in handlers.items():
        path = re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", endpoint.path)  # by itself aiohttp allows no braces there
        app.router.add_route(endpoint.method.upper(), path, handler)


def document(
    title: str, description: str, endpoints: Iterable[Endpoint], schemas: Mapping[str, Schema]
) -> dict[str, Any]:
    """An OpenAPI 3.1 document.

    Args:
        schemas: components by name, beside Error.
    """
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint.described()
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__, "description": description},
        "paths": paths,
        "components": {"schemas": {**schemas, "Error": ERROR}},
    }


def tag_schemas() -> dict[str, Schema]:
    """The tag's JSON Schema, and those that it is made of, as components."""
    text = resources.files("worker.messages").joinpath("schemas/tag.schema.json").read_text()
    found = json.loads(text.replace('"#/$defs/', '"#/components/schemas/'))
    parts = found.pop("$defs")
    found.pop("$schema")
    return {"Tag": found, **parts}
