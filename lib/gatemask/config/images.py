"""Keys of competition.yaml about images: where they are, how large, how they become the networks' input."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from gatemask.config.base import Count, Natural, NotBool, Pair, Positive, Size, Strict
from gatemask.config.labels import Labels
from gatemask.config.path_patterns import part_names


class ChannelFiles(Strict):
    """Files of one or three channels of each image. A bare pattern means files of one channel."""

    files: str = Field(description="glob below the raw folder, with the same named parts as the first pattern")
    channels: Annotated[Literal[1, 3], NotBool] = 1


class Stack(Strict):
    """Neighboring slices or frames as channels (2.5D). At the ends, the outermost slice is repeated."""

    by: str = Field(
        description="named part of the images' pattern that numbers the slices; the other parts name the volume"
    )
    around: Count = Field(1, description="slices before, and after, the image's own: 2 gives 5 channels")
    step: Count = Field(1, description="distance of the slices")


class Tiles(Strict):
    """Cut large images into overlapping tiles; maps of tiles are blended, and rules work on whole images."""

    size: Size = Field(512, description="side of a tile, in pixels after scaling")
    overlap: Natural = Field(64, description="pixels that neighboring tiles share")
    scale: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="factor by which images are first reduced")

    @model_validator(mode="after")
    def _overlap_below_half(self) -> Tiles:
        if 2 * self.overlap > self.size:
            raise ValueError(f"tiles.overlap must be at most half of tiles.size, {self.size // 2}, not {self.overlap}")
        return self


class Percentiles(Strict):
    """Gray levels by percentiles of the image's own pixels."""

    percentiles: Annotated[tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]], Pair]

    @model_validator(mode="after")
    def _ascends(self) -> Percentiles:
        low, high = self.percentiles
        if low >= high:
            raise ValueError(f"percentiles must ascend, such as [1, 99], not [{low}, {high}]")
        return self


class Images(Strict):
    images: str | dict[str, str | ChannelFiles] = Field(
        description="glob below the raw folder; {name} matches like *, and names a part of the path for 'id'. Several "
        "files per image: a glob for each, by name, in the order of the channels"
    )
    stack: Stack | None = Field(None, description="neighboring slices or frames as channels")
    id: str | None = Field(
        None,
        description="how a path becomes an id: a template such as '{case}_{slice}' of named parts and {stem}, or a "
        "regular expression for the path, whose parentheses are joined by _; default: {id} if 'images' names it, "
        "otherwise the file's name without its extension",
    )

    @property
    def sources(self) -> list[ChannelFiles]:
        """Files of each image, in the order of the channels."""
        patterns = [self.images] if isinstance(self.images, str) else list(self.images.values())
        return [ChannelFiles(files=part) if isinstance(part, str) else part for part in patterns]

    @property
    def pattern(self) -> str:
        """Glob of the images; of several files per image, the first, which names the image."""
        return self.sources[0].files

    @model_validator(mode="after")
    def _files_of_one_image(self) -> Images:
        if isinstance(self.images, str):
            return self
        if not self.images:
            raise ValueError("'images' names no file")
        first, *others = self.sources
        for other in others:
            if set(part_names(other.files)) != set(part_names(first.files)) or not part_names(first.files):
                raise ValueError(
                    f"the patterns of 'images' must name the same parts, such as {{id}}: '{other.files}' and "
                    f"'{first.files}' do not"
                )
        return self

    @model_validator(mode="after")
    def _stack_of_known_part(self) -> Images:
        if self.stack is None:
            return self
        if not isinstance(self.images, str):
            raise ValueError("'stack' and several files per image cannot be combined")
        if self.stack.by not in part_names(self.images):
            raise ValueError(f"stack.by names {{{self.stack.by}}}, which is not a part of '{self.images}'")
        return self

    @model_validator(mode="after")
    def _id_of_known_parts(self) -> Images:
        names = part_names(self.pattern)
        if self.id is None:
            if names and "id" not in names:
                raise ValueError(
                    f"'images' names {{{names[0]}}}, so 'id' must be set, e.g. id: '{{{'}_{'.join(names)}}}'"
                )
        elif "(" in self.id:
            try:
                compiled = re.compile(self.id)
            except re.error as error:
                raise ValueError(f"id is not a regular expression: {error}") from None
            if not compiled.groups:
                raise ValueError("id has no parenthesis that captures: write e.g. '(case[0-9]+)/(slice_[0-9]+)'")
        else:
            parts = part_names(self.id)
            if unknown := [name for name in parts if name not in (*names, "stem")]:
                known = ", ".join(f"{{{name}}}" for name in (*names, "stem"))
                raise ValueError(f"id names {{{unknown[0]}}}, but 'images' has only {known}")
            if not parts:
                raise ValueError("id needs named parts such as {case}, or a regular expression with a parenthesis")
            if "/" in self.id:
                raise ValueError(f"an id has no slash: write '{self.id.replace('/', '_')}'; cells with folders fit too")
        return self


class TestImages(Images):
    labels: Labels | None = Field(
        None, description="test labels where they are available: for phantoms, or after the deadline"
    )


class Picture(Strict):
    size: Annotated[tuple[Count, Count], Pair] | Literal["mixed"] = Field(
        description="height and width of every image, or 'mixed' if they differ"
    )
    scoring_size: Annotated[tuple[Count, Count], Pair] | None = Field(
        None, description="height and width at which the competition scores; default: each image's own size"
    )
    fit: Literal["stretch", "pad", "crop"] = Field(
        "stretch",
        description="how images of another aspect ratio become the networks' input: stretched; reduced as a whole, "
        "with black borders; or reduced until they cover it, without what lies beyond",
    )
    channels: Annotated[int, Field(ge=1, le=64), NotBool] = 1
    window: Literal["full", "file"] | Annotated[tuple[float, Positive], Pair] | Percentiles = Field(
        "full",
        description="gray levels mapped to 0 to 1: the full range of the file's bits; the DICOM's own VOI LUT or "
        "window; [center, width] in rescaled units; or {percentiles: [1, 99]} of each image",
    )
    orientation: Literal["stored", "upright"] = Field(
        "stored",
        description="whether pixels are used as stored, or rotated as EXIF or TIFF tags say; images and masks alike",
    )

    @property
    def pixel_settings(self) -> dict[str, JsonValue]:
        """Settings that decide the pixels of records; keys that were added later appear only where they are set."""
        settings: dict[str, JsonValue] = self.model_dump(mode="json", exclude={"scoring_size"})
        if self.fit == "stretch":
            del settings["fit"]
        return settings

    @property
    def upright(self) -> bool:
        """Whether images and masks are rotated as their files say."""
        return self.orientation == "upright"

    @field_validator("window", mode="before")
    @classmethod
    def _a_window(cls, value: object) -> object:
        if isinstance(value, list | tuple) and len(value) == 2:
            center, width = value
            numbers = [n for n in (center, width) if isinstance(n, int | float) and not isinstance(n, bool)]
            if len(numbers) == 2 and math.isfinite(sum(numbers)) and numbers[1] > 0:
                return value
        elif value in ("full", "file") or isinstance(value, dict | Percentiles):
            return value
        raise ValueError(
            "image.window must be 'full', 'file', {percentiles: [low, high]} or [center, width] with a width above 0, "
            f"not {value}"
        )
