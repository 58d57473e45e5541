import pytest
import torch

from tasks.training.device import resolve_device
from tasks.workspace.errors import InputError


@pytest.mark.parametrize(
    ("name", "is_available", "expected"),
    [("cpu", True, "cpu"), ("auto", False, "cpu"), ("auto", True, "cuda"), ("cuda", True, "cuda")],
)
def test_resolve_device_prefers_cuda_unless_cpu_is_configured(
    monkeypatch: pytest.MonkeyPatch, name: str, *, is_available: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_available)
    assert resolve_device(name) == torch.device(expected)


def test_resolve_device_rejects_cuda_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="PyTorch finds no CUDA device; set it to auto or cpu"):
        resolve_device("cuda")
