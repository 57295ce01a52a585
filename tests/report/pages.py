"""A parser of pages that rejects what is not well-formed, and collects what tests look at."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = frozenset({"meta", "img", "br", "link", "input"})


class Page(HTMLParser):
    """Tags must be closed in order. Collects ids, pictures, and the text of each section by its id."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.inline: list[str] = []
        self.sections: dict[str, str] = {}
        self._section = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "section":
            self._section = given.get("id") or "footer"
        if tag == "img" or (tag == "svg" and given.get("role") == "img") or given.get("role") == "img":
            self.pictures.append(given)
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] = self.sections.get(self._section, "") + data
