"""The only reader (and writer) of the environment: one frozen `Settings`.

A bad value stops the start with one line per problem. An `EMBED_` variable that does not exist stops it too: a typo
must never mean the default.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasGenerator, Field, TypeAdapter, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from handler.caches import usable_cache, write_problem
from handler.errors import StartError
from handler.setting_checks import (
    URL,
    CommaList,
    Count,
    JsonList,
    JsonObject,
    Keys,
    LogLevel,
    Matryoshka,
    MetricsPort,
    Origins,
    Port,
    PortList,
    clipped,
    encodable,
    port_problems,
)

PREFIX = "EMBED_"
# What Kubernetes injects into every pod for a Service that is named "embed" or "embed-something", as `NAME=value`.
_SERVICE_LINK = re.compile(
    r"EMBED_(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=|PORT=(tcp|udp|sctp)://)"
)

# Values that may be secrets, or hold some.
_UNSHOWN = re.compile("EMBED_(API_KEYS|ENGINE_ARGS)|OTEL_EXPORTER_OTLP_.*")
_LONGEST_S = 1_000_000  # more than timers of the standard library could not wait for ever


class Settings(BaseSettings):
    """What an operator may choose; each field is the variable `EMBED_` + its name in capitals."""

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda field: PREFIX + field.upper()),
        case_sensitive=True,  # port is another variable than PORT
        enable_decoding=False,  # lists and objects have checks of their own, which read commas or JSON
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
    )

    # The model
    model_path: str | None = None
    model_name: str | None = None
    model_aliases: CommaList = ()
    model_version: str = "1"
    model_description: str = ""
    tags: JsonList = ()
    task: Literal["embed"] = "embed"
    embedding_task_supported: bool = True
    maximum_completion_tokens: int | None = Field(default=None, ge=0, le=2**31 - 1)

    # The engine
    max_model_len: Count | None = None
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    tensor_parallel_size: Count = 1
    pipeline_parallel_size: Count = 1
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    enforce_eager: bool | None = None
    load_format: str = "auto"
    allow_pickled_weights: bool = False
    engine_args: JsonObject = Field(default_factory=dict)
    cache_dir: Path | None = None
    baked_cache_dir: Path | None = None

    # Requests
    max_inputs: Count = 2048
    max_body_bytes: int = Field(default=32 * 2**20, ge=1024, le=2**31 - 1)
    long_input: Literal["error", "truncate", "chunk"] = "error"
    token_id_input: Literal["allow", "reject"] = "allow"  # noqa: S105 - no password
    matryoshka_dimensions: Matryoshka = None
    default_prompt_name: str | None = None
    representation_query: str | None = None
    representation_document: str | None = None
    representation_symmetric: str | None = None
    instruction_template: str = "Instruct: {instruction}\nQuery:{text}"
    check_model_name: bool = True
    request_timeout_s: float = Field(default=120, gt=0, le=_LONGEST_S)
    max_concurrent_requests: int = Field(default=64, ge=1, le=1024)

    # Access
    api_keys: Keys = ()
    api_keys_secret_id: str | None = None
    api_keys_refresh_s: float = Field(default=300, ge=0, le=_LONGEST_S)
    trust_platform_auth: bool = False
    cors_allow_origins: Origins = ()
    pages_need_key: bool = False
    http_request_retries: Count = 7

    # Life
    port: Port = Field(default=8080, validation_alias="PORT")
    log_level: LogLevel = Field(default="INFO", validation_alias="LOG_LEVEL")
    log_format: Literal["json", "text"] = "json"
    metrics_port: MetricsPort = None
    tcp_probes: PortList = ()
    emf_namespace: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._#:/-]{1,255}$")
    otlp_endpoint: str | None = Field(default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT", pattern=URL)
    otlp_traces_endpoint: str | None = Field(
        default=None, validation_alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", pattern=URL
    )
    otel_service_name: str | None = Field(default=None, validation_alias="OTEL_SERVICE_NAME")
    service_name: str = "serverless-embeddings"
    service_role: str = "worker"
    start_timeout_s: float = Field(default=900, gt=0, le=_LONGEST_S)
    drain_timeout_s: float = Field(default=8, ge=0, le=_LONGEST_S)
    cold_start_wait_s: float = Field(default=0, ge=0, le=_LONGEST_S)

    _is_encodable = field_validator("*", mode="before")(encodable)

    @property
    def traces_endpoint(self) -> str | None:
        """The URL that traces go to by OpenTelemetry's rules, None for no traces."""
        base = self.otlp_endpoint
        return self.otlp_traces_endpoint or (f"{base.rstrip('/')}/v1/traces" if base else None)

    @property
    def trust_remote_code(self) -> bool:
        """Whether Python code in the model's folder may run: only by a JSON true, the text "false" is no yes."""
        return self.engine_args.get("trust_remote_code") is True

    @classmethod
    def variable(cls, field: str) -> str:
        """Name the environment variable that sets *field*."""
        return str(cls.model_fields[field].validation_alias)

    @classmethod
    def problem(cls, field: str, value: object, *, strict: bool = False) -> str | None:
        """Say what is wrong with *value* for *field*, None if nothing; the environment is not read.

        Of a *strict* value the type counts too, where text from the environment is read as what it looks like.
        """
        annotated: Any = Annotated  # its items are not known before, and one of them may be anything
        info = cls.model_fields[field]
        try:
            TypeAdapter(annotated[(info.annotation, field, *info.metadata)]).validate_python(value, strict=strict)
        except ValidationError as exc:
            errors = exc.errors(include_url=False, include_context=False, include_input=False)
            return " or ".join(error["msg"] for error in errors)
        return None

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the environment once.

        Raises:
            StartError: one line per problem; values of secrets are not shown.
        """
        problems = _unknown_variables()
        try:
            settings = cls()
        except ValidationError as exc:
            problems += _problems(exc)
        else:
            ports = ("port", "metrics_port", "tcp_probes")
            problems += port_problems({cls.variable(field): getattr(settings, field) for field in ports})
            if not problems:
                return settings
        raise StartError("\n".join(problems))


def wanted_log_format() -> Literal["json", "text"]:
    """Return the format of the lines that say why there are no settings to ask for it."""
    return "text" if os.environ.get(Settings.variable("log_format")) == "text" else "json"


def _unknown_variables() -> list[str]:
    known = {Settings.variable(field) for field in Settings.model_fields}
    problems = []
    for name, value in sorted(os.environ.items()):
        capitals = name.upper()
        if capitals.startswith(PREFIX) and name not in known and not _SERVICE_LINK.match(f"{name}={value}"):
            bare = capitals.removeprefix(PREFIX)  # PORT has no prefix
            nearest = bare if bare in known else difflib.get_close_matches(capitals, known, n=1, cutoff=0)[0]
            shown = name.encode("utf-8", "backslashreplace").decode()
            problems.append(f"{shown}: no such setting; the nearest is {nearest}")
    return problems


def _problems(exc: ValidationError) -> list[str]:
    """Return one line per variable; a field of several allowed types has one error for each of them."""
    errors: dict[str, list[Any]] = {}
    for error in exc.errors(include_url=False, include_context=False):
        errors.setdefault(str(error["loc"][0]), []).append(error)
    return [_problem(variable, found) for variable, found in errors.items()]


def _problem(variable: str, errors: list[Any]) -> str:
    said = " or ".join(error["msg"] for error in errors)
    shown = "" if _UNSHOWN.fullmatch(variable) else f" (got {clipped(errors[-1]['input'])})"
    return f"{variable}: {said}{shown}"


def prepare_process(settings: Settings) -> str | None:
    """Set what third parties read from the environment, before any of them is imported.

    What an operator has set himself stays. Only folders that can be written are named, so that a container with a
    read-only disk and no HOME starts.

    Returns:
        Why the cache folder is not the one that was chosen, for the log; None where it is.
    """
    _choose_temp()
    cache, problem = usable_cache(cache_dir(settings))
    if problem is not None:
        os.environ[Settings.variable("cache_dir")] = str(cache)
    defaults = {
        Settings.variable("cache_dir"): str(cache),  # HOME may change below, and with it the default
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: three imports of vLLM would treble the cold start
        "VLLM_CONFIGURE_LOGGING": "0",  # its loggers go through ours, one format for every line
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "FLASHINFER_WORKSPACE_BASE": str(cache / "flashinfer"),
        # On GPUs vLLM prepares to draw tokens, also of embedding models, and imports flashinfer for it, which the image
        # has not.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        # Else it thaws what we froze after it has captured CUDA graphs, and looks through a million objects several
        # times. What it fears, a collection in between, cannot come: while a model loads, there is none.
        "VLLM_ENABLE_CUDAGRAPH_GC": "1",
        "HF_HOME": str(cache / "huggingface"),
        "XDG_CACHE_HOME": str(cache),
        "XDG_CONFIG_HOME": str(cache / "config"),
        "HF_HUB_OFFLINE": "1",  # weights are on mounted storage; a hub look-up only delays the start
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
        # OpenMP threads spin for most of a millisecond between two layers, then sleep. With OMP_WAIT_POLICY=PASSIVE one
        # text took 12 ms instead of 7; ACTIVE is no faster and spins for minutes.
        "GOMP_SPINCOUNT": "200000",
        # On CPUs oneDNN keeps what it has compiled for each shape of a batch; by itself it keeps 1024, which held some
        # 100 MB more and made nothing faster.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # its warnings are not log lines of ours
        "USER": "embed",  # torch asks for a user name, which an arbitrary uid has not
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if not os.access(os.environ.get("HOME", ""), os.W_OK):
        os.environ["HOME"] = str(cache)
    return problem


def _choose_temp() -> None:
    """Name a folder for temporary files where Python finds none, as with a full /tmp: vLLM asks when it is imported.

    Most who ask never write; what does fails by itself then.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        memory = Path("/dev/shm")  # noqa: S108 - the other folder that containers can write
        usable = memory.is_dir() and write_problem(memory) is None
        tempfile.tempdir = os.environ["TMPDIR"] = str(memory) if usable else "/tmp"  # noqa: S108 - named, not used


def vllm_cache_root() -> Path:
    """Name the folder in which vLLM looks for its caches, once `prepare_process` has run."""
    return Path(os.environ["VLLM_CACHE_ROOT"])


def use_vllm_cache(root: Path) -> None:
    """Let vLLM look for its caches in *root* from now on; it must not have been imported yet."""
    os.environ["VLLM_CACHE_ROOT"] = str(root)


def stream_unsigned() -> None:
    """Let vLLM's streaming loader read buckets without credentials, for which it does not look by itself."""
    os.environ.setdefault("RUNAI_STREAMER_S3_UNSIGNED", "1")


def cache_dir(settings: Settings) -> Path:
    """Return the folder of everything that a later start can use again."""
    if settings.cache_dir is not None:
        return settings.cache_dir
    home = os.environ.get("HOME", "")
    base = Path(home, ".cache") if os.access(home, os.W_OK) else Path("/tmp")  # noqa: S108 - the one writable folder on serverless platforms
    return base / "serverless-embeddings"
