"""Reads a page the way a test needs it: elements with their attributes and text, by the standard library's parser."""

from __future__ import annotations

from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Element:
    """A tag, its attributes, its ancestors' tags and all text inside it."""

    def __init__(self, tag: str, attributes: dict[str, str], parents: list[Element]) -> None:
        self.tag, self.attributes, self.parents = tag, attributes, parents
        self.pieces: list[str] = []

    @cached_property
    def text(self) -> str:
        """All text inside; read it when the page was read."""
        return "".join(self.pieces)

    def inside(self, tag: str, **attributes: str) -> bool:
        """Whether an ancestor has that tag and those attributes."""
        return any(
            parent.tag == tag and all(parent.attributes.get(name) == value for name, value in attributes.items())
            for parent in self.parents
        )


class Page(HTMLParser):
    """All elements of a page in document order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}, list(self._open)))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.pieces.append(data)

    def all(self, tag: str) -> list[Element]:
        """Every element of that tag."""
        return [element for element in self.elements if element.tag == tag]

    def by_id(self, name: str) -> Element | None:
        """The element of that id."""
        return next((element for element in self.elements if element.attributes.get("id") == name), None)

    @property
    def text(self) -> str:
        """The text of the body, runs of white space as one space, without the script."""
        text = next(element for element in self.elements if element.tag == "body").text
        for script in self.all("script"):
            text = text.replace(script.text, "")
        return " ".join(text.split())
