"""The page of many explained images: whole in itself, the same every time, safe whatever a file is called."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from bcos_zoo.classifier import Prediction
from bcos_zoo.pipeline import html

NASTY = "<script>alert(1)</script>\"' onerror=x &amp; 猫.png"


def entry(file="cat.png", target="cat, probability 0.9", size=(32, 32)):
    predictions = [Prediction("cat", 3, 0.9, 2.2), Prediction("dog & <co>", 5, 0.25, -1.1)]
    return html.Entry(
        file=file,
        target=target,
        photograph=Image.new("RGB", (900, 600), "red"),
        contributions=Image.new("RGB", size, "white"),
        colour=Image.new("RGBA", size, (0, 0, 0, 0)),
        limit="±0.1 logits a pixel",
        predictions=predictions,
        gap=1.5e-6,
    )


class Elements(HTMLParser):
    """All tags with their attributes, and the text; complains of what is not closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def page(*entries, errors=(), model="bcos_resnet20.cifar10", facts=("top1 87.47 % on CIFAR-10",)):
    return html.page(html.Heading(model, facts), [html.section(one) for one in entries], errors)


def test_all_that_the_page_shows_is_inside_it():
    elements = Elements(page(entry()))
    images = [attributes["src"] for tag, attributes in elements.tags if tag == "img"]
    assert len(images) == 3
    for source in images:
        head, data = source.split(",")
        assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
        Image.open(io.BytesIO(base64.b64decode(data, validate=True))).load()
    assert not {"script", "link", "iframe", "object", "a", "base"} & {tag for tag, _ in elements.tags}
    assert not re.search(r"https?:|url\(|@import|javascript:", page(entry()))
    assert "default-src 'none'" in page(entry())


def test_the_page_says_what_there_is_to_know():
    text = Elements(page(entry(), errors=["broken.jpg is not an image"])).text
    for said in ("bcos_resnet20.cifar10", "top1 87.47 %", "cat.png", "0.900", "0.250", "1.5e-06 logits"):
        assert said in text
    for said in ("±0.1 logits a pixel", "broken.jpg is not an image", "Left out"):
        assert said in text
    assert "Left out" not in page(entry())


def test_the_bars_are_as_long_as_the_probabilities():
    bars = [a["style"] for tag, a in Elements(page(entry())).tags if tag == "i"]
    assert bars == ["width:90.0%", "width:25.0%"]


def test_the_same_explanations_give_the_same_page():
    assert page(entry()) == page(entry())
    assert not re.search(r"20\d\d-\d\d", page(entry()))


@pytest.mark.parametrize("where", ["file", "target", "model", "fact", "error"])
def test_no_name_can_put_tags_into_the_page(where):
    plain = Elements(page(entry(), errors=["x"]))
    nasty = Elements(
        page(
            entry(**{where: NASTY} if where in ("file", "target") else {}),
            model=NASTY if where == "model" else "bcos_resnet20.cifar10",
            facts=[NASTY if where == "fact" else "top1"],
            errors=[NASTY if where == "error" else "x"],
        )
    )
    assert [(tag, sorted(a)) for tag, a in nasty.tags] == [(tag, sorted(a)) for tag, a in plain.tags]
    assert NASTY in nasty.text


def test_every_picture_has_words_for_those_who_do_not_see_it():
    elements = Elements(page(entry(), entry("dog.png")))
    described = [a["alt"] for tag, a in elements.tags if tag == "img"]
    assert len(set(described)) == 6 and all(described)
    assert ("html", {"lang": "en"}) in elements.tags
    assert any(a.get("name") == "viewport" for tag, a in elements.tags if tag == "meta")


def test_photographs_are_made_small_and_explanations_are_left_as_they_are():
    sizes = [(int(a["width"]), int(a["height"])) for tag, a in Elements(page(entry())).tags if tag == "img"]
    assert sizes == [(448, 299), (32, 32), (32, 32)]


def test_the_pixels_of_a_map_arrive_unchanged():
    pixels = (torch.rand(8, 8, 3) * 255).byte()
    drawn = Image.fromarray(pixels.numpy())
    one = entry()
    changed = html.Entry(**{**vars(one), "contributions": drawn})
    source = [a["src"] for tag, a in Elements(page(changed)).tags if a.get("class") == "pixels"][0]
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as back:
        assert back.tobytes() == drawn.tobytes()
