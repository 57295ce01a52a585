"""`gatemask report`: one self-contained HTML file, from the first epoch on.

runs/<comp>/report/report.html
runs/<comp>/report/result.json   written last

A section appears as soon as its data exist. Until then it says in one line which command makes it, and what is damaged
is listed at the top: no state of the runs makes this stage fail.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gatemask.config import Competition, Ensemble
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, write_text
from gatemask.project import Project
from gatemask.report import markup
from gatemask.report.inputs import Inputs, NotYet
from gatemask.report.pictures import Pictures
from gatemask.report.sections import (
    curves,
    ensemble,
    experiments,
    folds,
    gallery,
    gate,
    headline,
    leaderboard,
    submission,
    tuning,
    worst,
)
from gatemask.results.report import ReportResult
from gatemask.stage import Stage

FOLDER = Path(__file__).parent
Body = Callable[[Inputs, Pictures], str]


class Section(NamedTuple):
    """A section of the page.

    Args:
        anchor: Its id.
        title: Its heading.
        body: Makes its HTML.
        images: Whether it fills what the other sections leave of the page's size. Default: False.
    """

    anchor: str
    title: str
    body: Body
    images: bool = False


class Made(NamedTuple):
    """A section as HTML, and whether its data exist."""

    section: Section
    html: str
    ready: bool


SECTIONS = [
    Section("experiments", "Experiments", experiments.body),
    Section("folds", "Folds and leaks", folds.body),
    Section("curves", "Curves", curves.body),
    Section("tuning", "Tuning", tuning.body),
    Section("gate", "Gate", gate.body),
    Section("ensemble", "Ensemble", ensemble.body),
    Section("gallery", "Gallery", gallery.body, images=True),
    Section("worst", "Worst cases", worst.body, images=True),
    Section("leaderboard", "Leaderboard", leaderboard.body),
    Section("submission", "Submission", submission.body),
]


def write_report(project: Project, comp: Competition, ensemble: Ensemble) -> ReportResult:
    """Write the page from whatever the other stages have left on disk.

    Args:
        project: Project folders.
        comp: competition.yaml.
        ensemble: ensemble.yaml.

    Raises:
        GatemaskError: Another process is writing the report, or the disk is full.
    """
    inputs = Inputs(project, comp, ensemble)
    made_from = {**inputs.made_from(), "look": fingerprint([_style(), _script(), len(SECTIONS)])}
    stage = Stage("report", project.runs / "report" / "result.json", made_from, ReportResult)
    _forget_damaged(stage.stamp)

    def work() -> tuple[ReportResult, list[Path]]:
        pictures = Pictures()
        page, missing = make_page(inputs, pictures)
        output = write_text(stage.stamp.with_name("report.html"), page)
        return (
            ReportResult(
                report=str(output),
                megabytes=round(output.stat().st_size / 1e6, 2),
                missing=missing,
                left_out=len(pictures.left_out),
                problems=inputs.problems.found,
            ),
            [output],
        )

    result = stage.run(work)
    for problem in result.problems[: markup.LINES]:
        say(f"report: {problem}")
    if len(result.problems) > markup.LINES:
        say(f"report: {len(result.problems) - markup.LINES} more problems")
    return result


def _forget_damaged(stamp: Path) -> None:
    """Delete the stamp of a page that lists problems: a repaired file need not change what the stamp records."""
    with suppress(GatemaskError, OSError):
        if stamp.exists() and ReportResult.load(stamp).problems:
            stamp.unlink()


def make_page(inputs: Inputs, pictures: Pictures) -> tuple[str, list[str]]:
    """Return the page, and the titles of the sections that cannot be made yet."""
    made: dict[str, Made] = {}
    for images in (False, True):
        for section in SECTIONS:
            if section.images == images:
                made[section.anchor] = _make(section, inputs, pictures)
        if not images:
            pictures.settle(sum(len(each.html.encode()) for each in made.values()))
    ordered = [made[section.anchor] for section in SECTIONS]
    head = inputs.problems.guard("head of the page", lambda: headline.body(inputs), f"<h1>{inputs.project.label}</h1>")
    found = inputs.problems.found
    damaged = (
        markup.warning("Some files are damaged or missing, and what they hold is left out:", found) if found else ""
    )
    header = f"<header>{head}{damaged}</header>"
    main = f'<main id="content">{"".join(_html(each) for each in ordered)}</main>'
    page = _document(inputs, _navigation(ordered) + header + main + _footer(inputs, pictures))
    return page, [each.section.title for each in ordered if not each.ready]


def _make(section: Section, inputs: Inputs, pictures: Pictures) -> Made:
    """Return a section, or one line on what it needs; a fault inside it is noted and leaves the others alone."""
    try:
        return Made(section, section.body(inputs, pictures), True)
    except NotYet as missing:
        return Made(section, markup.note(str(missing)), False)
    except Exception as error:  # a page about damaged files must not be stopped by them
        inputs.problems.add(error, section.title)
        return Made(section, markup.note("This section cannot be made; the problems at the top say why."), False)


def _html(made: Made) -> str:
    anchor = made.section.anchor
    heading = f'<h2 id="{anchor}-title">{markup.text(made.section.title)}</h2>'
    return f'<section id="{anchor}" aria-labelledby="{anchor}-title">{heading}{made.html}</section>\n'


def _navigation(sections: list[Made]) -> str:
    links = ""
    for each in sections:
        kind = "" if each.ready else ' class="later"'
        links += f'<li><a href="#{each.section.anchor}"{kind}>{markup.text(each.section.title)}</a></li>'
    return f'<a class="skip" href="#content">Skip to the content</a><nav aria-label="Sections"><ol>{links}</ol></nav>\n'


def _footer(inputs: Inputs, pictures: Pictures) -> str:
    written = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    text = f"Written {written} UTC by {inputs.command('report')}; run it again whenever something has changed."
    left = ""
    if pictures.left_out:
        count = len(pictures.left_out)
        left = markup.note(
            f"{count} pictures are left out to keep this page below 8 MB: {', '.join(pictures.left_out[:8])}."
        )
    return f"<footer><section>{left}{markup.paragraph(text)}</section></footer>"


def _document(inputs: Inputs, body: str) -> str:
    title = markup.text(inputs.comp.title + (" (quick try)" if inputs.project.quick else ""))
    style, script = _style(), _script()
    # Nothing is fetched, and nothing runs but the script below: a browser that knows this policy enforces it.
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; base-uri 'none'"
    )
    meta = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
    )
    head = f"<head>{meta}<title>{title}</title><style>{style}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n<script>{script}</script>\n</body></html>\n'


def _source(text: str) -> str:
    """Return the hash by which a policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _style() -> str:
    return (FOLDER / "style.css").read_text(encoding="utf-8")


def _script() -> str:
    return (FOLDER / "script.js").read_text(encoding="utf-8")


def print_report(result: ReportResult) -> None:
    """Print where the page is, and what it lacks."""
    if result.current:
        say("Current: nothing to do.")
    say(f"report: {result.report} ({result.megabytes} MB)")
    if result.missing:
        say(f"not yet: {', '.join(result.missing)}")
    if result.left_out:
        say(f"left out to stay below 8 MB: {result.left_out} pictures")
