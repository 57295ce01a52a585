"""Pictures inside the page: figures as SVG in the colors of the page, images as WebP, all within a limit of bytes."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from gatemask.errors import GatemaskError
from gatemask.plots import style
from gatemask.report.markup import scroll_box, text

LIMIT = 8_000_000  # bytes of a page: mail and chat programs refuse larger files
FOR_IMAGES = 0.4  # share of a page that figures leave to the images of the gallery
FOR_TEXT = 300_000  # bytes that no picture takes: captions, style and script
# Figures are drawn black on white. Lines and text take the color of the page's text, others a color for each scheme.
COLORS = {
    "#000000": "currentColor",
    "#ffffff": "var(--page)",
    "#b0b0b0": "var(--line)",
    "#444444": "currentColor",
    style.BLUE.lower(): "var(--blue)",
    style.ORANGE.lower(): "var(--orange)",
    style.GREEN.lower(): "var(--green)",
    style.RED.lower(): "var(--red)",
    style.GRAY.lower(): "var(--soft)",
}


class Pictures:
    """The pictures of one page.

    Args:
        limit: Size of the page, in bytes. Default: LIMIT.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._for_images = round(FOR_IMAGES * limit)
        self._used, self._counted = FOR_TEXT, 0
        self.left_out: list[str] = []

    def plot(self, figure: Figure, alt: str, caption: str = "", wide: bool = False) -> str:
        """Return a figure as SVG whose text is text, with the page's colors.

        Args:
            figure: Figure of matplotlib.
            alt: What it shows, for those who do not see it.
            caption: Text below it. Default: none.
            wide: Whether it scrolls sideways on a phone, where its text would become too small. Default: False.
        """
        drawing = svg(figure, alt, f"plot{self.count()}-")
        if not self._take(len(drawing), caption or alt, self._for_images):
            return ""
        if wide:
            return f'<figure class="plot wide">{scroll_box(drawing, alt)}{_caption(caption)}</figure>'
        return f'<figure class="plot">{drawing}{_caption(caption)}</figure>'

    def file(self, path: Path, caption: str, alt: str = "") -> str:
        """Return a figure that another stage wrote as PNG.

        Args:
            path: The PNG.
            caption: Text below it.
            alt: What it shows. Default: the caption.

        Raises:
            GatemaskError: The file does not exist or is damaged.
        """
        if not path.is_file():
            raise GatemaskError("A figure is missing.", where=path, do="Delete result.json next to it and tune again.")
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise GatemaskError("A figure cannot be read.", where=path, do="Delete it and run its stage again.")
        source = webp(image, lossless=True)
        if not self._take(len(source), f"{caption} ({path.name})", self._for_images):
            return ""
        height, width = image.shape[:2]
        # Colors that mean a height keep their order in the dark; drawings of lines are turned light on dark.
        kind = "paper" if path.name.startswith("surface") else "paper drawing"
        shown = f'<img class="{kind}" alt="{text(alt or caption)}" width="{width}" height="{height}" src="{source}">'
        return f"<figure>{scroll_box(shown, caption)}{_caption(caption)}</figure>"

    def image(self, name: str, layers: Callable[[], Mapping[str, str]]) -> dict[str, str] | None:
        """Return the layers of an image of the gallery as data URIs; None where they do not fit any more.

        Args:
            name: Name of the image.
            layers: Makes the data URIs; not called once an image was too large.
        """
        if any(name.startswith("image ") for name in self.left_out):
            self.left_out.append(f"image {name}")
            return None
        made = dict(layers())
        return made if self._take(sum(map(len, made.values())), f"image {name}", 0) else None

    def settle(self, size: int) -> None:
        """Note the size of all sections but those of images, with their tables; images share the rest.

        Args:
            size: Size of these sections, in bytes.
        """
        self._used = size + FOR_TEXT

    def count(self) -> int:
        """Return a number for an id: 1, 2, 3 and so on."""
        self._counted += 1
        return self._counted

    def _take(self, size: int, name: str, reserve: int) -> bool:
        if self._used + size > self._limit - reserve:
            self.left_out.append(name)
            return False
        self._used += size
        return True


def _caption(caption: str) -> str:
    return f"<figcaption>{text(caption)}</figcaption>" if caption else ""


def webp(image: np.ndarray, lossless: bool = False, quality: int = 82) -> str:
    """Return an image as a data URI.

    Args:
        image: uint8 (height, width), or (height, width, 3 or 4) in OpenCV's order.
        lossless: Whether every pixel is kept. Default: False.
        quality: Quality of the compression, 1 to 100, where it is lossy. Default: 82.
    """
    encoded = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101 if lossless else quality])[1]
    return f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def svg(figure: Figure, alt: str, prefix: str = "") -> str:
    """Return a figure as an SVG element without styles of its own, in the colors of the page.

    Args:
        figure: Figure of matplotlib.
        alt: What it shows.
        prefix: Start of its ids, different for each figure of a page. Default: none.
    """
    buffer = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "gatemask", "path.simplify": True}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    for pattern in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<defs>\s*</defs>"):
        drawing = re.sub(pattern, "", drawing, flags=re.S)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    drawing = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", drawing)
    drawing = re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1]), drawing)
    for color, replacement in COLORS.items():
        drawing = re.sub(f'"{color}"', f'"{replacement}"', drawing, flags=re.I)
    drawing = re.sub(r">\s+<", "><", drawing)
    box = re.search(r'viewBox="([^"]*)"', drawing)
    start = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}"'  # type: ignore[index]
    return f'{start} role="img" aria-label="{text(alt)}">' + drawing[drawing.index(">") + 1 :].strip()


def _attributes(declarations: str) -> str:
    """Return CSS declarations as attributes of SVG; the page forbids inline styles, and it sets the font."""
    pairs = [part.split(":", 1) for part in declarations.split(";") if ":" in part]
    kept = [(name.strip(), value.strip()) for name, value in pairs if name.strip() != "font-family"]
    if not any(name == "fill" for name, _ in kept) and any(name == "font-size" for name, _ in kept):
        kept.append(("fill", "currentColor"))
    return "".join(f' {name}="{value}"' for name, value in kept)
