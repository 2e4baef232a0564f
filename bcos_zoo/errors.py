"""What bcos_zoo raises when its input is at fault.

BcosZooError
├── InputError          an image, a tensor, a target or a setting that cannot be used (also a ValueError)
├── UnknownModelError   no architecture or checkpoint of that name (also a ValueError)
└── WeightsError        a checkpoint that is missing, damaged, or of another network (also a RuntimeError)

Every message is one line: what came, what is allowed, what to do.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from numbers import Integral


class BcosZooError(Exception):
    """Base of all errors about faulty input; the command line turns them into exit code 2."""


class InputError(BcosZooError, ValueError):
    """An image, a tensor, a target or a setting that cannot be used."""


class UnknownModelError(BcosZooError, ValueError):
    """No architecture or checkpoint of that name."""


class WeightsError(BcosZooError, RuntimeError):
    """A checkpoint that is missing, damaged, or of another network."""


def check_integer(name: str, value: int, least: int, most: int | None = None) -> None:
    """Raise InputError unless `value` is an integer in the range."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f"{least} and more" if most is None else f"{least} to {most}"
        raise InputError(f"{name}={value if whole else repr(value)}: allowed are integers, {allowed}")


def closest(name: str, known: Iterable[str], n: int = 3) -> str:
    """The known names most similar to `name`, best first, for a message; "none" if there are none.

    Case, spaces, hyphens and underscores are ignored; names that contain `name` count as similar too.
    """
    plain = {known_name: _plain(known_name) for known_name in known}
    wanted = _plain(name)
    ratio = {key: difflib.SequenceMatcher(None, wanted, text).ratio() for key, text in plain.items()}
    holds = [key for key, text in plain.items() if min(len(wanted), len(text)) > 2 and (wanted in text)]
    near = {*holds, *(key for key in plain if ratio[key] >= 0.6)}
    best = sorted(near, key=lambda key: (ratio[key], key), reverse=True)
    return ", ".join(best[:n]) or "none"


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def redact(text: str, *secrets: str | bool | None) -> str:
    """`text` without secrets: credentials and queries in urls, Hugging Face tokens, and `secrets`."""
    text = re.sub(r"(?<=://)[^/\s'\"]+@", "", text)
    text = re.sub(r"(://[^\s'\"?]*)\?[^\s'\"]*", r"\1", text)
    text = re.sub(r"\bhf_[A-Za-z0-9]{8,}", "hf_***", text)
    for secret in (os.environ.get("HF_TOKEN"), *secrets):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return text


def reason(error: BaseException, *secrets: str | bool | None) -> str:
    """The error's text in one line of at most 200 characters, without secrets, as in `redact`."""
    return redact(" ".join(str(error).split()) or type(error).__name__, *secrets)[:200]
