"""An altair chart as SVG inside a page: drawn when the page is built, so that it shows offline and without scripts.

vl-convert draws with Vega itself. The result is slimmed for a page: what is invisible goes, numbers are rounded, each
mark's description becomes a `<title>` (a tooltip without scripts), and the whole says its content to a screen reader.
Colours are variables of the page's style sheet (`colour`), so one drawing is right in light and dark.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from typing import Any

import vl_convert
from markupsafe import Markup

SVG = "http://www.w3.org/2000/svg"
DROPPED = ("class", "role", "aria-roledescription", "aria-hidden", "pointer-events", "version", "display")
LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")

ElementTree.register_namespace("", SVG)


def colour(tone: str) -> str:
    """The colour of a tone, as the style sheet knows it."""
    return f"var(--{tone})"


STYLE: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        **{"domain": False, "ticks": False, "labelPadding": 6, "labelLimit": 220, "labelOverlap": True},
        **{"labelFontSize": 12, "labelColor": colour("soft"), "gridColor": colour("line")},
        **{"titleFontSize": 12, "titleFontWeight": "normal", "titleColor": colour("soft")},
    },
    "axisX": {"grid": False},
}


def inline_svg(chart: Any, said: str, kind: str = "chart") -> Markup:
    """The chart's SVG; `said` is its content in words, `kind` the class that the style sheet lays out."""
    specification = chart.to_dict(validate=False)  # the schema check takes half as long as the drawing
    drawn = _drawn(json.dumps({**specification, "config": STYLE}, sort_keys=True))
    return Markup('<svg class="{}" role="img" aria-label="{}" {}').format(kind, said, Markup(drawn))


@lru_cache(maxsize=256)
def _drawn(specification: str) -> str:
    """What follows `<svg ` of a specification's drawing."""
    root = ElementTree.fromstring(vl_convert.vegalite_to_svg(specification))
    for element in list(root.iter()):
        _slim(element)
    root.attrib = {name: root.attrib[name] for name in ("viewBox", "width", "height")}
    return ElementTree.tostring(root, encoding="unicode").removeprefix("<svg ")


def _slim(element: ElementTree.Element) -> None:
    for child in list(element):
        if _is_invisible(child):
            element.remove(child)
    label = element.attrib.pop("aria-label", None)
    is_mark = element.attrib.get("aria-roledescription", "").endswith(("mark", "point", "bar"))
    if label and is_mark and not len(element):
        ElementTree.SubElement(element, f"{{{SVG}}}title").text = label
    for name in DROPPED:
        element.attrib.pop(name, None)
    for name in ("transform", "d", "x2", "y2"):
        if name in element.attrib:
            element.attrib[name] = LONG_NUMBER.sub(_round, element.attrib[name])


def _is_invisible(element: ElementTree.Element) -> bool:
    """Vega keeps labels that would overlap, at opacity 0, and unpainted backgrounds of groups."""
    if element.tag == f"{{{SVG}}}text":
        return element.attrib.get("opacity") == "0"
    unpainted = not {"fill", "stroke"} & set(element.attrib)
    return element.attrib.get("class") in ("background", "foreground") and unpainted


def _round(number: re.Match[str]) -> str:
    return f"{float(number.group()):.1f}".removesuffix(".0")
