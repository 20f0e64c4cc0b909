"""How the text of a variable becomes a value, and what of it is refused; knows nothing of the environment."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from handler.access import key_problem

URL = r"^https?://\S+$"


def _json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as exc:
        message = f"not valid JSON ({exc.msg} at character {exc.pos + 1})"
        raise ValueError(message) from exc


def _comma_list(value: object) -> object:
    """Take a comma list, or a JSON list, which some deployment tools write."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return _json(value)
    return tuple(item.strip() for item in value.split(",") if item.strip())


def _keys(value: object) -> object:
    if not (keys := _comma_list(value)) and value:
        message = "holds no key; leave it unset where everybody may ask"
        raise ValueError(message)
    if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) for key in keys):
        return keys  # pydantic says what is wrong
    for number, key in enumerate(keys, 1):
        if problem := key_problem(key.strip()):
            message = f"key {number} {problem}"
            raise ValueError(message)
    return [key.strip() for key in keys]


def _matryoshka(value: object) -> object:
    return value if value == "any" else _comma_list(value)


Port = Annotated[int, Field(ge=1, le=65535)]
CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)]
PortList = Annotated[tuple[Port, ...], NoDecode, BeforeValidator(_comma_list)]
JsonObject = Annotated[dict[str, Any], NoDecode, BeforeValidator(_json)]
JsonList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_json)]
Keys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_keys)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
Matryoshka = Annotated[Literal["any"] | Sizes | None, NoDecode, BeforeValidator(_matryoshka)]
