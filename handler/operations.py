"""Every operation of this server and what it takes and gives, for the description of the API.

The routes themselves are in `app`, `pharia_routes` and `pages`; a test compares paths and methods with theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, WithJsonSchema

from handler import answers, pharia
from handler.protocol import EmbeddingRequest

JSON = "application/json"
OCTETS = "application/octet-stream"
_Object = Annotated[Any, WithJsonSchema({"type": "object"})]


@dataclass(frozen=True, slots=True)
class Gives:
    """One answer that is no error."""

    text: str
    content: dict[str, Any] = field(default_factory=dict)  # media type -> type, None for a body of any kind
    status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation, at all of its paths."""

    paths: tuple[str, ...]
    tag: str
    summary: str
    gives: tuple[Gives, ...]
    takes: type[BaseModel] | None = None
    guarded: bool = False
    works: bool = False  # needs the loaded model
    embeds: bool = False

    @property
    def method(self) -> str:
        """The one that is not automatic."""
        return "post" if self.takes else "get"


def _both(path: str) -> tuple[str, str]:
    return "/v1" + path, path


def _openai() -> Iterator[Operation]:
    tag = "OpenAI"
    octets = "The vectors; with `bytes` and `bytes_only` the bare bytes of all of them."
    yield Operation(
        paths=(*_both("/embeddings"), "/invocations"),
        tag=tag,
        summary="Embed texts, token ids or chat messages",
        takes=EmbeddingRequest,
        guarded=True,
        works=True,
        embeds=True,
        gives=(Gives(octets, {JSON: answers.EmbeddingResponse, OCTETS: None}),),
    )
    listing = Gives("Every name of the model.", {JSON: answers.Models})
    yield Operation(paths=_both("/models"), tag=tag, summary="List what is served", gives=(listing,))
    one = Gives("The model.", {JSON: answers.Model})
    yield Operation(paths=_both("/models/{name}"), tag=tag, summary="Describe one name of the model", gives=(one,))


def _pharia() -> Iterator[Operation]:
    one, many = Gives("The vector.", {JSON: answers.Vector}), Gives("The vectors.", {JSON: answers.Vectors})
    tokens, text = Gives("The tokens.", {JSON: answers.Tokens}), Gives("The text.", {JSON: answers.Detokenized})
    for path, wire, gives, embeds, summary in (
        ("/semantic_embed", pharia.SemanticRequest, one, True, "Embed one prompt"),
        ("/batch_semantic_embed", pharia.BatchSemanticRequest, many, True, "Embed up to 100 prompts"),
        ("/instructable_embed", pharia.InstructableRequest, one, True, "Embed one prompt under an instruction"),
        ("/tokenize", pharia.TokenizeRequest, tokens, False, "Tokenize a prompt, without special tokens"),
        ("/detokenize", pharia.DetokenizeRequest, text, False, "Turn token ids into their text"),
    ):
        rest: dict[str, Any] = {"tag": "PhariaInference", "guarded": True, "works": True, "embeds": embeds}
        yield Operation(paths=_both(path), summary=summary, takes=wire, gives=(gives,), **rest)
    for path, summary, told, content, guarded in (
        ("/models/{name}/tokenizer", "The model's tokenizer.json", "The file.", {JSON: None}, True),
        ("/models_available", "List what is served", "Every name.", {JSON: list[answers.AvailableModel]}, False),
        ("/model-settings", "Tell what the model can do", "Every name.", {JSON: list[answers.ModelSettings]}, False),
        ("/version", "Version of the API that clients accept", "The version.", {"text/plain": str}, False),
    ):
        rest = {"tag": "PhariaInference", "guarded": guarded, "works": guarded}
        yield Operation(paths=_both(path), summary=summary, gives=(Gives(told, content),), **rest)


def _pages(*, guarded: bool) -> Iterator[Operation]:
    tag = "Operations"
    health = {JSON: answers.Health}
    alive = Gives("Alive.", health), Gives("Failed; the process ends.", health, 503)
    yield Operation(paths=("/health",), tag=tag, summary="State, seconds of the start, model", gives=alive)
    readiness = {JSON: answers.Readiness}
    ready = Gives("Yes.", readiness), Gives("Not now.", readiness, 503)
    yield Operation(paths=("/ready",), tag=tag, summary="Whether embeddings would succeed", gives=ready)
    ping = Gives("Ready."), Gives("Loading.", status=204), Gives("Failed or draining.", status=503)
    yield Operation(paths=("/ping",), tag=tag, summary="The state as a bare status", gives=ping)
    for path, summary, content in (
        ("/metrics", "Prometheus metrics", {"text/plain": str}),
        ("/openapi.json", "This description", {JSON: _Object}),
        ("/docs", "A page to read it and to try it", {"text/html": str}),
    ):
        gives = (Gives("The page.", content),)
        yield Operation(paths=(path,), tag=tag, summary=summary, gives=gives, guarded=guarded)


def operations(*, pages_guarded: bool) -> list[Operation]:
    """List all of them; *pages_guarded*: metrics and documentation need a key too."""
    return [*_openai(), *_pharia(), *_pages(guarded=pages_guarded)]
