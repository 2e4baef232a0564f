"""One HTML page of many explained images: no script, no date, and nothing outside the file.

`document` and `figure` are for other such pages too.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from ..classifier import Prediction
from ..outputs import shown

PHOTOGRAPH = 448  # pixels: the longer side of a photograph on the page
QUALITY = 88  # of JPEG
# The browser loads nothing: pictures are in the page, and no file name can make it fetch or run things.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5f6368; --paper: #fff; --line: #d9dce0;
  --bar: #3367d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a5abb1; --paper: #18191b;
  --line: #3a3d40; --bar: #7aa2f7; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 20px 16px 40px; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5em; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.05em; margin: 0 0 10px; overflow-wrap: anywhere; }
p { margin: 4px 0; max-width: 72ch; }
.soft, figcaption { color: var(--soft); font-size: 0.87em; }
article { border-top: 1px solid var(--line); margin-top: 22px; padding-top: 16px; }
.row { display: grid; gap: 14px; grid-template-columns: repeat(3, minmax(0, 1fr)) minmax(230px, 1.1fr); }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line); }
img.pixels { image-rendering: pixelated; }
figcaption { margin-top: 4px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; }
td, th { padding: 3px 0; text-align: left; font-weight: normal; }
th { overflow-wrap: anywhere; padding-right: 8px; width: 42%; }
td.number { padding-left: 8px; text-align: right; width: 4.6em; }
.bar { background: var(--line); height: 10px; border-radius: 2px; }
.bar i { background: var(--bar); display: block; height: 10px; border-radius: 2px; }
@media (max-width: 900px) { .row { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .row > div { grid-column: 1 / -1; } }
@media (max-width: 520px) { .row { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .row > figure:first-child { grid-column: 1 / -1; } }
@media print { article { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Entry:
    """What the page shows for one image and one target."""

    file: str
    target: str
    photograph: Image.Image  # what the network saw
    contributions: Image.Image
    colour: Image.Image  # transparent
    limit: str  # what full red and full blue stand for
    predictions: Sequence[Prediction]
    gap: float
    unit: str = "logits"  # of the gap, as `Explanation.unit`
    kind: str = "sigmoid"  # what the probabilities are, or "softmax"


@dataclass(frozen=True)
class Heading:
    """What the page says about the network. facts: lines such as "top1 87.47 % on CIFAR-10"."""

    model: str
    facts: Sequence[str] = ()


def page(heading: Heading, sections: Iterable[str], errors: Sequence[str] = ()) -> str:
    """The HTML of the whole page.

    sections: what `section` makes of each entry. errors: why the other files are not on the page.
    """
    body = list(sections)
    title = f"{heading.model}: {len(body)} explanation{'' if len(body) == 1 else 's'}"
    facts = "".join(f'<p class="soft">{escape(fact)}</p>\n' for fact in heading.facts)
    left_out = ""
    if errors:
        lines = "".join(f"<li>{escape(error)}</li>\n" for error in errors)
        left_out = f"<article><h2>Left out</h2>\n<ul>\n{lines}</ul></article>\n"
    intro = f"""{facts}<p class="soft">For each image the network is one linear map W(x), and the
contributions of the pixels sum to the logit, or to the activation of a unit: red speaks for it, blue
against it. The completeness gap is what is left over: rounding.</p>
"""
    return document(title, intro, "".join(body) + left_out)


def document(title: str, intro: str, body: str, style: str = "") -> str:
    """A whole page. title: a text. intro, body: HTML, below the title and in `main`. style: more of CSS."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{intro}</header>
<main>
{body}</main>
</body>
</html>
"""


def section(entry: Entry) -> str:
    """The part of the page that shows one entry, its pictures inside."""
    file, target = escape(entry.file), escape(entry.target)
    photograph = entry.photograph.convert("RGB")
    photograph.thumbnail((PHOTOGRAPH, PHOTOGRAPH), Image.Resampling.BICUBIC)
    pictures = (
        figure(photograph, f"Photograph {file}", "what the network sees", photographic=True),
        figure(
            entry.contributions,
            f"Contributions of the pixels of {file} to {target}",
            f"contributions, up to {escape(entry.limit)}",
            sharp=True,
        ),
        figure(entry.colour, f"W(x) of {file} for {target}, in colour", "W(x), in colour"),
    )
    rows = "".join(_bar(prediction) for prediction in entry.predictions)
    return f"""<article>
<h2>{file}: {target}</h2>
<div class="row">
{"".join(pictures)}<div><table>
<caption class="soft">probabilities ({escape(entry.kind)})</caption>
{rows}</table>
<p class="soft">completeness gap {f"{entry.gap:.1e} {entry.unit}".strip()}</p></div>
</div>
</article>
"""


def figure(
    picture: Image.Image,
    alt: str,
    caption: str,
    *,
    sharp: bool = False,
    photographic: bool = False,
    quality: int = QUALITY,
) -> str:
    """A picture, inside the page, above its caption. alt, caption: HTML.

    sharp: show its pixels as squares. photographic: as JPEG of that quality, which is small for what has no
    sharp edges.
    """
    width, height = picture.size
    kind = ' class="pixels"' if sharp else ""
    return (
        f'<figure><img{kind} width="{width}" height="{height}" alt="{alt}" '
        f'src="{_data_uri(picture, photographic, quality)}"><figcaption>{caption}</figcaption></figure>\n'
    )


def _data_uri(picture: Image.Image, photographic: bool, quality: int) -> str:
    buffer = io.BytesIO()
    if photographic:
        picture.save(buffer, format="JPEG", quality=quality, subsampling=0)
    else:
        picture.save(buffer, format="PNG", optimize=True)
    kind = "jpeg" if photographic else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _bar(prediction: Prediction) -> str:
    label, share = escape(prediction.label), prediction.probability
    return (
        f'<tr><th scope="row">{label}</th><td><div class="bar"><i style="width:{100 * share:.1f}%"></i>'
        f'</div></td><td class="number">{escape(shown(share))}</td></tr>\n'
    )
