"""Schemas of the YAML documents, and errors that name file, line and nearest key.

The schemas of experiments, searches and dashboards are imported when they are first used: not every command needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from gatemask.config.base import Strict, both_sides
from gatemask.config.competition import (
    MANIFEST_COLUMNS,
    Competition,
    Extra,
    Folds,
    Groups,
    Kaggle,
    Objects,
    Phantom,
    Records,
)
from gatemask.config.encoder_info import EncoderInfo, EncoderPackage, Normalization, PublishedWeights
from gatemask.config.encoders import ENCODERS
from gatemask.config.ensemble import Ensemble, Inference, Members, Tune, Variant
from gatemask.config.images import ChannelFiles, Images, Percentiles, Picture, Stack, TestImages, Tiles
from gatemask.config.labels import Labels, PngLabels, Rle, RleLabels
from gatemask.config.loading import (
    load_competition,
    load_dashboard,
    load_ensemble,
    load_experiment,
    load_run_config,
    load_source,
    read_experiment,
    validate_experiment,
)
from gatemask.config.names import (
    COUNTED_METRICS,
    CROSS_ENTROPIES,
    GATE_LOSSES,
    LOSS_OPTIONS,
    METRIC_TITLES,
    OBJECT_METRICS,
    Architecture,
    Encoder,
    LossName,
    OptimizerName,
    ScheduleName,
    metric_title,
)
from gatemask.config.submission import Archive, SubmissionSettings

if TYPE_CHECKING:
    from gatemask.config.dashboard import Dashboard, Panel, Section
    from gatemask.config.experiment import (
        Affine,
        Augment,
        Batch,
        Blur,
        Checkpoints,
        Clahe,
        CopyPaste,
        Data,
        Distortion,
        Dropout,
        Experiment,
        ExtraImages,
        Freeze,
        Input,
        Jpeg,
        LossPart,
        Mix,
        Model,
        Noise,
        Optimizer,
        Runtime,
        Sampling,
        Schedule,
        Tracking,
        View,
        ZoomToMask,
        encoder_in_name,
    )
    from gatemask.config.search import Pruner, Range, Search
    from gatemask.config.sources import Source

__all__ = [
    "COUNTED_METRICS",
    "CROSS_ENTROPIES",
    "ENCODERS",
    "GATE_LOSSES",
    "LOSS_OPTIONS",
    "MANIFEST_COLUMNS",
    "METRIC_TITLES",
    "OBJECT_METRICS",
    "Affine",
    "Architecture",
    "Archive",
    "Augment",
    "Batch",
    "Blur",
    "ChannelFiles",
    "Checkpoints",
    "Clahe",
    "Competition",
    "CopyPaste",
    "Dashboard",
    "Data",
    "Distortion",
    "Dropout",
    "Encoder",
    "EncoderInfo",
    "EncoderPackage",
    "Ensemble",
    "Experiment",
    "Extra",
    "ExtraImages",
    "Folds",
    "Freeze",
    "Groups",
    "Images",
    "Inference",
    "Input",
    "Jpeg",
    "Kaggle",
    "Labels",
    "LossName",
    "LossPart",
    "Members",
    "Mix",
    "Model",
    "Noise",
    "Normalization",
    "Objects",
    "Optimizer",
    "OptimizerName",
    "Panel",
    "Percentiles",
    "Phantom",
    "Picture",
    "PngLabels",
    "Pruner",
    "PublishedWeights",
    "Range",
    "Records",
    "Rle",
    "RleLabels",
    "Runtime",
    "Sampling",
    "Schedule",
    "ScheduleName",
    "Search",
    "Section",
    "Source",
    "Stack",
    "Strict",
    "SubmissionSettings",
    "TestImages",
    "Tiles",
    "Tracking",
    "Tune",
    "Variant",
    "View",
    "ZoomToMask",
    "both_sides",
    "encoder_in_name",
    "load_competition",
    "load_dashboard",
    "load_ensemble",
    "load_experiment",
    "load_run_config",
    "load_source",
    "metric_title",
    "read_experiment",
    "validate_experiment",
]

_IMPORTED_LATER = ("experiment", "search", "dashboard", "sources")


def __getattr__(name: str) -> object:
    if name in __all__:
        for module in _IMPORTED_LATER:
            values = vars(import_module(f"gatemask.config.{module}"))
            if name in values:
                globals()[name] = values[name]
                return values[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
