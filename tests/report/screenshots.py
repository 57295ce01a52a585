"""Draw the pictures of README.md and docs/how_to/report.md: the report after one fold and of the whole demo; its runs.

make demo
make screenshots      docs/images/report-one-fold.jpg, docs/images/report-demo.jpg, docs/images/runs-demo.svg
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from PIL import Image

from gatemask.config import load_competition, load_ensemble
from gatemask.project import Project, open_project
from gatemask.report.inputs import Inputs
from gatemask.report.page import make_page
from gatemask.report.pictures import Pictures
from gatemask.runs.listing import list_runs
from gatemask.runs.printing import print_runs
from tests.report.browser import PHONE, Visit, find_chromium, open_browser
from tests.report.terminal import draw_terminal

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "images"
LIMIT = 200_000  # bytes of a picture
HEIGHT = 1500


def main() -> None:
    """Write the pictures."""
    demo = open_project("phantom")
    if not (demo.tuned / "result.json").exists():
        sys.exit("Run make demo first: the pictures show its runs.")
    draw_runs(demo)
    if find_chromium() is None:
        sys.exit("Install Chromium first, for example with apt-get install chromium.")
    with TemporaryDirectory() as name, open_browser() as browser:
        folder = Path(name)
        early = _write(_after_one_fold(demo, folder), folder / "early.html")
        whole = _write(demo, folder / "whole.html")
        _save([_shot(browser, early), _shot(browser, early, phone=True, at="#gallery")], "report-one-fold.jpg")
        _save(
            [_shot(browser, whole), _shot(browser, whole, phone=True, at="#worst", color_scheme="dark")],
            "report-demo.jpg",
        )


def draw_runs(demo: Project) -> None:
    """Draw the table of `make runs`."""
    runs = list_runs(demo, load_competition(demo.experiments), load_ensemble(demo.experiments))
    path = draw_terminal(lambda: print_runs(runs), PICTURES / "runs-demo.svg", "make runs COMP=phantom")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def _after_one_fold(demo: Project, folder: Path) -> Project:
    """Return a copy of the demo as it was when one fold was finished and the next one had begun."""
    project = replace(demo, root=folder)
    for name in ("experiments", "folds"):
        shutil.copytree(demo.root / name, folder / name)
    (folder / "data").symlink_to(demo.root / "data")
    name = load_ensemble(demo.experiments).mask.experiments[0]
    shutil.copytree(demo.fold(name, 0), project.fold(name, 0))
    training = project.fold(name, 1)
    training.mkdir()
    shutil.copy(demo.fold(name, 1) / "config.yaml", training)
    rows = (demo.fold(name, 1) / "metrics.jsonl").read_text().splitlines(keepends=True)
    (training / "metrics.jsonl").write_text("".join(rows[: max(1, len(rows) // 2)]))
    return project


def _write(project: Project, path: Path) -> Path:
    inputs = Inputs(project, load_competition(project.experiments), load_ensemble(project.experiments))
    path.write_text(make_page(inputs, Pictures())[0])
    return path


def _shot(browser: Browser, file: Path, phone: bool = False, at: str = "", **options: Any) -> Image.Image:
    """Return the screen: of a desktop from the top, or of a phone at a section."""
    if phone:
        options = {"viewport": {**PHONE, "height": HEIGHT}, "is_mobile": True, **options}
    else:
        options = {"viewport": {"width": 1180, "height": HEIGHT}, **options}
    with Visit(browser, file, **options) as visit:
        if at:
            visit.page.evaluate("(at) => document.querySelector(at).scrollIntoView({behavior: 'instant'})", at)
            visit.page.wait_for_timeout(200)
        return Image.open(BytesIO(visit.page.screenshot())).convert("RGB")


def _save(shots: list[Image.Image], name: str) -> None:
    """Write screens side by side, at the highest quality that stays within the limit."""
    gap = 24
    width = sum(shot.width for shot in shots) + gap * (len(shots) - 1)
    picture = Image.new("RGB", (width, HEIGHT), "#8a96a3")
    left = 0
    for shot in shots:
        picture.paste(shot, (left, 0))
        left += shot.width + gap
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / name
    for quality in range(85, 30, -5):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= LIMIT:
            break
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
