"""PyTorch's values come home as they were, without a warning in the log."""

from __future__ import annotations

from typing import Any

import pytest
from optional import require

import dokrun as dok


@dok.remote(plan="v100-32gb", env={"PYTHONWARNINGS": "error"})
def make() -> Any:
    import torch

    base = torch.arange(6, dtype=torch.bfloat16)
    return base, base[2:4], torch.nn.Parameter(torch.ones(3)), torch.nn.Linear(2, 2)


@pytest.mark.usefixtures("account")
def test_tensors_parameters_and_models_come_back() -> None:
    require("torch")
    import torch

    base, view, parameter, model = make.rehearse()
    assert torch.equal(base, torch.arange(6, dtype=torch.bfloat16))
    assert torch.equal(view, base[2:4])
    assert isinstance(parameter, torch.nn.Parameter)
    assert parameter.requires_grad
    assert model(torch.ones(2)).shape == (2,)
