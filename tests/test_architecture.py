from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

HANDLER = Path(__file__).parents[1] / "handler"

# module -> what it may import from `handler`; imports go one way
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "setting_checks": {"access"},
    "settings": {"caches", "errors", "setting_checks"},
    "logs": set(),
    "inquiry": set(),
    "protocol": {"errors", "inquiry"},
    "pharia": {"encoding", "inquiry", "protocol"},
    "prompts": {"errors", "inquiry"},
    "trust": {"errors"},
    "allocator": set(),
    "lengths": {"errors"},
    "chat": {"errors"},
    "tokenization": {"allocator", "chat", "errors", "inquiry", "lengths"},
    "tokenizer_files": {"chat", "errors", "tokenization", "trust"},
    "strands": set(),
    "feed": {"strands"},
    "engine": {"allocator", "errors", "feed", "strands"},
    "vllm_mends": set(),
    "biased_attention": set(),
    "mpnet": {"biased_attention"},
    "jina": {"biased_attention"},
    "albert": set(),
    "as_bert": {"albert", "mpnet"},
    "t5": {"biased_attention"},
    "nomic_moe": set(),
    "rotary": set(),
    "families": {"albert", "errors", "jina", "mpnet", "nomic_moe", "rotary", "t5"},
    "renaming": {"albert", "as_bert", "biased_attention", "jina", "mpnet", "nomic_moe", "t5"},
    "installation": {"errors"},
    "engine_args": {"errors"},
    "vllm_core": {"engine_args", "errors", "logs", "renaming", "trust", "vllm_mends"},
    "vllm_workers": {"vllm_core"},
    "encoding": {"errors", "strands"},
    "model_patches": {"albert", "as_bert", "errors", "families", "jina", "mpnet", "nomic_moe", "rotary", "t5"},
    "module_list": {"errors", "trust"},
    "model_folder": {"errors", "families", "jina", "model_patches", "module_list", "t5", "trust", "weights"},
    "weights": {"errors", "s3", "s3_model", "trust"},
    "aws": set(),
    "caches": set(),
    "s3": {"errors", "trust"},
    "s3_checks": set(),
    "s3_errors": {"aws", "errors", "s3"},
    "s3_folder": {"errors", "s3"},
    "s3_fetch": {"errors", "s3", "s3_checks", "s3_errors", "s3_folder"},
    "s3_model": {"aws", "errors", "module_list", "s3", "s3_errors", "s3_fetch", "s3_folder"},
    "access": {"errors"},
    "secret_keys": {"access", "aws", "errors", "logs"},
    "lifecycle": {"errors"},
    "metrics": {"engine", "errors", "installation"},
    "finished": set(),
    "emf": {"finished"},
    "traces": {"finished"},
    "telemetry": {"emf", "finished", "settings", "traces"},
    "ports": {"errors", "lifecycle"},
    "service": {
        *("encoding", "engine", "errors", "inquiry", "lengths", "lifecycle", "model_folder", "prompts", "strands"),
        "tokenization",
    },
    "request_log": {"finished", "logs", "metrics", "service"},
    "application": {"request_log", "service"},
    "listings": {"pharia", "service"},
    "pharia_routes": {"access", "application", "encoding", "inquiry", "listings", "pharia", "protocol", "service"},
    "answers": set(),
    "operations": {"answers", "pharia", "protocol"},
    "openapi": {"answers", "errors", "operations", "service"},
    "pages": {"access", "metrics", "openapi", "service", "strands"},
    "app": {
        *("access", "application", "encoding", "errors", "finished", "inquiry", "lifecycle"),
        *("listings", "logs", "metrics", "pages", "pharia_routes", "protocol", "request_log", "service"),
    },
    "cold_start": {
        *("caches", "encoding", "engine", "engine_args", "errors", "feed", "installation", "lengths", "lifecycle"),
        *("model_folder", "prompts", "s3_model", "service", "settings", "strands", "tokenization", "tokenizer_files"),
        *("trust", "vllm_core", "weights"),
    },
    "wsgi": {
        *("access", "allocator", "app", "cold_start", "errors", "lifecycle", "listings", "logs", "metrics", "ports"),
        *("secret_keys", "service", "settings", "strands", "telemetry", "weights"),
    },
    "framing": {"errors"},
    "connections": {"errors", "framing"},
    "incoming": {"connections", "errors"},
    "outgoing": {"connections", "incoming"},
    "refusals": {"errors", "logs"},
    "worker": {"connections", "errors", "incoming", "lifecycle", "logs", "outgoing", "refusals", "strands"},
    "gunicorn_conf": {"errors", "logs", "ports", "settings", "worker"},
    "env_formats": set(),
    "toml_converter": {"engine_args", "env_formats", "setting_checks", "settings"},
    "__main__": {"env_formats", "toml_converter"},
    "__init__": set(),
}
# third party -> the modules that may import it
OWNERS = {
    "vllm": {"vllm_core"},
    "flask": {"app", "application", "pages", "pharia_routes", "wsgi"},
    "flask_cors": {"app"},
    "werkzeug": {"app", "application"},
    "gunicorn": {"connections", "worker", "gunicorn_conf", "__main__"},
    "boto3": {"aws"},
    "botocore": {"aws", "s3_errors", "secret_keys"},
    "urllib3": {"s3_errors"},
    "awscrt": {"s3_checks"},
    "greenlet": {"strands"},
    "transformers": {"tokenizer_files"},
    "pydantic_settings": {"settings"},
    "prometheus_client": {"metrics", "ports"},
    "opentelemetry": {"traces"},
    "aws_lambda_powertools": {"emf"},
    "torch": {"albert", "biased_attention", "jina", "nomic_moe", "t5", "vllm_core", "vllm_mends"},
}


def imports(module: str) -> set[str]:
    """Every module that *module* imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((HANDLER / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_is_in_the_table() -> None:
    """A new module gets a place before it gets code."""
    assert {path.stem for path in HANDLER.glob("*.py")} == set(ALLOWED)


@pytest.mark.parametrize("module", ALLOWED)
def test_imports_go_one_way(module: str) -> None:
    """No module reaches around the table."""
    ours = {name.split(".")[1] for name in imports(module) if name.startswith("handler.")} - {"__version__"}
    assert ours <= ALLOWED[module]


@pytest.mark.parametrize("module", ALLOWED)
def test_third_parties_have_one_owner(module: str) -> None:
    """vLLM in one file, the web framework in one, the cloud in one."""
    theirs = {name.split(".")[0] for name in imports(module)} - {"handler"} - set(sys.stdlib_module_names)
    assert [name for name in theirs if module not in OWNERS.get(name, {module})] == []


def test_the_environment_is_touched_in_one_file() -> None:
    """Everything else gets a `Settings`."""
    assert [path.stem for path in HANDLER.glob("*.py") if "os.environ" in path.read_text()] == ["settings"]


def test_error_statuses_live_in_one_file() -> None:
    """The class is the policy."""
    naming = [path.stem for path in HANDLER.glob("*.py") if re.search(r"\bHTTPStatus\b", path.read_text())]
    assert naming == ["errors"]


@pytest.mark.parametrize("path", sorted(HANDLER.glob("*.py")), ids=lambda path: path.stem)
def test_files_can_be_read_in_one_go(path: Path) -> None:
    """None of ours need pass 300 lines."""
    assert len(path.read_text().splitlines()) <= 300
