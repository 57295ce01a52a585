"""The report is one complete file that fetches nothing and escapes everything."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_hex

from gatemask.masks.rule import Rule
from gatemask.plots.gallery import GalleryImage, class_color, draw_gallery
from gatemask.project import Project
from gatemask.report.gallery import choose_images
from gatemask.report.page import _data, _figures, _legend, _members, band_text, rule_section
from gatemask.results.rules import RuleValues
from gatemask.results.tuning import CandidateSummary, ClassResult, FoldRule, TunedResult
from tests.conftest import Loop
from tests.fold_results import fold_result
from tests.oof.test_tables import random_problem
from tests.tuned_results import tuned_result


@pytest.fixture(scope="module")
def page(phantom_loop: Loop) -> str:
    return Path(phantom_loop.result["report"]).read_text()


class Balanced(HTMLParser):
    """A parser that rejects tags closed in the wrong order."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_all_sections_are_there(page: str) -> None:
    wanted = [
        "Rule",
        "Members",
        "Learning curves",
        "Thresholds",
        "Gate",
        "Masks",
        "Gallery",
        "Data",
        "Folds",
        "Submission",
    ]
    assert re.findall(r"<h2>(.*?)</h2>", page) == wanted
    assert page.count("<figure>") >= 9
    for word in ("ensitivity", "cross-fitted", "95 % from", "(shipped)", "all empty", "gate_r18", "unetpp_b0"):
        assert word in page


def test_it_is_well_formed_and_fetches_nothing(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|@import|<script|<link", page)


def test_its_pictures_decode(page: str) -> None:
    for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page):
        image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.std() > 1, "an empty picture"


def test_its_headline_is_the_cross_fitted_score(page: str, phantom_loop: Loop) -> None:
    tuned = json.loads((phantom_loop.runs / "tuned/result.json").read_text())
    assert re.search(r'class="card first"><b>([0-9.]+)<', page).group(1) == f"{tuned['cross_fitted']:.4f}"  # type: ignore[union-attr]


def test_members_used_as_trained_are_listed() -> None:
    runs = {("gate_b0", 0): fold_result()}
    section = _members(runs, ["gate_b0 fold 0: tta: <none>, now [hflip]"])
    assert "Used as trained, not as the YAMLs and data say now:" in section
    assert "<li>gate_b0 fold 0: tta: &lt;none&gt;, now [hflip]</li>" in section
    assert "as trained" not in _members(runs)


def test_reports_about_the_data_are_listed(page: str, phantom_loop: Loop) -> None:
    stamp = json.loads((phantom_loop.data / "manifest.json").read_text())
    for report in stamp["reports"]:
        assert f"<li>{html.escape(report)}</li>" in page
    assert _data(["5 of <9> images"]).endswith("<ul><li>5 of &lt;9&gt; images</li></ul>")
    assert "nothing unusual" in _data([])


def test_the_shipped_rule_comes_first() -> None:
    rule = RuleValues(gate=0.25, upper=0.5, lower=0.5, min_area=7)
    candidate = CandidateSummary(cross_fitted=0.8, in_sample=0.9, rule=rule)
    fold_rule = FoldRule(score=0.75, rule=rule.model_copy(update={"hysteresis": True}))
    tuned = tuned_result(
        candidates={"exact": candidate, "median": candidate.model_copy(update={"cross_fitted": 0.8125})},
        beside={"first <place>": candidate},
        shipped="median",
        rule=rule,
        per_fold={"2": fold_rule},
    )
    section = rule_section(tuned)
    first = re.findall(r"<tbody>|<tr><td>(.*?)</td>", section)
    assert first == ["", "median (shipped)", "exact (candidate)", "first &lt;place&gt; (beside)", "", "all but fold 2"]
    assert section.count("0.8125") == 1
    assert "<td>yes</td>" in section


def test_the_band_in_words() -> None:
    band = tuned_result().gate.band
    assert "one kind" in band_text(band)
    assert "between 0.2000 and 0.8000" in band_text(band.model_copy(update={"low": 0.8, "high": 0.2, "share": 0.0}))
    ends = {"low": 0.3, "high": 0.6, "share": 0.25, "images": 10, "positives": 4, "decided": 30, "missed": 1}
    text = band_text(band.model_copy(update={**ends, "false_alarms": 2, "sensitivity": 0.9, "specificity": None}))
    assert "10 images (25.0%), 4 of them" in text
    assert text.endswith(": sensitivity 0.9000 among them.")


def test_the_gallery_shows_best_typical_worst_and_alarms() -> None:
    tables, _, truths = random_problem(4, images=200)
    chosen = choose_images(tables, Rule(0.3, 0.5, 0.4, 2))
    positive = truths.any(axis=(1, 2))
    assert all(positive[chosen[kind]].all() for kind in ("Best", "Typical", "Nothing found, or in the wrong place"))
    assert not positive[chosen["False alarms"]].any()
    assert all(len(indices) <= 4 for indices in chosen.values())


def several_classes(own_gates: bool = False) -> TunedResult:
    """Return the result of tuning two classes."""
    rule = RuleValues(gate=0.5, upper=0.5, lower=0.5, min_area=1)
    scores = {"cross_fitted": 0.8, "ci95": (0.7, 0.9), "in_sample": 0.9, "all_empty": 0.5, "passing": 0.25}
    gate = {"gate": tuned_result().gate} if own_gates else {}
    classes = [
        ClassResult(name=name, positives=3, rule=rule.model_copy(update={"min_area": area}), **scores, **gate)
        for name, area in (("scratch", 11), ("<dent>", 222))
    ]
    both = [part.rule for part in classes]
    candidates = {"exact": CandidateSummary(cross_fitted=0.8, in_sample=0.9, rule=both)}
    per_fold = {"0": FoldRule(score=0.75, rule=both)}
    return tuned_result(rule=both, classes=classes, candidates=candidates, per_fold=per_fold)


def test_each_class_has_a_row_with_its_score_and_its_rule() -> None:
    section = rule_section(several_classes())
    Balanced().feed(section)
    for text in ("<td>scratch</td>", "&lt;dent&gt;", "0.7000 to 0.9000", "25.0%", "222", "all but fold 0"):
        assert text in section
    assert "split" not in section, "no rule splits objects"


def test_the_figures_of_each_class_stand_below_its_name(tmp_path: Path) -> None:
    project = Project(tmp_path, "tiles")
    project.tuned.mkdir(parents=True)
    together = ["gate", "confusion"]
    each = [f"{name}-{index}" for name in ("surface", "slices", "folds", "dice", *together) for index in range(2)]
    for name in [*together, *each]:
        (project.tuned / f"{name}.png").write_bytes(name.encode())
    for section, tuned, shown in (
        ("Thresholds", several_classes(), ["surface-0", "slices-0", "folds-0", "surface-1", "slices-1", "folds-1"]),
        ("Gate", several_classes(), together),
        ("Gate", several_classes(own_gates=True), ["gate-0", "confusion-0", "gate-1", "confusion-1"]),
        ("Masks", several_classes(), ["dice-0", "dice-1"]),
    ):
        text = _figures(project, tuned, section)
        found = [base64.b64decode(data).decode() for data in re.findall(r"base64,([^\"]+)", text)]
        assert found == shown
        names = [] if shown == together else ["scratch", "&lt;dent&gt;"]
        assert re.findall("<h3>(.*?)</h3>", text) == names


def test_classes_are_outlined_in_their_colors() -> None:
    masks = np.zeros((8, 8, 2), bool)
    masks[1:4, 1:4, 0] = masks[5:7, 5:7, 1] = True
    full_map = (masks * 200).astype(np.uint8)
    one = GalleryImage("a", np.full((8, 8), 128, np.uint8), masks, full_map, masks, 1.0, 0.5)
    truth, drawn, final = draw_gallery([one]).axes[4], draw_gallery([one]).axes[8], draw_gallery([one]).axes[12]
    for ax in (truth, final):
        colors = [to_hex(contour.get_edgecolor()[0]) for contour in ax.collections]
        assert colors == [class_color(0).lower(), class_color(1).lower()]
        assert "13 px" in ax.get_title()
    assert (drawn.images[0].get_array() == full_map.max(axis=2)).all()
    assert class_color(0) in _legend(["a", "<b>"])
    assert "&lt;b&gt;" in _legend(["a", "<b>"])
    assert _legend(["only"]) == ""
