"""PyTorch's values come home as they were, without a warning in the log."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
from optional import require

import dokrun as dok
from dokrun.payload.serialize import Serializer
from dokrun.shim import report
from dokrun.shim.envelope import Segment, dump_value, load_value

MIB = 1 << 20


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


def to_the_container(value: Any) -> list[Segment]:
    return Serializer().value(value)


def to_the_client(value: Any) -> list[Segment]:
    return dump_value(value, report.dumps)


@pytest.mark.parametrize("pickled", [to_the_container, to_the_client])
def test_the_bytes_of_tensors_travel_beside_the_pickle_from_where_they_lie(
    pickled: Callable[[Any], list[Segment]],
) -> None:
    require("torch")
    import torch

    large, small = torch.arange(MIB, dtype=torch.bfloat16), torch.ones(3, requires_grad=True)
    sent = {
        "large": large,
        "view": large[5:7].reshape(2, 1),
        "small": small,
        "none": torch.empty(0),
        "scattered": torch.ones(4, 4)[:, ::2].t(),
        "untyped": torch.ones(3).untyped_storage(),
        "abstract": torch.ones(3, device="meta"),
        "model": torch.nn.Linear(512, 512),
    }
    segments = pickled(sent)
    weight = sent["model"].weight
    assert [it.size for it in segments[1:]] == [2 * MIB, 2 * MIB, weight.nbytes], "what is small is in the pickle"
    assert segments[0].size < 16 << 10
    for segment, tensor in zip(segments[1:], (large, large, weight), strict=True):
        assert segment.data is not None
        assert ctypes.addressof(ctypes.c_char.from_buffer(segment.data)) == tensor.data_ptr(), "nothing was copied"
    got = load_value([bytearray(it.data or b"") for it in segments])
    for name in ("large", "view", "small", "none", "scattered"):
        assert torch.equal(got[name], sent[name]), name
        assert (got[name].dtype, got[name].stride()) == (sent[name].dtype, sent[name].stride()), name
    assert got["small"].requires_grad
    assert bytes(got["untyped"]) == bytes(sent["untyped"])
    assert got["abstract"].is_meta
    assert torch.equal(got["model"](torch.ones(512)), sent["model"](torch.ones(512)))
    got["large"] += 1  # it can be written to, as every tensor can
    assert got["large"][0] == 1
