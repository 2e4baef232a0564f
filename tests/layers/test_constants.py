"""Constants of a network stay on its device: making them in a forward pass would let a GPU wait."""

from __future__ import annotations

import pytest
import torch
from conftest import images
from torch.utils._python_dispatch import TorchDispatchMode

import bcos_zoo
from bcos_zoo.layers import Encode, Normalize


class Created(TorchDispatchMode):
    """Notes every tensor that is made from numbers of Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if name in ("aten::lift_fresh", "aten::scalar_tensor", "aten::_local_scalar_dense"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_a_tensor_made_from_numbers_is_noticed():
    with Created() as made:
        torch.tensor((1.0, 2.0))
        torch.ones(2).sum().item()
    assert made.names == ["aten::lift_fresh", "aten::_local_scalar_dense"]


@pytest.mark.parametrize("layer", [Encode, Normalize])
def test_statistics_are_kept_between_forwards_and_follow_the_layer(layer):
    module, x = layer(3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.7)), images()
    with Created() as made:
        module(x)
    assert made.names == []
    module.double()  # from the numbers, not from their float32 roundings
    expected = (x.double() - torch.tensor([0.5, 0.4, 0.3]).double()[:, None, None]) / torch.tensor(
        [0.2, 0.3, 0.7], dtype=torch.float64
    )[:, None, None]
    given = module(x.double())[:, :3]
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-6)
    with Created() as made:
        module(x.double())
    assert made.names == []


@pytest.mark.parametrize("name", ["bcos_resnet20", "bcos_densenet52", "bcos_resnet18.bcosified_in1k"])
def test_a_forward_pass_makes_no_tensor_from_numbers(name):
    model = bcos_zoo.create_model(name, pretrained=False).eval()
    with torch.no_grad(), Created() as made:
        model(images())
    assert made.names == []
