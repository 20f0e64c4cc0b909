"""How the text of a variable becomes a value, and what of it is refused; knows nothing of the environment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr

from handler.access import key_problem

URL = r"^https?://\S+$"
_ORIGIN = r"[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9._-]+(:[0-9]{1,5})?"
_CLIPPED_CHARS = 100


def _json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        content = json.loads(value)
        encodable(json.dumps(content, ensure_ascii=False))  # "\ud800" is JSON, and half a character
    except json.JSONDecodeError as exc:
        message = f"not valid JSON ({exc.msg} at character {exc.pos + 1})"
        raise ValueError(message) from exc
    except RecursionError as exc:
        message = "not valid JSON (nested too deeply)"
        raise ValueError(message) from exc
    return content


def encodable(value: object) -> object:
    """Refuse text that is not UTF-8, which Python reads as lone surrogates: no answer could be written with it."""
    try:
        str(value).encode()
    except UnicodeEncodeError as exc:
        message = "not valid UTF-8"
        raise ValueError(message) from exc
    return value


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


def _origins(value: object) -> object:
    """Take origins as browsers send them; flask_cors would search for anything else as a regular expression."""
    origins = _comma_list(value)
    for origin in origins if isinstance(origins, (list, tuple)) else ():
        if isinstance(origin, str) and origin != "*" and not re.fullmatch(_ORIGIN, origin):
            message = f"{clipped(origin)} is no origin; write * or scheme://host[:port], without a path or a pattern"
            raise ValueError(message)
    return origins


def _no_service_link(value: object) -> object:
    """Pass over what Kubernetes injects for a Service that is named "embed-metrics"."""
    return None if isinstance(value, str) and value.startswith(("tcp://", "udp://", "sctp://")) else value


def port_problems(named: Mapping[str, int | tuple[int, ...] | None]) -> list[str]:
    """Return one line per port that two of the *named* settings want, or one of them twice."""
    problems, owners = [], dict[int, str]()
    for name, value in named.items():
        for port in value if isinstance(value, tuple) else () if value is None else (value,):
            if port in owners:
                taken = "named twice" if owners[port] == name else f"that of {owners[port]} too"
                problems.append(f"{name}: port {port} is {taken}; each needs one of its own")
            owners.setdefault(port, name)
    return problems


def clipped(value: object) -> str:
    """Write *value* for a message, in about 100 characters."""
    text = repr(value)
    return text if len(text) <= _CLIPPED_CHARS else f"{text[:_CLIPPED_CHARS]}..."


def _matryoshka(value: object) -> object:
    return value if value == "any" else _comma_list(value)


Count = Annotated[int, Field(ge=1, le=2**31 - 1)]  # what vLLM, torch and the kernel count with
Port = Annotated[int, Field(ge=1, le=65535)]
CommaList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_origins)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)]
MetricsPort = Annotated[Port | None, BeforeValidator(_no_service_link)]
PortList = Annotated[tuple[Port, ...], BeforeValidator(_comma_list)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_json)]
JsonList = Annotated[tuple[str, ...], BeforeValidator(_json)]
Keys = Annotated[tuple[SecretStr, ...], BeforeValidator(_keys)]
Sizes = Annotated[tuple[Count, ...], Field(min_length=1)]
Matryoshka = Annotated[Literal["any"] | Sizes | None, BeforeValidator(_matryoshka)]
