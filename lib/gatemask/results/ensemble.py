"""The shipped ensemble (ensemble.yaml, read by the offline kernel) and the result of `gatemask ensemble`.

Imports only packages of Kaggle's image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, JsonValue, ValidationError, field_serializer

from gatemask.config import (
    Augment,
    ChannelFiles,
    Competition,
    Images,
    Inference,
    Model,
    Objects,
    Picture,
    Stack,
    SubmissionSettings,
    Tiles,
    View,
)
from gatemask.config.base import Strict, both_sides
from gatemask.errors import GatemaskError
from gatemask.files import read_yaml, write_yaml
from gatemask.results.rules import ClassRules, Frozen, RuleValues
from gatemask.results.tuning import BestMember, Selections
from gatemask.stage import StageResult


class CompetitionFacts(Frozen):
    """What the offline kernel must know about the competition.

    Args:
        name: Name of the competition's folder.
        image: Size, channels and gray levels of the images.
        test_images: Glob of the test images below the raw folder.
        test_id: How the path of a test image becomes an id; see `id` in competition.yaml. Default: its file name.
        classes: Names of the classes.
        exclusive: Whether a pixel belongs to at most one class. Default: False.
        submission: Format of the submission.
        records: Height and width of the records, for the frame of images that are not stretched. Default: none.
        tiles: How large images are cut. Default: not at all.
        sources: Files of each image, where there are several. Default: one of all channels.
        stack: Neighboring slices as channels. Default: none.
        objects: How objects are separated, where the competition lists or scores them. Default: not at all.
    """

    name: str
    image: Picture
    test_images: str
    classes: list[str]
    submission: SubmissionSettings
    test_id: str | None = None
    exclusive: bool = False
    records: tuple[int, int] | None = None
    tiles: Tiles | None = None
    sources: list[ChannelFiles] | None = None
    stack: Stack | None = None
    objects: Objects | None = None

    @classmethod
    def of(cls, comp: Competition) -> Self:
        """Return the facts of a competition; those that few competitions need only where they do."""
        test = comp.test or comp.train
        needed: dict[str, object] = {
            "records": comp.records.shape if comp.image.fit != "stretch" else None,
            "tiles": comp.tiles,
            "sources": test.sources if len(test.sources) > 1 or test.sources[0].channels != 1 else None,
            "stack": test.stack,
            "objects": comp.objects,
        }
        return cls(
            name=comp.name,
            image=comp.image,
            test_images=test.pattern,
            test_id=test.id,
            classes=comp.classes,
            exclusive=comp.exclusive,
            submission=comp.submission,
            **{name: value for name, value in needed.items() if value is not None},
        )

    @property
    def images(self) -> Images:
        """Section `test` of competition.yaml: the files of each test image."""
        several: dict[str, str | ChannelFiles] = {str(place): part for place, part in enumerate(self.sources or ())}
        return Images(images=several or self.test_images, stack=self.stack, id=self.test_id)

    @property
    def outputs(self) -> int:
        """Number of maps of a mask network: one per class, and one for borders between objects."""
        return len(self.classes) + (self.objects is not None and self.objects.border)

    @field_serializer("image", "submission", "tiles", "stack", "objects")
    def _section_as_written(self, section: Strict | None) -> dict[str, JsonValue] | None:
        return None if section is None else section.model_dump(mode="json")

    @field_serializer("sources")
    def _sources_as_written(self, sources: list[ChannelFiles] | None) -> list[dict[str, JsonValue]] | None:
        return None if sources is None else [source.model_dump(mode="json") for source in sources]


class ShippedScore(Frozen):
    """Scores of the tuned rule.

    Args:
        by_class: Cross-fitted score of each class, where there are several.
    """

    cross_fitted: float
    in_sample: float
    all_empty: float
    by_class: dict[str, float] = Field(default_factory=dict)


class SelectionSummary(Frozen):
    """A greedy selection in short; see `gatemask.results.tuning.MemberSelection`.

    Args:
        path: Experiment and score of each round that is kept.
    """

    path: list[str]
    score: float
    nested: float
    equal: float
    best_member: BestMember
    left_out: dict[str, str]


class SelectionSummaries(Frozen):
    """Greedy selections in short; None where there was none."""

    mask: SelectionSummary | None = None
    gate: SelectionSummary | None = None


class ShippedMember(Frozen):
    """A trained run in the ensemble.

    Args:
        name: `<experiment>-fold<fold>`; its weights are `<name>.weights.h5`.
        experiment: Name of the experiment.
        fold: Fold on which it was validated.
        weight: Share in the average. Default: 1.
        score: Validation score of the fold.
        why: Why it is shipped.
        seconds_per_image: Predicted time per image, all views included.
        sha256: Hash of the weights.
        task: Whether it is a gate or a mask network.
        size: Input size: a side, or height and width, in pixels.
        records: Size of the records it was trained on: a side, or height and width, in pixels.
        tta: Test-time views in addition to the original image.
        augment: Steps from which random views are drawn.
        model: Structure of the network.
        tile: Side of the tiles by which it predicts its input, in pixels; None for the whole input at once.
        view_weights: Weights of the image as it is and of the views, where they differ.
    """

    name: str
    experiment: str
    fold: int
    weight: float = 1.0
    score: float | None = None
    why: str = ""
    seconds_per_image: float | None = None
    sha256: str = ""
    task: Literal["gate", "mask"]
    size: int | tuple[int, int]
    records: int | tuple[int, int]
    tta: list[View] = Field(default_factory=list)
    augment: list[Augment] = Field(default_factory=list)
    model: Model
    tile: int | None = None
    view_weights: list[float] | None = None

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of its input, in pixels."""
        return both_sides(self.size)

    @property
    def records_shape(self) -> tuple[int, int]:
        """Height and width of the records it was trained on, in pixels."""
        return both_sides(self.records)

    @field_serializer("tta")
    def _tta_as_written(self, views: list[View]) -> list[dict[str, JsonValue]]:
        return [view.model_dump(mode="json", exclude_defaults=True) for view in views]

    @field_serializer("augment")
    def _augment_as_written(self, steps: list[Augment]) -> list[dict[str, JsonValue]]:
        return [step.model_dump(mode="json", exclude_none=True) for step in steps]

    @field_serializer("model")
    def _model_as_written(self, model: Model) -> dict[str, JsonValue]:
        return model.model_dump(mode="json")


class ShippedEnsemble(Frozen):
    """Contents of ensemble.yaml: members, rule, and the facts inference needs.

    Args:
        competition: Facts of the competition.
        score: Scores of the tuned rule.
        selection: Greedy selections in short.
        rule: Decision rule, or one per class.
        passing_share: Share of images that passed the gate in tuning. Default: 0.5.
        gate: Gates, most important first.
        mask: Mask networks, most important first.
        inference: How the kernel runs; added by `gatemask package`.
        as_trained: How members differ from the YAMLs and data at the time they were chosen, one text per fold; empty
            where they do not.
    """

    competition: CompetitionFacts
    score: ShippedScore | None = None
    selection: SelectionSummaries = SelectionSummaries()
    rule: ClassRules
    passing_share: float = 0.5
    gate: list[ShippedMember]
    mask: list[ShippedMember]
    inference: Inference | None = None
    as_trained: list[str] = Field(default_factory=list)

    @field_serializer("inference")
    def _inference_as_written(self, settings: Inference | None) -> dict[str, JsonValue] | None:
        return None if settings is None else settings.model_dump(mode="json")

    @property
    def members(self) -> list[ShippedMember]:
        """All members, gates first."""
        return [*self.gate, *self.mask]

    @property
    def class_rules(self) -> list[RuleValues]:
        """One rule per class."""
        if isinstance(self.rule, list):
            return self.rule
        return [self.rule] * len(self.competition.classes)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ensemble.yaml.

        Raises:
            GatemaskError: The file cannot be read, or does not describe an ensemble.
        """
        try:
            return cls.model_validate(read_yaml(path))
        except ValidationError as error:
            first = error.errors()[0]
            received = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        except (OSError, UnicodeDecodeError) as error:
            received = " ".join(str(error).split())
        except GatemaskError as error:  # not YAML
            received = f"{error.what} {error.details['received']} in {error.details['where']}"
        raise GatemaskError(
            "This file does not describe an ensemble.",
            where=path,
            received=received,
            do="Run gatemask ensemble and gatemask package again.",
        )

    def save(self, path: Path) -> Path:
        """Write ensemble.yaml atomically. Optional fields that were never set are left out."""
        return write_yaml(path, self.model_dump(mode="json", exclude_unset=True))


class EnsembleResult(StageResult):
    """Result of `gatemask ensemble`.

    Args:
        gates: Number of gates.
        masks: Number of mask networks.
        cross_fitted: Cross-fitted score of the tuned rule.
        by_class: The same of each class, where there are several.
        members: Names of the members, gates first.
        weights: Weight of each member.
        why: Why each member is shipped.
        selection: Greedy selections.
        test_images: Number of images in the hidden test set.
        predicted_minutes: Predicted duration of the kernel, without reading images.
        as_trained: How members differ from the present YAMLs and data, one text per fold.
        ci95: 95 % interval of the cross-fitted score.
    """

    gates: int
    masks: int
    cross_fitted: float
    members: list[str]
    weights: dict[str, float]
    why: dict[str, str]
    selection: Selections
    test_images: int
    predicted_minutes: float
    by_class: dict[str, float] = Field(default_factory=dict)
    as_trained: list[str] = Field(default_factory=list)
    ci95: tuple[float, float] | None = None
