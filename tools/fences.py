"""A hook of mkdocs: the marks that tests read behind a fence's language are no part of the page."""

import re
from typing import Any

MARKED = re.compile(r"^([ \t]*```\w+) (?:notest|slow)[ \t]*$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    return MARKED.sub(r"\1", markdown)
