"""Pages of runs, read: what is on them, and what holds for every one."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A page that was read: its sections, articles and pictures. Fails where tags do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.open = path.read_text(encoding="utf-8"), list[str]()
        self.tags, self.attributes = list[str](), list[tuple[str, str]]()
        self.sections, self.articles = dict[str, str](), list[dict[str, object]]()
        self.pictures, self.commands = list[dict[str, str]](), list[str]()
        self.feed(self.text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "article":
            self.articles.append({"h3": "", "p": "", "pictures": []})
        if tag == "code":
            self.commands.append("")
        if tag == "img":
            self.pictures.append(dict(attrs))
            if "article" in self.open:
                self.articles[-1]["pictures"].append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "h2" in self.open:
            self.sections[data] = ""
        elif self.sections:
            self.sections[list(self.sections)[-1]] += data
        for part in ("h3", "p"):
            if part in self.open and "article" in self.open:
                self.articles[-1][part] += data
        if "code" in self.open:
            self.commands[-1] += data


def decoded(picture: dict[str, str]) -> Image.Image:
    kind, _, data = picture["src"].partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def check(run: Path, *outside: Path) -> Page:
    """What holds for every page. outside: folders that it must not name."""
    shown = Page(run / "index.html")
    assert "script" not in shown.tags
    assert "http://" not in shown.text and "https://" not in shown.text
    addresses = [value for name, value in shown.attributes if name in ("src", "href", "srcset", "data")]
    assert addresses and all(value.startswith("data:image/") for value in addresses)
    assert all(picture["alt"].strip() for picture in shown.pictures)
    for picture in shown.pictures:
        assert decoded(picture).size == (int(picture["width"]), int(picture["height"]))
    for folder in (run.parent, *outside):
        assert str(folder) not in shown.text
    assert len(shown.text) < 3e6
    return shown
