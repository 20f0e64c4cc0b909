import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from handler.engine_args import check_engine_args, explain, remedy
from handler.errors import StartError
from handler.settings import Settings
from tests.engine_options import engine_options


@dataclasses.dataclass
class Arguments:
    """A few engine arguments of the kinds that vLLM has."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    dtype: Literal["auto", "float32"] = "auto"
    hf_token: bool | None = None
    hf_overrides: dict[str, int] = dataclasses.field(default_factory=dict)
    trust_remote_code: bool = False


def test_known_arguments_pass() -> None:
    """With the types that vLLM wants."""
    assert check_engine_args(Arguments, {"max_num_seqs": 8, "dtype": "float32"}) == {
        "max_num_seqs": 8,
        "dtype": "float32",
    }


def test_unknown_and_mistyped_arguments_are_named() -> None:
    """One line each; a typo gets the nearest real name."""
    with pytest.raises(StartError) as caught:
        check_engine_args(Arguments, {"max_num_seq": 8, "block_size": "x", "dtype": "int8", "%": 1})
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "no engine argument 'max_num_seq'; the nearest is 'max_num_seqs'" in lines[0]
    assert "block_size: Input should be a valid integer" in lines[1]
    assert "dtype: Input should be 'auto' or 'float32'" in lines[2]
    assert "no engine argument '%'" in lines[3]


@pytest.mark.parametrize(
    ("name", "value"),
    [("hf_token", "hush"), ("hf_overrides", {"a": "hush"}), ("hf_overrides", ["hush"]), ("block_size", {"a": "hush"})],
)
def test_what_may_be_a_credential_is_not_shown(name: str, value: object) -> None:
    """By its name, or within a value of several parts."""
    with pytest.raises(StartError, match=f"EMBED_ENGINE_ARGS: {name}: Input should be") as caught:
        check_engine_args(Arguments, {name: value})
    assert "hush" not in str(caught.value)


def test_a_number_of_tokens_is_no_credential() -> None:
    """It is shown."""
    with pytest.raises(StartError, match=r"max_num_batched_tokens: .* \(got 'many'\)"):
        check_engine_args(Arguments, {"max_num_batched_tokens": "many"})


def test_a_long_value_is_shortened() -> None:
    """A log line is read by people."""
    with pytest.raises(StartError) as caught:
        check_engine_args(Arguments, {"block_size": "x " * 1000})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("", {}),
        ('{"trust_remote_code": false}', {"trust_remote_code": False}),
        ('{"trust_remote_code": "false"}', {"trust_remote_code": False}),
        ('{"trust_remote_code": true}', {"trust_remote_code": True}),
    ],
)
def test_who_says_no_to_the_models_code_is_heard(
    said: str, heard: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this server, which loads the tokenizer, and by the engine alike."""
    monkeypatch.setenv("EMBED_ENGINE_ARGS", said)
    settings = Settings.from_environment()
    assert settings.trust_remote_code is heard.get("trust_remote_code", False)
    assert check_engine_args(Arguments, settings.engine_args) == heard


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (
            "max_num_batched_tokens (200) is smaller than max_model_len (256)",
            "MAX_NUM_BATCHED_TOKENS to at least",
        ),
        ("User-specified max_model_len (1024) is greater than the derived", "EMBED_MAX_MODEL_LEN to at most"),
        (
            "Free memory on device cuda:0 on startup is less than desired GPU memory utilization. Decrease GPU memory",
            "EMBED_GPU_MEMORY_UTILIZATION lower",
        ),
        ("b'File access error'", "while it was streamed; start again"),
        ("There is no module or parameter named 'cls' in Model", "as the head of another task is: load it with"),
        ("fused_topk is not implemented as lack of triton", "on GPUs only"),
        ("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx", "takes g++ and gcc"),
        ("Model architectures ['SeesToo'] failed to be inspected.", "it needs torchvision, which is left out here"),
        ("something that nobody has seen yet", "LOG_LEVEL=DEBUG"),
    ],
)
def test_what_vllm_says_gets_a_remedy(said: str, remedy: str) -> None:
    """In one line, with the folder that the operator knows."""
    told = explain(ValueError(f"{said} of /overlay\nand more"), engine_options(Path("/overlay"), shown_as="/model"))
    assert told.startswith(f"vLLM cannot load /model: ValueError: {said} of /model; ")
    assert remedy in told


def test_an_unknown_architecture_is_told_without_the_known_ones() -> None:
    """vLLM names all of its own, more than three hundred."""
    said = (
        "Model architectures ['FancyModel'] are not supported for now. Supported architectures: dict_keys(['A', 'B'])"
    )
    told = explain(ValueError(said), engine_options(Path("/model"), shown_as="/model"))
    assert told.endswith(
        "['FancyModel'] are not supported for now; this vLLM does not serve that architecture or choice"
    )


def test_a_remedy_is_known_or_not() -> None:
    """The first that fits what was said."""
    heads = RuntimeError("Unsupported CPU attention configuration: head_dim=26")
    assert remedy(heads, "none") == "vLLM has no heads of this size on CPUs; take another model, or a GPU"
    assert remedy(RuntimeError("what"), "none") == "none"
