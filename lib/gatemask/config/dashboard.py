"""Keys of dashboard.yaml, which describes the workspace and the report on W&B, with their defaults."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gatemask.config.base import Count, Share, Strict

KINDS = ("line", "bar", "scalar", "media", "table", "runs")
OPTIONS = {"log": ("line",), "smoothing": ("line",), "x": ("line",), "group": ("line", "bar"), "columns": ("media",)}
Metrics = Annotated[list[str], Field(min_length=1)]


class Panel(Strict):
    """A panel of one kind, such as {line: [loss, val_loss]}."""

    line: Metrics | None = Field(None, description="metrics over the epochs")
    bar: Metrics | None = Field(None, description="last values of metrics, one bar per run")
    scalar: str | None = Field(None, description="best value of a metric among the runs")
    media: Metrics | None = Field(None, description="keys of images: overlays, or figures/NAME")
    table: str | None = Field(None, description="key of a table: per_image, or tables/NAME")
    runs: bool = Field(False, description="true: a comparison of the runs' settings")
    title: str | None = Field(None, description="default: as W&B names it")
    x: str = Field("epoch", description="metric of the horizontal axis")
    log: bool = Field(False, description="logarithmic vertical axis")
    smoothing: Share = Field(0.0, description="weight of earlier epochs in a running mean")
    group: bool = Field(True, description="one line or bar per experiment: the mean of its folds, with their range")
    columns: Annotated[Count, Field(le=12)] = Field(3, description="images in a row")

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind))

    @model_validator(mode="after")
    def _one_kind(self) -> Panel:
        kinds = [kind for kind in KINDS if getattr(self, kind)]
        if len(kinds) != 1:
            received = " and ".join(kinds) or "none of them"
            raise ValueError(f"a panel needs one of {', '.join(KINDS)}, but has {received}")
        for option, belongs in OPTIONS.items():
            if getattr(self, option) != type(self).model_fields[option].default and kinds[0] not in belongs:
                raise ValueError(f"'{option}' belongs to panels of {' or '.join(belongs)}, not of {kinds[0]}")
        return self


class Section(Strict):
    name: str = Field(min_length=1)
    panels: list[Panel] = Field(min_length=1)
    open: bool = Field(True, description="false: collapsed at first")
    text: str = Field("", description="introduction in the report, in Markdown")


class DashboardReport(Strict):
    title: str | None = Field(None, description="default: the competition's title")
    text: str = Field("", description="first paragraph, in Markdown")


def _default_sections() -> list[Section]:
    """Return sections for what gatemask sends: results, curves, images, figures, speed, settings."""
    figures = ["figures/surface", "figures/slices", "figures/gate", "figures/confusion", "figures/folds"]
    described: list[dict[str, object]] = [
        {
            "name": "Results",
            "text": "The cross-fitted score is the one to trust: each fold is scored by a rule tuned on the others.",
            "panels": [
                {"scalar": "cross_fitted", "title": "Cross-fitted score"},
                {"bar": ["cross_fitted", "in_sample", "all_empty"], "title": "Local scores", "group": False},
                {"bar": ["public", "private"], "title": "Leaderboard", "group": False},
                {"table": "tables/members", "title": "Members"},
            ],
        },
        {
            "name": "Experiments",
            "text": "Each line is the mean over the folds of an experiment, with their range.",
            "panels": [
                {"bar": ["best"], "title": "Best score"},
                {"line": ["val_loss"], "title": "Validation loss"},
                {"line": ["dice", "dice_positives"], "title": "Masks: Dice at the best threshold"},
                {"line": ["auc"], "title": "Gates: area under the ROC curve"},
                {"line": ["threshold"], "title": "Best threshold"},
                {"line": ["learning_rate"], "title": "Learning rate"},
            ],
        },
        {
            "name": "Validation images",
            "text": "Truth and prediction of the best, typical and worst images of each fold.",
            "panels": [{"media": ["overlays"], "columns": 6}, {"table": "per_image", "title": "Every image"}],
        },
        {"name": "Rule", "panels": [{"media": figures, "columns": 2, "title": "How the rule was tuned"}]},
        {
            "name": "Speed",
            "open": False,
            "panels": [{"line": [name]} for name in ("images_per_s", "input_wait", "memory_mb", "seconds")],
        },
        {"name": "Settings", "open": False, "panels": [{"runs": True}]},
    ]
    return [Section.model_validate(section) for section in described]


class Dashboard(Strict):
    title: str | None = Field(None, description="name of the workspace; default: the competition's title")
    pinned: list[str] = Field(["best", "cross_fitted"], description="numbers shown next to the names of runs")
    sections: list[Section] = Field(default_factory=_default_sections, min_length=1)
    report: DashboardReport = DashboardReport()
