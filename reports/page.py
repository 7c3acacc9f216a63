"""The jinja2 environment of both pages: everything is escaped, only the project's own style and script enter as they
are.

A Content-Security-Policy allows images from the page's own folder and data URIs, the inline style, and exactly this
script by its hash: a page that tried to load anything from a network, or ran an injected script, would be stopped by
the browser.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """The page as HTML text; what of the names of files is no UTF-8 becomes "?"."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src 'self' data: file:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    page = (
        _environment()
        .get_template(template)
        .render(style=Markup(style), script=Markup(script), policy=policy, **values)
    )
    return page.encode(errors="replace").decode()


@cache
def _environment() -> Environment:
    """The templates, compiled once: a report, the index and a test session render many pages."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = score
    environment.filters["interval"] = interval
    environment.filters["signed"] = signed
    environment.filters["end"] = end
    environment.filters["count"] = lambda value: f"{value:,.0f}"
    environment.filters["number"] = number
    environment.filters["brief"] = brief
    return environment


class Bounded(Protocol):
    """Something with an interval."""

    low: float | None
    high: float | None


def score(value: float | None, percent: bool = False) -> str:
    """A score as people read it: three decimals, or one decimal of a percentage; a dash where there is none."""
    if value is None:
        return "–"
    shown = round(value * 100, 1) if percent else round(value, 3)
    text = f"{shown:.1f} %".replace("100.0", "100") if percent else f"{shown:.3f}"
    return text.replace("-", "−") if shown else text.removeprefix("-")


def number(value: float) -> str:
    """A number of any size as people read it: "12,345", "0.04996", "−0.6189", "1e-05"."""
    shown = f"{abs(value):,}" if isinstance(value, int) else f"{abs(value):,.4g}"
    return f"−{shown}" if value < 0 else shown


def signed(value: float, percent: bool = False) -> str:
    """A difference as people read it: "+0.071", of shares "−3.2", in percentage points. One that would round to zero
    has as many decimals as it takes to say on which side of zero it lies."""
    shown, decimals = (100 * value, 1) if percent else (value, 3)
    digits = next((n for n in range(decimals, decimals + 5) if round(shown, n)), decimals)
    return f"{round(shown, digits):+.{digits}f}".replace("-", "−") if round(shown, digits) else f"{0:.{decimals}f}"


def interval(found: Bounded, percent: bool = False) -> str:
    """An interval as people read it: "0.512 – 0.659", "93.8 – 100 %"."""
    low, high = score(found.low, percent), score(found.high, percent)
    return f"{low.removesuffix(' %')} – {high}"


def end(value: float, percent: bool = False) -> str:
    """An end of a scale in two digits: "0", "0.047", "100 %"."""
    size = f"{abs(value) * 100:.2g} %".replace("1e+02", "100") if percent else f"{abs(value):.2g}"
    return f"−{size}" if value < 0 else size


def brief(value: str) -> str:
    """A digest or commit short enough for a headline."""
    return value.removeprefix("sha256:")[:10]
