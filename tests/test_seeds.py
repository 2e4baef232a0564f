"""Tests draw the same numbers in every run, also in fixtures that several of them share."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def shared_by_tests():
    return torch.rand(1).item()


def test_of_torch_numpy_and_python(shared_by_tests):
    expected = torch.rand(2, generator=torch.Generator().manual_seed(0))
    assert shared_by_tests == expected[0]
    assert torch.rand(1) == expected[1]
    assert np.random.rand() == np.random.RandomState(0).rand()
    assert random.random() == random.Random(0).random()
