"""Client processes that know nothing of this machine's caches, tokens and proxies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

DROPPED = ("HF_", "HUGGING", "TRANSFORMERS_", "TORCH_HOME", "XDG_CACHE_HOME")


def clean_environment(home: Path, **extra: str) -> dict[str, str]:
    """This process's environment, but caches below `home`, no token, no proxy, no xet; extra: set on top."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(DROPPED) and not name.lower().endswith("_proxy")
    }
    return kept | {
        "HF_HOME": str(home / "huggingface"),
        "TORCH_HOME": str(home / "torch"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **extra,
    }


def run_python(
    code: str, *arguments: object, env: Mapping[str, str], cwd: Path | None = None, timeout: float = 60.0
) -> str:
    """What a fresh Python process prints on stdout; AssertionError with its stderr if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=dict(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
