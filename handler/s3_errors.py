"""What failed reads from S3 mean: cause and remedy in one line, and which of them are worth another attempt."""

from __future__ import annotations

from typing import Any

from handler.aws import refusal, told
from handler.errors import StartError
from handler.s3 import S3Location

_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"}
_ELSEWHERE = {
    *("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
    *("301", "307"),
}
_BUSY = {
    *("SlowDown", "ServiceUnavailable", "InternalError", "Throttling", "ThrottlingException", "RequestLimitExceeded"),
    *("RequestTimeout", "TooManyRequestsException", "BandwidthLimitExceeded"),
    *("429", "500", "502", "503", "504"),
}
# Other codes of S3, or statuses of what answers in its place -> cause and remedy.
_CAUSES = {
    ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"): (
        "the AWS credentials have expired ({code}); renew them, or give the container a role"
    ),
    ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "UnrecognizedClientException"): (
        "the AWS credentials are refused ({code}); check AWS_ACCESS_KEY_ID and its secret, or use a role"
    ),
    ("PreconditionFailed", "412"): "it changed while it was read; start again when its upload has finished",
    ("NoSuchBucket",): "there is no such bucket; check EMBED_MODEL_PATH, and AWS_ENDPOINT_URL if it is set",
    ("NoSuchKey", "404"): "it was deleted while it was read; upload the model again",
    ("400",): (
        "S3 refused (400); the AWS credentials may have expired, the KMS key that encrypts the object may be disabled, "
        "or a caller's own key encrypts it"
    ),
    ("407",): "a proxy wants a name and password (407); check HTTP_PROXY and HTTPS_PROXY",
    ("InvalidObjectState",): "it is archived; restore it to a storage class that can be read at once",
    ("RequestTimeTooSkewed",): "this machine's clock is wrong; set it",
    ("InvalidBucketName",): "that is not a bucket's name; check EMBED_MODEL_PATH",
}
_SERVER_ERROR = 500


def is_passing(exc: Exception) -> bool:
    """Whether another attempt may go better: connections that break and servers that are busy."""
    from botocore import exceptions as boto  # noqa: PLC0415 - only users of S3 pay for it
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    code = refusal(exc)
    if code is not None:
        return code in _BUSY or _status(exc) >= _SERVER_ERROR
    if isinstance(exc, boto.SSLError):
        return False
    broken = (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, boto.ResponseStreamingError)
    return isinstance(exc, (*broken, HTTPError, OSError))


def explained(exc: Exception, location: S3Location, *, key: str | None, attempts: int, anonymous: bool) -> StartError:
    """Put cause and remedy in one line.

    Args:
        exc: what boto3 raised.
        location: of the model.
        key: of the object that was read; None: the listing.
        attempts: how many were made of what is worth more than one.
        anonymous: whether no credentials were found.
    """
    what = location.object_url(key) if key else location.url
    code = refusal(exc)
    cause = _not_reached(exc, attempts) if code is None else _refused(exc, code, location, attempts, anonymous)
    return StartError(f"{what} cannot be read: {cause}")


def _refused(exc: Any, code: str, location: S3Location, attempts: int, anonymous: bool) -> str:  # noqa: FBT001
    """Explain an answer of S3."""
    if code in _BUSY or _status(exc) >= _SERVER_ERROR:
        return f"S3 answered {code} to each of {attempts} attempts; start later, or raise EMBED_HTTP_REQUEST_RETRIES"
    if code in _DENIED:
        grant = f"s3:ListBucket on bucket {location.bucket} and s3:GetObject on {location.prefix}*"
        if anonymous:
            return f"access denied ({code}), and no AWS credentials were found; give the container a role with {grant}"
        return f"access denied ({code}); grant {grant} (and kms:Decrypt where a KMS key encrypts them)"
    if code in _ELSEWHERE:
        headers = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = exc.response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region") or "not told"
        return f"the bucket is in another region ({code}); set AWS_DEFAULT_REGION to the bucket's, which is {region}"
    if code.startswith("KMS."):
        return f"the KMS key that encrypts it cannot be used ({code}); enable that key, or upload it with another"
    known = (cause.format(code=code) for codes, cause in _CAUSES.items() if code in codes)
    return next(known, f"S3 refused with {code}")


def _status(exc: Any) -> int:
    status: int = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status


def _not_reached(exc: Exception, attempts: int) -> str:
    """Explain what never became an answer of S3."""
    from botocore import exceptions as boto  # noqa: PLC0415 - see above

    remedies: dict[tuple[type[Exception], ...], str] = {
        (boto.SSLError,): _without_tls(exc),
        (boto.NoCredentialsError, boto.PartialCredentialsError): "AWS credentials are missing or incomplete; give the "
        "container a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        (boto.CredentialRetrievalError, boto.MetadataRetrievalError, boto.UnauthorizedSSOTokenError): "AWS credentials "
        "cannot be fetched; check the container's role",
        (boto.ProfileNotFound, boto.ConfigNotFound, boto.ConfigParseError): f"AWS configuration: {told(exc)}",
        (boto.NoRegionError, boto.InvalidRegionError): f"{told(exc)}; set AWS_DEFAULT_REGION to the bucket's region",
        (ValueError,): f"{told(exc)}; check AWS_ENDPOINT_URL",  # botocore has no class of its own for it
        (boto.ParamValidationError,): "that is not a bucket's name; check EMBED_MODEL_PATH",
        (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError): f"no connection in "
        f"{attempts} attempts ({told(exc)}); the container needs a route to S3: check its network (a VPC needs an S3 "
        "endpoint or NAT), AWS_DEFAULT_REGION, and AWS_ENDPOINT_URL if it is set",
    }
    found = next((remedy for kinds, remedy in remedies.items() if isinstance(exc, kinds)), None)
    if found is not None:
        return found
    if is_passing(exc):
        broken = f"the connection broke in each of {attempts} attempts ({type(exc).__name__})"
        return f"{broken}; start again, or raise EMBED_HTTP_REQUEST_RETRIES"
    return f"{type(exc).__name__}: {told(exc)}"


def _without_tls(exc: Exception) -> str:
    if "WRONG_VERSION_NUMBER" in str(exc):
        return "what answers speaks no TLS; write http:// in AWS_ENDPOINT_URL if that is meant, or check proxies"
    return "the TLS certificate is not trusted; set AWS_CA_BUNDLE, or check AWS_ENDPOINT_URL"
