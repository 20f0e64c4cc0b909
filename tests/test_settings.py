from __future__ import annotations

import os

import pytest

from handler.errors import StartError
from handler.settings import Settings, prepare_process


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EMBED_")]:
        monkeypatch.delenv(name)


def test_no_setting_at_all_is_fine() -> None:
    """Everything has a default."""
    assert Settings.from_environment().port == 8080


def test_lists_json_and_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of value is read as the table in the README says."""
    monkeypatch.setenv("EMBED_API_KEYS", "first-key, second-key,")
    monkeypatch.setenv("EMBED_MODEL_ALIASES", "a,b")
    monkeypatch.setenv("EMBED_ENGINE_ARGS", '{"block_size": 32}')
    monkeypatch.setenv("EMBED_TAGS", '["x"]')
    monkeypatch.setenv("EMBED_MATRYOSHKA_DIMENSIONS", "64,128")
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("LOG_LEVEL", "warning")
    settings = Settings.from_environment()
    assert [key.get_secret_value() for key in settings.api_keys] == ["first-key", "second-key"]
    assert settings.model_aliases == ("a", "b")
    assert settings.engine_args == {"block_size": 32}
    assert settings.tags == ("x",)
    assert settings.matryoshka_dimensions == (64, 128)
    assert settings.port == 9000
    assert settings.log_level == "WARNING"
    assert "first-key" not in repr(settings)


def test_an_empty_value_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and templates pass empty strings for what is not given."""
    monkeypatch.setenv("EMBED_MAX_MODEL_LEN", "")
    assert Settings.from_environment().max_model_len is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("EMBED_MAX_MODEL_LEN", "many", "EMBED_MAX_MODEL_LEN: Input should be a valid integer"),
        ("EMBED_MAX_MODEL_LEN", "many " * 1000, "EMBED_MAX_MODEL_LEN: Input should be a valid integer"),
        ("EMBED_MAX_NUM_BATCHED_TOKENS", "1" + "0" * 22, "EMBED_MAX_NUM_BATCHED_TOKENS: Input should be less than or"),
        ("EMBED_MAX_BODY_BYTES", "1000", "EMBED_MAX_BODY_BYTES: Input should be greater than or equal to 1024"),
        ("EMBED_MATRYOSHKA_DIMENSIONS", "1" + "0" * 22, "EMBED_MATRYOSHKA_DIMENSIONS: "),
        ("EMBED_LONG_INPUT", "cut", "EMBED_LONG_INPUT: Input should be 'error', 'truncate' or 'chunk'"),
        ("EMBED_TASK", "classify", "EMBED_TASK: Input should be 'embed'"),
        ("EMBED_ENGINE_ARGS", "{", "EMBED_ENGINE_ARGS: Value error, not valid JSON"),
        ("EMBED_MATRYOSHKA_DIMENSIONS", "all", "EMBED_MATRYOSHKA_DIMENSIONS: "),
        ("EMBED_MATRYOSHKA_DIMENSIONS", "0,-5", "EMBED_MATRYOSHKA_DIMENSIONS: "),
        ("EMBED_MATRYOSHKA_DIMENSIONS", ",", "EMBED_MATRYOSHKA_DIMENSIONS: "),
        ("EMBED_API_KEYS", " , ", "EMBED_API_KEYS: Value error, holds no key"),
        ("EMBED_API_KEYS", '["secret', "EMBED_API_KEYS: Value error, not valid JSON"),
        ("EMBED_API_KEYS", '["secret", ""]', "EMBED_API_KEYS: Value error, key 2 is empty"),
        ("EMBED_API_KEYS", '["secret", " "]', "EMBED_API_KEYS: Value error, key 2 is empty"),
        ("EMBED_API_KEYS", '"secret","b"', "EMBED_API_KEYS: Value error, key 1 has quotes around it"),
        ("EMBED_API_KEYS", "'secret'", "EMBED_API_KEYS: Value error, key 1 has quotes around it"),
        ("EMBED_API_KEYS", '{"a":"secret"}', "EMBED_API_KEYS: Value error, key 1 is a piece of JSON"),
        ("EMBED_API_KEYS", "null", "EMBED_API_KEYS: Value error, key 1 is a piece of JSON"),
        ("EMBED_API_KEYS", "a,the secret", "EMBED_API_KEYS: Value error, key 2 has white space"),
        ("EMBED_API_KEYS", '[{"a": "secret"}]', "EMBED_API_KEYS: Input should be a valid string"),
        *(
            ("EMBED_CORS_ALLOW_ORIGINS", f"https://a.example, {origin}", "EMBED_CORS_ALLOW_ORIGINS: Value error, '")
            for origin in ("https://*.example.com", "https://a.example/", "https://a.example/x", "a.example", "null")
        ),
        ("EMBED_CORS_ALLOW_ORIGINS", '["https://a.example$"]', "EMBED_CORS_ALLOW_ORIGINS: Value error, 'https://a.ex"),
        ("EMBED_CORS_ALLOW_ORIGINS", "https://[a-z]+.example", "EMBED_CORS_ALLOW_ORIGINS: Value error, 'https://[a-z"),
        ("EMBED_COLD_START_WAIT_S", "inf", "EMBED_COLD_START_WAIT_S: Input should be less than"),
        ("EMBED_START_TIMEOUT_S", "1e400", "EMBED_START_TIMEOUT_S: Input should be less than"),
        ("EMBED_DRAIN_TIMEOUT_S", "inf", "EMBED_DRAIN_TIMEOUT_S: Input should be less than"),
        ("EMBED_REQUEST_TIMEOUT_S", "nan", "EMBED_REQUEST_TIMEOUT_S: Input should be"),
        ("PORT", "0", "PORT: Input should be greater than or equal to 1"),
        ("EMBED_MODEL_NAME", "a\udcff", "EMBED_MODEL_NAME: Value error, not valid UTF-8 (got 'a\\udcff')"),
        ("EMBED_API_KEYS", "secret\udcff", "EMBED_API_KEYS: Value error, not valid UTF-8"),
        ("EMBED_CACHE_DIR", "/a\udcff", "EMBED_CACHE_DIR: Value error, not valid UTF-8"),
        ("EMBED_TAGS", r'["\ud800"]', "EMBED_TAGS: Value error, not valid UTF-8"),
        ("EMBED_ENGINE_ARGS", r'{"a": "\ud800"}', "EMBED_ENGINE_ARGS: Value error, not valid UTF-8"),
        ("EMBED_ENGINE_ARGS", "[" * 5000, "EMBED_ENGINE_ARGS: Value error, not valid JSON (nested too deeply)"),
        ("EMBED_TAGS", "[" * 5000, "EMBED_TAGS: Value error, not valid JSON (nested too deeply)"),
        ("EMBED_ENGINE_ARGS", '{"hf_token": "secret"', "EMBED_ENGINE_ARGS: Value error, not valid JSON"),
        ("EMBED_ENGINE_ARGS", '["secret"]', "EMBED_ENGINE_ARGS: Input should be a valid dictionary"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "user:secret@host", "OTEL_EXPORTER_OTLP_ENDPOINT: String should match pattern"),
        ("EMBED_PORT", "9000", "EMBED_PORT: no such setting; the nearest is PORT"),
        ("embed_model_path", "/x", "embed_model_path: no such setting; the nearest is EMBED_MODEL_PATH"),
        ("EMBED_LOG_LEVEL", "DEBUG", "EMBED_LOG_LEVEL: no such setting; the nearest is LOG_LEVEL"),
        ("EMBED_METRICS_PORT", "http://x", "EMBED_METRICS_PORT: Input should be a valid integer"),
        ("EMBED_TYP\udcff", "1", "EMBED_TYP\\udcff: no such setting"),
        ("EMBED_MAX_MODEL_LENGTH", "1", "EMBED_MAX_MODEL_LENGTH: no such setting; the nearest is EMBED_MAX_MODEL_LEN"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    """One line per problem: the variable, what is wrong, what is allowed."""
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError) as caught:
        Settings.from_environment()
    assert str(caught.value).startswith(said)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300
    assert "secret" not in str(caught.value)


def test_lists_by_commas_or_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deployment tools write either."""
    for ports, keys, sizes in (("8000, 8001", "a,b", "64,128"), ("[8000, 8001]", '["a", " b"]', "[64, 128]")):
        monkeypatch.setenv("EMBED_TCP_PROBES", ports)
        monkeypatch.setenv("EMBED_API_KEYS", keys)
        monkeypatch.setenv("EMBED_MATRYOSHKA_DIMENSIONS", sizes)
        settings = Settings.from_environment()
        assert settings.tcp_probes == (8000, 8001)
        assert [key.get_secret_value() for key in settings.api_keys] == ["a", "b"]
        assert settings.matryoshka_dimensions == (64, 128)


@pytest.mark.parametrize("origin", ["*", "https://a.example", "http://localhost:3000", "chrome-extension://abc"])
def test_an_origin_is_taken_as_browsers_send_it(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    """Alone or among others."""
    monkeypatch.setenv("EMBED_CORS_ALLOW_ORIGINS", f"{origin}, https://b.example")
    assert Settings.from_environment().cors_allow_origins == (origin, "https://b.example")


def test_names_are_told_apart_by_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program's `port` or `log_level` is not this server's."""
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("port", "1")
    monkeypatch.setenv("log_level", "garbage")
    settings = Settings.from_environment()
    assert (settings.port, settings.log_level) == (9000, "INFO")


@pytest.mark.parametrize(
    ("metrics", "probes", "said"),
    [
        ("8080", "", "EMBED_METRICS_PORT: port 8080 is that of PORT too; each needs one of its own"),
        ("4000", "4001,4000", "EMBED_TCP_PROBES: port 4000 is that of EMBED_METRICS_PORT too; each needs"),
        ("", "8080", "EMBED_TCP_PROBES: port 8080 is that of PORT too; each"),
        ("", "[4000, 4001, 4000]", "EMBED_TCP_PROBES: port 4000 is named twice; each"),
    ],
)
def test_each_port_is_named_once(monkeypatch: pytest.MonkeyPatch, metrics: str, probes: str, said: str) -> None:
    """A probe on the port of the metrics would say that a model which loads is ready."""
    monkeypatch.setenv("EMBED_METRICS_PORT", metrics)
    monkeypatch.setenv("EMBED_TCP_PROBES", probes)
    with pytest.raises(StartError) as caught:
        Settings.from_environment()
    assert str(caught.value).startswith(said)
    assert len(str(caught.value).splitlines()) == 1


def test_all_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody should have to deploy once per typo."""
    for name in ("EMBED_MAX_INPUTS", "EMBED_DTYPE", "EMBED_TYPO"):
        monkeypatch.setenv(name, "x")
    with pytest.raises(StartError) as caught:
        Settings.from_environment()
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("service", ["EMBED", "EMBED_API", "EMBED_METRICS"])
def test_what_kubernetes_injects_is_ignored(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """A Service named "embed", or "embed-something", must not stop the pods beside it."""
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_80_TCP", "PORT_80_TCP_ADDR", "PORT"):
        monkeypatch.setenv(f"{service}_{name}", "tcp://10.0.0.1:80")
    assert Settings.from_environment().metrics_port is None


def test_the_process_is_prepared_without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a read-only disk only /tmp is left; what the operator has set himself stays."""
    monkeypatch.setattr(os, "environ", {"VLLM_CACHE_ROOT": "/mnt/cache"})
    prepare_process(Settings())
    assert os.environ["VLLM_CACHE_ROOT"] == "/mnt/cache"
    assert (cache := os.environ["EMBED_CACHE_DIR"]).startswith("/tmp/")
    assert os.environ["HOME"] == os.environ["XDG_CACHE_HOME"] == cache
    assert {name for name, value in os.environ.items() if value.startswith(f"{cache}/")} == {
        *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE", "HF_HOME", "XDG_CONFIG_HOME"),
    }
    assert os.environ["USER"]


def test_third_parties_ask_and_tell_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes out that the operator has not named."""
    monkeypatch.setattr(os, "environ", {})
    prepare_process(Settings())
    assert {os.environ[name] for name in ("VLLM_NO_USAGE_STATS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")} == {"1"}


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("max_model_len", "512", None),
        ("max_model_len", "0", "Input should be greater than or equal to 1"),
        ("task", "classify", "Input should be 'embed'"),
        ("tags", '["x"]', None),
        ("tags", "[", "Value error, not valid JSON (Expecting value at character 2)"),
        ("engine_args", '{"block_size": 16}', None),
        ("metrics_port", "4000", None),
    ],
)
def test_one_value_can_be_checked_without_the_environment(field: str, text: str, said: str | None) -> None:
    """The converter asks before it prints, by the rules of the start itself."""
    assert Settings.problem(field, text) == said


@pytest.mark.parametrize(
    ("field", "taken", "refused"),
    [
        ("maximum_completion_tokens", "0 2147483647", "-1 2147483648"),
        ("max_inputs", "1 2147483647", "0 2147483648"),
        ("dtype", "auto float32 float16 bfloat16", "half"),
        ("gpu_memory_utilization", "0.01 1", "0 1.01"),
        ("max_body_bytes", "1024 2147483647", "1023 2147483648"),
        ("long_input", "error truncate chunk", "cut"),
        ("token_id_input", "allow reject", "deny"),
        ("matryoshka_dimensions", "64 64,128 [64] any", "0 64,0 [] all"),
        ("request_timeout_s", "0.1 1000000", "0 1000001"),
        ("max_concurrent_requests", "1 1024", "0 1025"),
        ("api_keys_refresh_s", "0 1000000", "-1 1000001"),
        ("start_timeout_s", "0.1 1000000", "0 1000001"),
        ("drain_timeout_s", "0 1000000", "-1 1000001"),
        ("cold_start_wait_s", "0 1000000", "-1 1000001"),
        ("port", "1 65535", "0 65536"),
        ("metrics_port", "1 65535", "0 65536"),
        ("tcp_probes", "1 65535", "0 65536"),
        ("log_level", "DEBUG info WARNING ERROR", "TRACE CRITICAL"),
        ("log_format", "json text", "xml"),
        ("emf_namespace", f"a {'x' * 255} A/b-1.c_d#e:f", f"{'x' * 256} a\\b"),
        ("otlp_endpoint", "http://c:4318 https://c", "c:4318 grpc://c http://"),
        ("otlp_traces_endpoint", "http://c:4318/v1/traces", "c"),
    ],
)
def test_what_a_setting_takes_ends_where_it_should(field: str, taken: str, refused: str) -> None:
    """The first and the last value, and what is beyond them."""
    assert [value for value in taken.split() if Settings.problem(field, value) is not None] == []
    assert [value for value in refused.split() if Settings.problem(field, value) is None] == []
