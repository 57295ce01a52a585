"""Keys of experiments/<comp>/sources/<name>.yaml: labeled images from elsewhere, which are only trained on."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from gatemask.config.base import Count, Pair, Positive, Strict
from gatemask.config.competition import Competition, Groups
from gatemask.config.images import Images, Percentiles
from gatemask.config.labels import Labels
from gatemask.errors import GatemaskError

LONGEST_NAME = 60  # characters: names of datasets on Kaggle contain it


class SourceImages(Strict):
    """How the images of a source differ from those of the competition."""

    size: Annotated[tuple[Count, Count], Pair] | Literal["mixed"] = Field(
        "mixed", description="height and width of every image, in pixels, or 'mixed' if they differ"
    )
    window: Literal["full", "file"] | Annotated[tuple[float, Positive], Pair] | Percentiles | None = Field(
        None, description="as image.window of competition.yaml; default: the competition's"
    )
    orientation: Literal["stored", "upright"] | None = Field(
        None, description="as image.orientation of competition.yaml; default: the competition's"
    )


class Source(Strict):
    """Labeled images beside those of the competition, with the keys of competition.yaml."""

    raw: str = Field(description="folder of the raw files, absolute or below the project")
    train: Images
    labels: Labels
    image: SourceImages = SourceImages()
    groups: Groups | None = Field(
        None,
        description="groups of its images, such as patients: an image whose group has the name of a group of the "
        "competition is treated like a copy of that group's images; default: no image has a group",
    )


def source_name_fault(name: str) -> str | None:
    """Return why a source cannot have this name, with a way out; None if it can."""
    if re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) and len(name) <= LONGEST_NAME:
        return None
    return (
        f"'{name[:LONGEST_NAME]}' cannot name a source: names are lowercase letters, digits and hyphens, "
        f"{LONGEST_NAME} characters at most"
    )


def source_competition(comp: Competition, source: Source, where: object, same_planes: bool = True) -> Competition:
    """Return the competition whose images are those of a source: same classes, channels, tiles and records.

    Args:
        comp: competition.yaml.
        source: Keys of the source.
        where: The YAML of the source, for errors.
        same_planes: Whether its masks must have the planes of the competition's. Default: True.

    Raises:
        GatemaskError: The source does not fit the competition.
    """
    values = comp.model_dump(mode="json", exclude_none=True, exclude={"test", "extra", "phantom", "quick"})
    image = source.image.model_dump(mode="json", exclude_none=True)
    groups = {"duplicates": "ignore"} if source.groups is None else source.groups.model_dump(mode="json")
    values["submission"].pop("sample", None)
    values |= {
        "raw": source.raw,
        "image": {**values["image"], **image},
        "train": source.train.model_dump(mode="json", exclude_none=True),
        "labels": source.labels.model_dump(mode="json", exclude_none=True),
        "groups": {key: value for key, value in groups.items() if value is not None},
        "folds": {"holdout": True},
    }
    try:
        made = Competition.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise GatemaskError(
            "A source does not fit its competition.",
            where=where,
            received=f"{'.'.join(map(str, first['loc'])) or 'keys together'}: {first['msg']}",
            expected="images and labels of the competition's kind: the same classes, channels and planes",
            do="Correct the source.",
        ) from None
    if same_planes and made.planes != comp.planes:
        raise GatemaskError(
            "The masks of a source have other planes than those of its competition.",
            where=where,
            received="labels with pixels to ignore" if made.has_ignored else "labels without 'ignore'",
            expected="labels.ignore where the competition has it, and only there",
            do="Set or remove labels.ignore.",
        )
    return made
