"""Every failure a client can see, in OpenAI's form and in PhariaInference's, and the one failure an operator can see.

The class is the policy (status, type, code, seconds to wait; for PhariaInference's routes its own code, and its own
status where that differs), the instance carries the message and the parameter.
This is the only file that names HTTP statuses of errors. Messages never quote a client's text.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, ClassVar

# First step of a path that PhariaInference's clients ask for, also of services that are not here.
_PHARIA_PATHS = {
    *("semantic_embed", "batch_semantic_embed", "instructable_embed", "tokenize", "detokenize"),
    *("models_available", "model-settings", "version"),
    *("embed", "complete", "evaluate", "explain"),
}


def speaks_pharia(path: str) -> bool:
    """Whether clients of *path* expect PhariaInference's errors."""
    steps = path.strip("/").removeprefix("v1/").split("/")
    return steps[0] in _PHARIA_PATHS or (steps[0] == "models" and steps[2:] != [] and steps[-1] == "tokenizer")


class StartError(Exception):
    """The container cannot start; the message names cause and remedy in one line."""

    exit_code: ClassVar[int] = 3  # gunicorn's own code for "do not start another worker"


class ServiceError(Exception):
    """A request that is answered with an error."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retry_after: ClassVar[int | None] = None  # seconds
    pharia_code: ClassVar[str] = "INTERNAL_ERROR"
    pharia_status: ClassVar[HTTPStatus | None] = None  # None: the same status

    def __init__(self, message: str, *, param: str | None = None) -> None:
        """Keep *message* for the client and *param*, the request field it is about."""
        super().__init__(message)
        self.message = message
        self.param = param

    @classmethod
    def status_for(cls, *, pharia: bool) -> int:
        """Return the status of the answer."""
        return int((pharia and cls.pharia_status) or cls.status)

    def envelope(self, *, pharia: bool) -> dict[str, Any]:
        """Return the content of the answer."""
        if pharia:
            return {"error": self.message, "code": self.pharia_code}
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InternalError(ServiceError):
    """Something of ours broke; the client learns nothing of its insides."""


class InvalidRequestError(ServiceError):
    """The request cannot be understood or is out of range."""

    status = HTTPStatus.BAD_REQUEST
    type = "invalid_request_error"
    pharia_code = "PAYLOAD_ERROR"


class MissingCapabilityError(InvalidRequestError):
    """What is asked for is clear, but the served model cannot do it."""

    pharia_code = "MISSING_CAPABILITY"


class ContextLengthError(InvalidRequestError):
    """An input has more tokens than the model takes."""

    code = "context_length_exceeded"


class AuthenticationError(InvalidRequestError):
    """No key, or a key that is not ours."""

    status = HTTPStatus.UNAUTHORIZED
    code = "invalid_api_key"
    pharia_code = "UNAUTHORIZED"
    challenges: ClassVar[tuple[str, ...]] = ("Bearer",)  # WWW-Authenticate headers; RFC 9110 section 11.6.1 wants one


class PageAuthenticationError(AuthenticationError):
    """No key, or a key that is not ours, for what a browser opens: it asks its user."""

    # Chromium wants a line each.
    challenges = ('Basic realm="any name, a key as the password", charset="UTF-8"', "Bearer")


class ModelNotFoundError(InvalidRequestError):
    """The named model is not the one served here."""

    status = HTTPStatus.NOT_FOUND
    code = "model_not_found"
    pharia_code = "UNKNOWN_MODEL"


class RouteNotFoundError(InvalidRequestError):
    """No such path."""

    status = HTTPStatus.NOT_FOUND
    pharia_code = "NOT_FOUND"


class MethodNotAllowedError(InvalidRequestError):
    """The path exists, but not for this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    pharia_code = "METHOD_NOT_ALLOWED"


class RequestTooLargeError(InvalidRequestError):
    """The body is larger than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "request_too_large"
    pharia_code = "PAYLOAD_TOO_LARGE"


class HeadTooLargeError(InvalidRequestError):
    """The request line or a header is longer than gunicorn takes, or there are too many of them."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    code = "request_too_large"
    pharia_code = "PAYLOAD_TOO_LARGE"


class SlowRequestError(InvalidRequestError):
    """The request did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "timeout"
    pharia_code = "TIMEOUT"


class OverloadedError(ServiceError):
    """All slots are taken."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "rate_limit_error"
    code = "overloaded"
    retry_after = 1
    pharia_code = "QUEUE_FULL"
    pharia_status = HTTPStatus.SERVICE_UNAVAILABLE  # their client says "busy" at 503 only


class UnavailableError(ServiceError):
    """This container cannot answer, another one or a later try can."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after = 1
    pharia_code = "UNAVAILABLE"


class NotReadyError(UnavailableError):
    """The model is still loading."""

    code = "not_ready"
    retry_after = 5


class ShuttingDownError(UnavailableError):
    """The container has been told to stop."""

    code = "shutting_down"


class EngineDeadError(UnavailableError):
    """The engine thread has died; the platform replaces the container."""

    code = "engine_dead"
    retry_after = 5


class DeadlineExceededError(ServiceError):
    """The request took longer than it may."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    code = "timeout"
    pharia_code = "TIMEOUT"
