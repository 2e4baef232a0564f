"""Explanations are computed in float32 where they say so, and the settings of the process come back."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

WATCH = """
import threading, torch
from torch import nn
import bcos_zoo
from bcos_zoo.explanations.precision import full_float32
B = torch.backends
LEAVES = [B.cuda.matmul, B.cudnn.conv, B.cudnn.rnn, B.mkldnn.matmul, B.mkldnn.conv, B.mkldnn.rnn]

def read(f):
    try:
        return f()
    except RuntimeError:
        return "mixed"

def state():
    old = [torch.get_float32_matmul_precision, lambda: B.cuda.matmul.allow_tf32, lambda: B.cudnn.allow_tf32]
    return [read(f) for f in old] + [o.fp32_precision for o in (*LEAVES, B, B.cudnn, B.mkldnn)]

def plain():
    return all(leaf.fp32_precision == "ieee" for leaf in LEAVES)
"""
SETTINGS = {
    "nothing": "",
    "high": "torch.set_float32_matmul_precision('high')",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "highest": "torch.set_float32_matmul_precision('highest')",
    "allow_tf32": "B.cuda.matmul.allow_tf32 = True",
    "cudnn off": "B.cudnn.allow_tf32 = False",
    "new, all": "B.fp32_precision = 'tf32'",
    "new, matmul": "B.cuda.matmul.fp32_precision = 'tf32'",
    "new, cudnn": "B.cudnn.conv.fp32_precision = 'ieee'",
    "new, oneDNN": "B.mkldnn.fp32_precision = 'bf16'",
    "new, one of oneDNN": "B.mkldnn.conv.fp32_precision = 'bf16'",
    "both": "torch.set_float32_matmul_precision('high'); B.mkldnn.matmul.fp32_precision = 'bf16'",
}


def run(code: str) -> str:
    """In a process of its own: the settings are of the process."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("setting", ["nothing", "medium", "new, all", "both"])
def test_settings_are_as_before_after_blocks_that_nest_and_fail(setting: str) -> None:
    run(
        f"""
        {SETTINGS[setting]}
        before = state()
        with full_float32():
            assert plain(), state()
            with full_float32():
                assert plain()
            assert plain()
        assert state() == before, (before, state())
        try:
            with full_float32():
                raise KeyError
        except KeyError:
            pass
        assert state() == before, (before, state())
        """
    )


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_way_to_set_them_comes_back_and_still_follows_what_stands_above(setting: str) -> None:
    run(
        f"""
        {SETTINGS[setting]}
        def later():
            B.fp32_precision = "bf16"
            return state()
        before = state()
        with full_float32():
            assert plain(), state()
        assert state() == before, (before, state())
        print(later())
        """
    )


def test_explain_multiplies_in_float32_on_this_machine_and_in_all_threads() -> None:
    """oneDNN takes bfloat16 for float32 where it is allowed to; the settings seen inside are plain ones."""
    run(
        """
        torch.set_num_threads(1)
        torch.manual_seed(0)  # else a process draws by the clock, and some networks' maps are nearly zero
        model = bcos_zoo.create_model("bcos_simple_vit_ti_patch16_224")
        x = torch.rand(1, 3, 32, 32)
        usual = bcos_zoo.explain(model, x, 0)
        torch.set_float32_matmul_precision("medium")
        B.mkldnn.conv.fp32_precision = "bf16"
        before = state()
        seen = []
        model.register_forward_hook(lambda *_: seen.append(plain()))
        got = bcos_zoo.explain(model, x, 0)
        assert torch.equal(got.contributions, usual.contributions)
        exact = bcos_zoo.explain(model, x.double(), 0, dtype=torch.float64)
        share = (got.contributions - exact.contributions).abs().max() / exact.contributions.abs().max()
        assert share < 1e-5, share
        barrier = threading.Barrier(3)
        def work():
            barrier.wait()
            for _ in range(3):
                bcos_zoo.explain(model, x, 0)
        threads = [threading.Thread(target=work) for _ in range(3)]
        [t.start() for t in threads]; [t.join() for t in threads]
        assert len(seen) == 11 and all(seen)
        assert state() == before
        model.register_forward_hook(lambda *_: 1 / 0)
        try:
            bcos_zoo.explain(model, x, 0)
        except ZeroDivisionError:
            pass
        assert state() == before, (before, state())
        """
    )
