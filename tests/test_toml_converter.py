from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from handler.env_formats import FORMATS, Comment, ConversionError, Variable, write_environment
from handler.settings import Settings
from handler.toml_converter import convert, convert_file, engine_arguments

EXAMPLE = Path(__file__).parent / "config.toml"  # the document's own
EXPECTED = {
    "EMBED_MODEL_PATH": "/path/to/weights/Qwen/Qwen3-Embedding-8B",
    "EMBED_MAX_MODEL_LEN": "2048",
    "EMBED_MAX_NUM_SEQS": "16",
    "EMBED_PIPELINE_PARALLEL_SIZE": "1",
    "EMBED_TENSOR_PARALLEL_SIZE": "1",
    "EMBED_TASK": "embed",
    "EMBED_MODEL_NAME": "qwen3-embedding-8b",
    "EMBED_MODEL_VERSION": "1",
    "EMBED_TAGS": "[]",
    "EMBED_HTTP_REQUEST_RETRIES": "7",
    "EMBED_SERVICE_NAME": "worker",
    "EMBED_SERVICE_ROLE": "Worker",
    "EMBED_MAXIMUM_COMPLETION_TOKENS": "2048",
    "EMBED_MODEL_DESCRIPTION": "Description of the embedding model",
    "EMBED_EMBEDDING_TASK_SUPPORTED": "true",
    "EMBED_METRICS_PORT": "4000",
}
ARGUMENTS = frozenset({"tokenizer", "block_size", "kv_cache_dtype", "hf_overrides"})
HEAD = 'edition = 1\n[generator]\ntype = "vllm"\nmodel_path = "/models/m"\n'


def variables(text: str, *, arguments: frozenset[str] | None = ARGUMENTS) -> dict[str, str]:
    """Convert *text* and return its variables."""
    entries = convert(text, engine_arguments=arguments)
    return {entry.name: entry.value for entry in entries if isinstance(entry, Variable)}


def comments(text: str, *, arguments: frozenset[str] | None = ARGUMENTS) -> list[str]:
    """Convert *text* and return its comments."""
    return [entry.text for entry in convert(text, engine_arguments=arguments) if isinstance(entry, Comment)]


def problems(text: str) -> list[str]:
    """Convert *text* in vain and return what is said."""
    with pytest.raises(ConversionError) as caught:
        convert(text, engine_arguments=ARGUMENTS)
    return str(caught.value).splitlines()


def test_the_documents_example() -> None:
    """Every key of it is a variable or a comment."""
    text = EXAMPLE.read_text()
    assert variables(text) == EXPECTED
    assert [line.partition(":")[0] for line in comments(text)] == [
        "edition",
        "generator.type",
        "queue.url",
        "queue.token",
        "monitoring.tcp_probes is empty",
    ]


def test_settings_take_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, types and ranges are those of the server itself, for every key that can be converted."""
    more = (
        EXAMPLE.read_text().replace("tcp_probes = []", "tcp_probes = [4001, 4002]").replace("tags = []", 'tags=["x"]')
    )
    more = more.replace("[queue]\n", "block_size = 16\n[queue]\n") + '[queue.models."alias"]\n'
    for name, value in variables(more).items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_environment()
    assert settings.engine_args == {"block_size": 16}
    assert (settings.tags, settings.tcp_probes, settings.metrics_port) == (("x",), (4001, 4002), 4000)
    assert (settings.model_name, settings.model_aliases) == ("qwen3-embedding-8b", ("alias",))
    assert settings.embedding_task_supported


def test_other_keys_of_the_generator_are_engine_arguments() -> None:
    """Checked against vLLM's own list where it is installed, else left to the start."""
    text = HEAD + 'block_size = 16\nkv_cache_dtype = "fp8"\n[generator.hf_overrides]\nmodel_type = "x"\n'
    args = json.loads(variables(text)["EMBED_ENGINE_ARGS"])
    assert args == {"block_size": 16, "kv_cache_dtype": "fp8", "hf_overrides": {"model_type": "x"}}
    assert json.loads(variables(HEAD + "anything = 1", arguments=None)["EMBED_ENGINE_ARGS"]) == {"anything": 1}
    assert any("vLLM is not installed" in line for line in comments(HEAD + "anything = 1", arguments=None))


def test_the_engine_arguments_are_those_of_vllm() -> None:
    """Read from its source without importing it."""
    found = engine_arguments()
    assert found is not None
    assert {"model", "max_model_len", "block_size", "enable_prefix_caching"} <= found
    assert not any(name.startswith("_") for name in found)


def test_names_of_models() -> None:
    """A table whose name is not the checkpoint's is an alias; the checkpoint's own table describes the model."""
    tables = '[queue.models.other]\ndescription = "no"\n[queue.models.mine]\ndescription = "yes"\n'
    found = variables(HEAD + '[queue]\ncheckpoint_name = "mine"\n' + tables)
    assert found["EMBED_MODEL_ALIASES"] == "other"
    assert found["EMBED_MODEL_DESCRIPTION"] == "yes"
    told = comments(HEAD + '[queue]\ncheckpoint_name = "mine"\n' + tables)
    assert any(line.startswith("queue.models.other.description: ") for line in told)
    unnamed = variables(HEAD + '[queue.models.other]\ndescription = "yes"\n')
    assert (unnamed["EMBED_MODEL_ALIASES"], unnamed["EMBED_MODEL_DESCRIPTION"]) == ("other", "yes")
    assert "EMBED_MODEL_ALIASES" not in variables(HEAD + '[queue.models.m]\ndescription = "yes"\n')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            HEAD + "max_model_length = 5",
            "line 5: generator.max_model_length: no such key; the nearest is generator.max_",
        ),
        (HEAD + "blocksize = 5", "line 5: generator.blocksize: no such key; the nearest is generator.block_size"),
        (HEAD + '# a comment\n\n[queue]\ntokn = "x"', "line 8: queue.tokn: no such key; the nearest is queue.token"),
        (HEAD + "[monitoring]\n[metrics]\nport = 1", "line 7: metrics.port: no such key; the nearest is monitoring."),
        (HEAD + "[monitor]", "line 5: monitor: no such key"),
        (
            HEAD + "[queue]\nblock_size = 16",
            "line 6: queue.block_size: no such key; the nearest is generator.block_size",
        ),
        (
            HEAD + '[queue.models."a b"]\ndescr = 1',
            'line 6: queue.models."a b".descr: no such key; the nearest is queue.',
        ),
        (HEAD + "[queue]\nmodels = 5", "line 6: queue.models: no such key"),
        (
            HEAD + '[queue]\ntags = [\n"a",\n]\nversio = 1',
            "line 9: queue.versio: no such key; the nearest is queue.version",
        ),
        (HEAD + '[queue.models."a,b"]', 'line 5: queue.models."a,b": a model\'s name must not hold a comma'),
        (HEAD + 'task = "classify"', "line 5: generator.task: Input should be 'embed'"),
        (HEAD + "max_num_seqs = 0", "line 5: generator.max_num_seqs: Input should be greater than or equal to 1"),
        (HEAD + 'max_num_seqs = "x"', "line 5: generator.max_num_seqs: Input should be a valid integer"),
        (HEAD + 'max_num_seqs = "16"', "line 5: generator.max_num_seqs: Input should be a valid integer"),
        (HEAD + "max_num_seqs = true", "line 5: generator.max_num_seqs: Input should be a valid integer"),
        (HEAD.replace('"/models/m"', "5"), "line 4: generator.model_path: Input should be a valid string"),
        (HEAD.replace('"/models/m"', '["a"]'), "line 4: generator.model_path: Input should be a valid string"),
        (HEAD.replace("/models/m", " "), "generator.model_path: this key is missing"),
        (HEAD.replace("= 1", "= true"), "line 1: edition: must be 1"),
        (HEAD.replace("= 1", "= 1.0"), "line 1: edition: must be 1"),
        (HEAD + "[queue]\nversion = true", "line 6: queue.version: Input should be a valid string"),
        (HEAD + "[queue]\ntags = [1]", "line 6: queue.tags: Input should be a valid string"),
        (HEAD + 'tokenizer = "x"', "line 5: generator.tokenizer: cannot be set; the model is that of generator.model_"),
        (
            HEAD + "[monitoring]\nmetrics_port = 4000\ntcp_probes = [4001, 4000]",
            "line 7: monitoring.tcp_probes: port 4000 is that of monitoring.metrics_port too; each",
        ),
        (HEAD + "[queue]\ntags = 5", "line 6: queue.tags: Input should be a valid tuple"),
        (HEAD + "[monitoring]\nmetrics_port = 70000", "line 6: monitoring.metrics_port: Input should be less than"),
        (HEAD + "[monitoring]\ntcp_probes = [0]", "line 6: monitoring.tcp_probes: Input should be greater than"),
        (HEAD.replace("1", "2"), "line 1: edition: must be 1"),
        (HEAD.replace("vllm", "luminous"), 'line 3: generator.type: must be "vllm"'),
        ('[generator]\ntype = "vllm"\nmodel_path = "x"', "edition: this key is missing"),
        ('edition = 1\n[generator]\nmodel_path = "x"', "generator.type: this key is missing"),
        ('edition = 1\n[generator]\ntype = "vllm"', "generator.model_path: this key is missing"),
        ('edition = 1\n[generator]\ntype = "vllm"\nmodel_path = ""', "generator.model_path: this key is missing"),
        (HEAD + "x = ", "not valid TOML: Invalid value (at line 5, column 5)"),
        (HEAD + "token = worker-token", "not valid TOML: Invalid value (at line 5, column 9)"),
        (HEAD + "[queue]\n[queue]", "not valid TOML: Cannot declare ('queue',) twice (at line 6, column 7)"),
        (HEAD + 'x = """\n', "not valid TOML: Unterminated string (at line 6, column 1)"),
        (f"edition = {'1' * 5000}", "not valid TOML: ValueError"),
        (f"edition = {'[' * 5000}", "not valid TOML: RecursionError"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, said: str) -> None:
    """One problem, one line."""
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(said)


def test_line_ends_of_windows_count_as_one() -> None:
    """The file may come from anywhere."""
    assert problems(HEAD.replace("\n", "\r\n") + "max_seqs = 1\r\n")[0].startswith("line 5: generator.max_seqs")


def test_all_problems_are_told_at_once() -> None:
    """Nobody should have to run it once per typo."""
    assert len(problems(HEAD.replace("1", "3") + "max_num_seqs = -1\nmax_len = 1")) == 3


def test_values_of_secrets_are_never_echoed() -> None:
    """Neither the worker's token nor what stands under a mistyped name."""
    kept = convert(HEAD + '[queue]\ntoken = "hush"\n', engine_arguments=None)
    assert "hush" not in write_environment(kept, "env")
    for wrong in ('tokem = "hush"', "url = [", 'token = "hush', "token = hush", 'version = { a = "hush" }'):
        assert "hush" not in "\n".join(problems(HEAD + "[queue]\n" + wrong))


VALUES = {
    "A": "plain",
    "B": 'it\'s "quoted" $HOME `x` \\n #no comment',
    "C": '{"a": ["ü", 1]}',
    "D": "",
    "E": "東京 🙂",
}


def written(form: str, values: dict[str, str]) -> str:
    """Write *values* in *form*, with a comment before each."""
    entries = [entry for name, value in values.items() for entry in (Comment(f"{name}: told"), Variable(name, value))]
    return write_environment(entries, form)


def test_the_env_format_is_for_a_shell() -> None:
    """It is sourced, and every value survives, lines and all."""
    values = VALUES | {"F": "two\nlines"}
    script = f'set -a\n{written("env", values)}\nexec "$0" -c "import json, os; print(json.dumps(dict(os.environ)))"'
    shell = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable], capture_output=True, check=True, env={"PYTHONUTF8": "1"}, text=True
    )
    seen = json.loads(shell.stdout)
    assert {name: seen[name] for name in values} == values


def test_the_docker_format_is_an_env_file() -> None:
    """Docker takes everything behind the first `=` as it is and knows no lines."""
    lines = [line for line in written("docker", VALUES).splitlines() if not line.startswith("#")]
    assert dict(line.split("=", 1) for line in lines) == VALUES
    with pytest.raises(ConversionError, match="several lines"):
        written("docker", {"F": "two\nlines"})


@pytest.mark.parametrize("extra", ["two\nlines", "\x00\x7f\x85\u2028\ufeff", "yes", "1e3", "null"])
def test_the_yaml_formats_are_yaml(extra: str) -> None:
    """Every value is a string, however much it looks like something else."""
    values = VALUES | {"F": extra}
    assert yaml.safe_load(written("cloudformation", values)) == {"Environment": {"Variables": values}}
    listed = [{"name": name, "value": value} for name, value in values.items()]
    assert yaml.safe_load(written("cloudrun", values)) == {"env": listed}


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run the converter as a user does."""
    command = [sys.executable, "-m", "handler", "env-from-toml", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, text=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("form", FORMATS)
def test_the_command_prints_each_format(form: str) -> None:
    """Without the worker's token."""
    done = run(EXAMPLE, "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == write_environment(convert_file(EXAMPLE), form)
    assert "worker-token" not in done.stdout


def test_the_command_names_the_file_and_its_problems(tmp_path: Path) -> None:
    """On stderr, with exit code 1 and nothing on stdout."""
    file = tmp_path / "config.toml"
    file.write_bytes(b"edition = 1\nx = '\xff'\n")
    done = run(file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{file}: not valid TOML: not UTF-8 (at line 2, column 6)\n"
    assert "cannot be read: No such file" in run(tmp_path / "none.toml").stderr


@pytest.mark.parametrize(
    ("target", "encoding", "said"),
    [("/dev/full", "utf-8", "No space left on device"), ("/dev/null", "ascii", "ordinal not in range(128)")],
)
def test_output_that_cannot_be_written_is_told(tmp_path: Path, target: str, encoding: str, said: str) -> None:
    """In one line."""
    file = tmp_path / "config.toml"
    file.write_text(HEAD.replace("/m", "/\u00e4"), encoding="utf-8")
    with open(target, "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-m", "handler", "env-from-toml", str(file)],
            check=False,
            cwd=Path(__file__).parents[1],
            env={"PYTHONIOENCODING": encoding},
            stderr=subprocess.PIPE,
            stdout=full,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, f"the output cannot be written: {said}\n")


def test_a_mark_in_front_of_a_file_is_no_content(tmp_path: Path) -> None:
    """Some editors write one."""
    file = tmp_path / "config.toml"
    file.write_text(HEAD, encoding="utf-8-sig")
    assert "EMBED_MODEL_PATH" in str(convert_file(file))
