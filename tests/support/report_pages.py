"""A report page as a browser sees it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np

VOID = {"meta", "link", "br", "wbr"}


def wilson_percent(share: float, count: int) -> tuple[float, float]:
    """The ends of the 95% interval: where the share is 1.96 standard errors away, in percent."""
    z2 = 1.959963984540054**2 / count
    low, high = sorted(np.roots([1 + z2, -2 * share - z2, share**2]))
    return 100 * float(low), 100 * float(high)


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
        self.scripts: list[str] = []
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
        if self.open and self.open[-1][0] == "script":
            self.scripts.append(data)
            return
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


#: Text that would become markup, or run, if it were not escaped.
ATTACK = """<script>alert("x")</script>'"><img src=x onerror=y>&amp;$a$"""


def check_self_contained(page: Page) -> None:
    """Check that a page loads nothing, runs only its script, and has unambiguous references."""
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page.source)
    tags = {element.tag for element in page.elements}
    assert not tags & {"img", "iframe", "object", "form", "base"}
    for tag, attributes, _ in page.elements:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:,")), tag
        assert not [name for name in attributes if name.startswith("on")]
    kinds = [element.attributes for element in page.find("script")]
    assert kinds.pop() == {}
    assert all(kind == {"type": "application/json"} for kind in kinds)
    *values, script = page.scripts
    assert len(values) == len(kinds)
    for each in values:
        json.loads(each)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policies = [
        element.attributes["content"]
        for element in page.find("meta")
        if element.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert policies == [f"{rules}; script-src 'sha256-{digest}'"]
    names = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(names) == len(set(names))
    used = {str(e.attributes["href"])[1:] for e in page.find("use")}
    used |= set(re.findall(r"url\(#(.*?)\)", page.source))
    assert used <= set(names)
    labels = [element.attributes["aria-label"] for element in page.find("svg")]
    assert len(labels) == len(set(labels))
    for svg in re.findall(r"<svg.*?</svg>", page.source, re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}\b", svg)  # the page chooses every color
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
