"""The OpenAPI 3.1 description of this server: a pure function of what the operator allows.

Bodies are the models that parse them, answers the types in `answers`, errors the classes in `errors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from handler import __version__, answers, errors
from handler.errors import ServiceError
from handler.operations import JSON, OCTETS, Operation, operations
from handler.service import Rules

Json = dict[str, Any]
Problem = type[ServiceError]

# Sent by the worker, in OpenAI's envelope where it cannot read a path.
_OF_CONNECTIONS: tuple[Problem, ...] = (
    *(errors.InvalidRequestError, errors.SlowRequestError, errors.OverloadedError, errors.HeadTooLargeError),
    errors.InternalError,
)
_OF_VIEWS: tuple[Problem, ...] = (errors.InvalidRequestError, errors.MethodNotAllowedError, errors.InternalError)
_OF_BODIES: tuple[Problem, ...] = (errors.RequestTooLargeError, errors.MissingCapabilityError)
_OF_WORK: tuple[Problem, ...] = (errors.NotReadyError, errors.ShuttingDownError, errors.OverloadedError)
_OF_ENGINE: tuple[Problem, ...] = (errors.ContextLengthError, errors.EngineDeadError, errors.DeadlineExceededError)
_STRING = {"type": "string"}
_HEADERS: dict[str, Json] = {
    "x-request-id": {"description": "The client's own, or a new one; the log has it too.", "schema": _STRING},
    "Server-Timing": {"description": "Milliseconds of queue, tokenize, engine, encode.", "schema": _STRING},
    "metadata": {"description": "With `bytes`: where each vector lies, as JSON.", "schema": _STRING},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": {"description": "How to send a key.", "schema": _STRING},
    "Allow": {"description": "The methods of this path.", "schema": _STRING},
}


def describe(rules: Rules, *, needs_key: bool, pages_need_key: bool = False) -> Json:
    """Describe a server that serves by *rules*.

    *needs_key*: a key is asked for at all; *pages_need_key*: metrics and documentation are behind it too.
    """
    return _Description(rules, operations(pages_guarded=pages_need_key), needs_key=needs_key).document()


class _Titleless(GenerateJsonSchema):
    """The title of a field would only say its name again."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


class _Description:
    """One document while it is put together."""

    def __init__(self, rules: Rules, listed: list[Operation], *, needs_key: bool) -> None:
        self._rules = rules
        self._operations = listed
        self._needs_key = needs_key
        self._shared: dict[str, Json] = {}  # responses that several operations give
        types = [kind for operation in listed for kind in _types(operation)]
        found, content = TypeAdapter.json_schemas(
            [(kind, "validation", TypeAdapter(kind)) for kind in (*types, answers.Error, answers.PhariaError)],
            ref_template="#/components/schemas/{model}",
            schema_generator=_Titleless,
        )
        self._schema_of = {kind: schema for (kind, _), schema in found.items()}
        self._schemas: dict[str, Json] = content["$defs"]
        self._limit()

    def document(self) -> Json:
        """Put the whole together."""
        paths: Json = {}
        for operation in self._operations:
            for path in operation.paths:
                paths[path] = {operation.method: self._operation(operation, path)}
        security = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if self._needs_key else {}
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "serverless-embeddings",
                "version": __version__,
                "description": "One vLLM engine behind OpenAI's embeddings API and PhariaInference's.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": name} for name in dict.fromkeys(operation.tag for operation in self._operations)],
            "paths": paths,
            "components": {"schemas": self._schemas, "responses": self._shared, **security},
        }

    def _operation(self, operation: Operation, path: str) -> Json:
        name = re.sub(r"\W+", "_", path).strip("_")
        told: Json = {
            "operationId": f"{operation.method}_{name}",
            "tags": [operation.tag],
            "summary": operation.summary,
        }
        if "{name}" in path:
            told["parameters"] = [self._name_parameter(operation)]
        if operation.takes:
            told["requestBody"] = {"required": True, "content": {JSON: {"schema": self._schema_of[operation.takes]}}}
        if operation.guarded and self._needs_key:
            told["security"] = [{"key": []}]
        told["responses"] = dict(sorted({**self._errors(operation), **self._answers(operation)}.items()))
        return told

    def _name_parameter(self, operation: Operation) -> Json:
        checked = self._rules.check_model_name or not operation.guarded
        values = {"enum": list(self._rules.names)} if checked else {}
        schema = {"type": "string", "minLength": 1, **values}
        return {"name": "name", "in": "path", "required": True, "schema": schema, "description": "may hold slashes"}

    def _problems(self, operation: Operation) -> Iterator[Problem]:
        """Name every error of the application on *operation*."""
        yield from _OF_VIEWS
        if operation.guarded and self._needs_key:
            yield errors.AuthenticationError
            yield errors.NotReadyError
        if "{name}" in operation.paths[0] or (operation.works and self._rules.check_model_name):
            yield errors.ModelNotFoundError
        yield from (_OF_BODIES if operation.takes else ())
        yield from (_OF_WORK if operation.works else ())
        yield from (_OF_ENGINE if operation.embeds else ())

    def _errors(self, operation: Operation) -> Json:
        theirs = operation.tag == "PhariaInference"
        found: dict[int, dict[type[BaseModel], list[Problem]]] = {}
        own = answers.PhariaError if theirs else answers.Error
        for envelope, problems in (
            (own, [*self._problems(operation), *_OF_CONNECTIONS]),
            (answers.Error, _OF_CONNECTIONS),
        ):
            for problem in dict.fromkeys(problems):
                status = problem.status_for(pharia=envelope is answers.PhariaError)
                kept = found.setdefault(status, {}).setdefault(envelope, [])
                kept += [] if problem in kept else [problem]
        return {str(status): self._share(status, self._error(envelopes)) for status, envelopes in found.items()}

    def _share(self, status: int, response: Json) -> Json:
        """Keep *response* once, however many operations give it."""
        alike = [name for name in self._shared if name.startswith(f"{status}.")]
        name = next((name for name in alike if self._shared[name] == response), f"{status}.{len(alike) + 1}")
        self._shared[name] = response
        return {"$ref": f"#/components/responses/{name}"}

    def _error(self, envelopes: dict[type[BaseModel], list[Problem]]) -> Json:
        """Describe one status; its body may be in either of two envelopes."""
        problems = [problem for found in envelopes.values() for problem in found]
        names = ["x-request-id"]
        if any(problem.retry_after is not None for problem in problems):
            names.append("Retry-After")
        if errors.AuthenticationError in problems:
            names.append("WWW-Authenticate")
        if errors.MethodNotAllowedError in problems:
            names.append("Allow")
        schemas = [self._schema_of[envelope] for envelope in envelopes]
        return {
            "description": " ".join(dict.fromkeys(_told(problem) for problem in problems)),
            "headers": _headers(*names),
            "content": {JSON: {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}},
        }

    def _answers(self, operation: Operation) -> Json:
        told = ["x-request-id", *(["Server-Timing"] if operation.embeds else [])]
        found = {}
        for gives in operation.gives:
            response: Json = {"description": gives.text, "headers": _headers(*told)}
            if gives.content:
                response["content"] = {
                    media: {"schema": self._schema_of[kind]} if kind else {} for media, kind in gives.content.items()
                }
            if OCTETS in gives.content:
                response["headers"] |= _headers("metadata", required=False)
            found[str(gives.status)] = response
        return found

    def _limit(self) -> None:
        """Say what this server's operator allows."""
        schemas = self._schemas
        fields = schemas["EmbeddingRequest"]["properties"]
        forms = fields["input"]["anyOf"][0]["oneOf"]  # one text, texts, token ids, lists of them
        forms[1]["maxItems"] = forms[3]["maxItems"] = self._rules.max_inputs
        batch = schemas["BatchSemanticRequest"]["properties"]["prompts"]
        batch["maxItems"] = min(batch["maxItems"], self._rules.max_inputs)
        if not self._rules.allow_token_ids:
            del forms[2:]
            single = schemas["SemanticRequest"]["properties"]["prompt"]
            instructed = schemas["InstructableRequest"]["properties"]["input"]
            for prompt in (batch["items"], single, instructed):
                del prompt["oneOf"][1]["items"]["oneOf"][1:]  # of a list's items those that are texts
        if self._rules.check_model_name:
            for schema in schemas.values():
                if "model" in (request := schema.get("properties", {})) and "anyOf" in request["model"]:
                    request["model"]["anyOf"][0]["enum"] = [*self._rules.names, ""]


def _types(operation: Operation) -> Iterator[Any]:
    """Name every type that *operation* takes or gives."""
    if operation.takes:
        yield operation.takes
    for gives in operation.gives:
        yield from filter(None, gives.content.values())


def _told(problem: Problem) -> str:
    text = (problem.__doc__ or "").split("\n", 1)[0]
    return f"`{problem.code}`: {text}" if problem.code else text


def _headers(*names: str, required: bool = True) -> Json:
    return {name: {"required": required, **_HEADERS[name]} for name in names}
