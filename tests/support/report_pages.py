"""A report page as a browser sees it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import NamedTuple

VOID = {"meta", "link", "br"}


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str | None]
    text: str


class Page(HTMLParser):
    """The elements of a page, in the order in which they end; tags must nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.elements: list[Element] = []
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = self.find("body")[0].text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"br", "td"}:
            self.handle_data(" ")
        self.open.append((tag, dict(attrs), []))
        if tag in VOID:
            self.handle_endtag(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        name, attributes, text = self.open.pop()
        assert name == tag
        self.elements.append(Element(tag, attributes, " ".join("".join(text).split())))

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data)

    def find(self, tag: str, css_class: str = "") -> list[Element]:
        return [
            element
            for element in self.elements
            if element.tag == tag
            and (not css_class or css_class in (element.attributes.get("class") or "").split())
        ]

    @property
    def tiles(self) -> dict[str, str]:
        names, texts = self.find("dt"), self.find("dd")
        return {name.text: text.text for name, text in zip(names, texts, strict=True)}

    @property
    def rows(self) -> dict[str, str]:
        """Text of each table row by its header; for rows with the same header, the first."""
        rows: dict[str, str] = {}
        name = ""
        for element in self.elements:
            if element.tag == "th":
                name = element.text
            elif element.tag == "tr":
                rows.setdefault(name, element.text.removeprefix(name).strip())
        return rows
