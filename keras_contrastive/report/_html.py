"""HTML in which every text is escaped unless it says that it is HTML."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EMPTY = ("img", "meta", "circle")
_ASSETS = Path(__file__).parent


class Html(str):
    """Text that is HTML already; made by this module alone."""


def tag(name: str, /, *children, **attributes) -> Html:
    """An element. Children are text, escaped, or `Html`, or lists of both; None is left out.

    `class_` and `data_run` become `class` and `data-run`; True gives an attribute without a value, None none.
    """
    parts = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None:
            parts.append(f'{key}="{html.escape(str(value))}"')
    opened = f"<{' '.join(parts)}>"
    if name in _EMPTY:
        return Html(f"{opened[:-1]}/>")
    return Html(f"{opened}{join(children)}</{name}>")


def join(children) -> Html:
    """Children one after the other."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, (list, tuple)):
            child = join(child)
        parts.append(child if isinstance(child, Html) else html.escape(str(child)))
    return Html("".join(parts))


def document(title: str, body, *, style: list[str], script: str | None = None) -> str:
    """A page that holds all it needs, and whose browser loads nothing.

    Args:
        title: Of the page.
        body: Elements.
        style: Names of CSS files beside this module, one after the other.
        script: Name of the page's script there, if it has one.
    """
    # No request leaves the page, whatever a name in it says.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script is not None:
        policy += "; script-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", title),
        [tag("style", _asset(name)) for name in style],
    )
    run = None if script is None else tag("script", _asset(script))
    shown = tag("body", tag("main", body), run)
    return f"<!doctype html>\n{tag('html', head, shown, lang='en')}\n"


def _asset(name: str) -> Html:
    return Html((_ASSETS / name).read_text("utf-8"))


def json_data(name: str, content) -> Html:
    """Data for the page's script. No text in it can end the element."""
    text = json.dumps(content, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Html(f'<script type="application/json" id="{name}">{text}</script>')


def figure(drawn: Figure, alternative: str, *, vector: bool = False) -> Html:
    """A matplotlib figure as an image inside the page: of photographs as PNG, of lines as SVG."""
    written = io.BytesIO()
    if vector:
        drawn.savefig(written, format="svg", facecolor="white", metadata={"Date": None})
    else:
        drawn.savefig(written, format="png", dpi=110, facecolor="white")
    source = data_uri(written.getvalue(), "image/svg+xml" if vector else "image/png")
    return tag("img", src=source, alt=alternative, class_="chart" if vector else None)


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sprite(images: np.ndarray, columns: int) -> str:
    """Small images `(n, h, w, c)`, uint8, side by side in one, row after row, as a data URI."""
    n, height, width, channels = images.shape
    rows = -(-n // columns)
    padded = np.full((rows * columns, height, width, channels), 255, np.uint8)
    padded[:n] = images
    grid = padded.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * height, columns * width, channels)
    return data_uri(tf.io.encode_jpeg(grid, quality=88).numpy(), "image/jpeg")
