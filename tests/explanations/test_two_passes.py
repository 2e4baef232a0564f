"""With create_graph, factors of one pass are played back in another: the two must take the same way."""

from __future__ import annotations

import pytest
from conftest import images
from torch import Tensor, nn

from bcos_zoo import InputError, explain
from bcos_zoo.layers import BcosConv2d, Encode


class Undecided(nn.Module):
    """Another way at each pass."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.encode, self.skip, self.calls = Encode(), skip, 0
        self.a, self.b = BcosConv2d(6, 4, 3), BcosConv2d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.encode(x)
        if self.skip:
            return (self.a(x) if self.calls % 2 else self.a(x) + self.b(x)).mean((2, 3))
        return (self.a if self.calls % 2 else self.b)(x).mean((2, 3))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_two_passes_that_differ_are_refused_where_factors_are_played_back(skip: bool, first: int) -> None:
    model = Undecided(skip).eval()
    model.calls = first
    with pytest.raises(InputError, match="took different ways in two passes over the same images"):
        explain(model, images(2), 0, create_graph=True)
    explain(model, images(2), 0)
