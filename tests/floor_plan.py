"""Draw the floors of the package: python -m tests.floor_plan writes docs/images/floors.svg."""

from __future__ import annotations

from html import escape

from tests.conftest import ROOT
from tests.test_floors import FLOORS

FILE = ROOT / "docs/images/floors.svg"
WIDTH, HEIGHT, GAP, MARGIN = 720, 30, 4, 8
# First floor of each part of the house, from the ground up, with its color.
PARTS = {
    "errors": "#37474f",
    "masks": "#00695c",
    "builders": "#1565c0",
    "tuning": "#6a1b9a",
    "kaggle.image": "#ad1457",
    "runs": "#5d4037",
}


def drawing() -> str:
    """Return the SVG: the highest floor on top."""
    lines, color = [], ""
    total = len(FLOORS) * (HEIGHT + GAP) + 2 * MARGIN
    for number, rooms in enumerate(FLOORS):
        color = next((PARTS[room] for room in rooms if room in PARTS), color)
        y = total - MARGIN - (number + 1) * (HEIGHT + GAP) + GAP
        lines.append(f'<text x="{MARGIN + 18}" y="{y + 20}" text-anchor="end" fill="#808080">{number + 1}</text>')
        left, room_width = MARGIN + 28, (WIDTH - 2 * MARGIN - 28 + GAP) / len(rooms)
        for index, room in enumerate(rooms):
            x = left + index * room_width
            width = room_width - GAP
            size = 13 if len(rooms) < 7 else 9
            lines.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{HEIGHT}" rx="3" fill="{color}"/>')
            lines.append(
                f'<text x="{x + width / 2:.1f}" y="{y + 20}" text-anchor="middle" font-size="{size}" fill="#fff">'
                f"{escape(room)}</text>"
            )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" font-family="sans-serif"'
            ' font-size="13">',
            "<title>Floors of the package: a module imports only from floors below its own</title>",
            *lines,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")
