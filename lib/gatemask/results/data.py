"""Results of the stages from raw files to records, and of the commands that examine labels and folds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gatemask.config import RleLabels
from gatemask.results.rules import Frozen
from gatemask.stage import CommandResult, StageResult


class PhantomResult(StageResult):
    """Result of `gatemask data phantom`.

    Args:
        images: Number of training images.
        positives: Number of training images with a mask.
        folder: The raw folder.
    """

    paths = ("folder",)

    images: int
    positives: int
    folder: str


class ManifestResult(StageResult):
    """Result of `gatemask data prepare`.

    Args:
        images: Number of training images.
        positives: Number of training images with a mask.
        test_images: Number of test images.
        test_images_left_out: Number of test images that cannot be read or have another size.
        groups: Number of groups among the training images.
        duplicates: Number of pairs of copies.
        problems: Number of files or labels that were left out.
        raw: The raw folder, relative to the project if it is inside.
        raw_in_yaml: The key `raw` of competition.yaml at that time. Default: unknown.
        reports: What was reported about the data, one text each: joins, orientation, levels, masks, dialect.
    """

    images: int
    positives: int
    test_images: int
    test_images_left_out: int = 0
    groups: int
    duplicates: int
    problems: int
    raw: str
    raw_in_yaml: str | None = None
    reports: list[str] = Field(default_factory=list)


class FoldSummary(Frozen):
    """One fold.

    Args:
        images: Number of images.
        positives: Share of images with a mask.
        median_area: Median mask area of the positive images, in pixels.
        classes: Share of images with each class; only where there are several.
    """

    images: int
    positives: float
    median_area: int
    classes: dict[str, float] | None = None


class FoldsResult(StageResult):
    """Result of `gatemask folds make` and `gatemask folds import`.

    Args:
        adopted: Whether the fold file was made elsewhere.
        imported: Path of the imported file; not set otherwise.
        folds: Number of folds, without the hold-out.
        per_fold: Summary by name of the fold.
    """

    adopted: bool
    imported: str | None = None
    folds: int
    per_fold: dict[str, FoldSummary]


class RecordsResult(StageResult):
    """Result of `gatemask records make`.

    Args:
        count: Number of records.
        images: Number of images; only where records hold tiles of them.
        positives: Number of images with a mask.
        size: Side of images and masks, or their height and width, in pixels.
        bytes: Size of all shards.
        shards: Number of shards.
    """

    count: int
    images: int | None = None
    positives: int
    size: int | tuple[int, int]
    bytes: int
    shards: int


class CopiesResult(StageResult):
    """Copies between a source of extra training images and its competition.

    Args:
        copies: Number of images of the source that are copies of training images.
        test_copies: Number of images of the source that are copies of test images.
        recognizable: Whether near copies could be recognized; otherwise only byte-identical ones are counted.
    """

    copies: int
    test_copies: int
    recognizable: bool = True


class SourceResult(CommandResult):
    """One source, as `gatemask sources make` prints it.

    Args:
        source: Name of the source.
        current: Whether nothing had to be done.
        images: Number of images.
        positives: Number of images with a mask.
        copies: Number of images that are copies of the competition's training images.
        test_copies: Number of images that are copies of its test images.
        recognizable: Whether near copies could be recognized.
        problems: Number of files or labels that were left out.
        shards: Number of shards of the records.
        bytes: Size of the records.
    """

    source: str
    current: bool
    images: int
    positives: int
    copies: int
    test_copies: int
    recognizable: bool
    problems: int
    shards: int
    bytes: int


class SourcesResult(CommandResult):
    """Result of `gatemask sources make`.

    Args:
        sources: The sources that were asked for.
    """

    sources: list[SourceResult]


class LabelSetResult(StageResult):
    """Labels that one fold's networks gave.

    Args:
        fold: Number of the fold.
        labeled: Number of images, or tiles, whose labels are sure enough.
        positives: Number of these that have a mask.
    """

    fold: int
    labeled: int
    positives: int


class PseudoResult(StageResult):
    """Result of `gatemask pseudo`.

    Args:
        source: Name of the source that was written.
        task: "mask" if masks were labeled, "gate" if only gates labeled.
        soft: Whether masks hold probabilities instead of 0 and 1.
        images: Number of images.
        copies: Number of images that are copies of the competition's training images.
        labeled: Number of labeled images, or tiles, by fold.
        positives: Number of these that have a mask, by fold.
    """

    source: str
    task: Literal["gate", "mask"]
    soft: bool
    images: int
    copies: int
    labeled: dict[str, int]
    positives: dict[str, int]


class RecordsCheck(CommandResult):
    """Result of `gatemask records check`.

    Args:
        checked: Number of records read.
        shards: Number of shards.
        images: Number of images; only where records hold tiles of them.
        positive_tiles: Number of tiles with a mask; only where records hold tiles.
        vanished_masks: Number of masks, of one class of an image each, that have no pixel at this size.
        seconds: Duration, in seconds.
    """

    checked: int
    shards: int
    images: int | None = None
    positive_tiles: int | None = None
    vanished_masks: int
    seconds: float


class FoldAudit(Frozen):
    """Audit of one fold.

    Args:
        images: Number of images.
        leak: Share of images whose group is also trained on.
        positives: Share of images with a mask; not set where labels are unknown.
        area_quartiles: Quartiles of the mask area, in pixels; not set where areas are unknown.
        classes: Share of images with each class; only where there are several.
    """

    images: int
    leak: float
    positives: float | None = None
    area_quartiles: list[int] | None = None
    classes: dict[str, float] | None = None


class FoldBalance(Frozen):
    """How far the folds differ.

    Args:
        images: Smallest and largest number of images per fold.
        positives: Share of images with a mask, over all folds.
        positives_deviation: Largest difference of a fold's share from it.
        area_quartiles: Quartiles of the mask area over all folds, in pixels.
        area_deviation: Largest relative difference of a fold's quartile.
    """

    images: list[int]
    positives: float | None = None
    positives_deviation: float | None = None
    area_quartiles: list[int] | None = None
    area_deviation: float | None = None


class AuditResult(CommandResult):
    """Result of `gatemask folds audit`.

    Args:
        file: The fold file.
        images: Number of images.
        folds: Number of folds, without the hold-out.
        groups: Number of groups.
        without_group: Number of images without a group.
        leak: Share of images whose group is also trained on.
        duplicates: Number of images in several folds and of copies in different folds.
        duplicated: The first 20 of them.
        per_fold: Audit by name of the fold.
        balance: How far the folds differ.
        chosen: Which columns of the file were read, and which were not, one sentence each.
        picture: Path of the figure; not set where none was drawn.
    """

    file: str
    images: int
    folds: int
    groups: int
    without_group: int
    leak: float
    duplicates: int
    duplicated: list[str]
    per_fold: dict[str, FoldAudit]
    balance: FoldBalance
    chosen: list[str] = Field(default_factory=list)
    picture: str | None = None


class LabelColumns(Frozen):
    """Columns of a label table, by name, or by number where the table has no header."""

    id: str | int
    mask: str | int


class BadRow(Frozen):
    """A malformed row.

    Args:
        row: Line in the file, from 1.
        image_id: Image of the row.
        problem: What is wrong.
    """

    row: int
    image_id: str
    problem: str


class LabelCounts(CommandResult):
    """Counts over a label table.

    Args:
        rows: Number of rows.
        images: Number of images.
        positives: Number of images with a mask.
        annotations: Number of rows with a mask.
        multi_annotated: Number of images with several annotations.
        overlapping: Number of those whose annotations share pixels.
        duplicates: Number of repeated rows.
        contradictory: Number of images with both an empty row and a mask.
        bad_rows: Number of malformed rows.
        bad: The first 20 malformed rows.
    """

    rows: int
    images: int
    positives: int
    annotations: int
    multi_annotated: int
    overlapping: int
    duplicates: int
    contradictory: int
    bad_rows: int
    bad: list[BadRow]


class GuessedDialect(Frozen):
    """The guessed RLE dialect and image size (height, width); the size is None where it could not be guessed."""

    offsets: str
    base: int
    order: str
    empty: str
    size: tuple[int, int] | None


class ImageSize(Frozen):
    """The part of competition.yaml's `image:` that masks reveal: height and width."""

    size: tuple[int, int]


class LabelYaml(Frozen):
    """Sections for competition.yaml; `image` is not set where the size is unknown, `classes` where there is one."""

    classes: list[str] | None = None
    labels: RleLabels
    image: ImageSize | None = None


class LabelReport(LabelCounts):
    """Result of `gatemask data labels`.

    Args:
        file: The label table.
        header: Whether its first row names the columns.
        columns: Columns of ids and masks.
        guess: RLE dialect and image size.
        because: Reason for each part of the guess, and for the choice of each column.
        ignored: Why other columns were not chosen, by name.
        classes: Number of masks by class; empty for a table of one class.
        yaml: Sections for competition.yaml.
        written: The competition.yaml that was changed; not set where none was.
    """

    file: str
    header: bool
    columns: LabelColumns
    guess: GuessedDialect
    because: dict[str, str]
    ignored: dict[str, str]
    classes: dict[str, int] = Field(default_factory=dict)
    yaml: LabelYaml
    written: str | None = None
