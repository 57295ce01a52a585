"""The report of images that differ in size."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gatemask.data.scan import ScannedImage
from gatemask.data.sizes import report_sizes
from tests.data.test_record_shapes import configured

TRAIN = [(100, 100), (200, 100), (100, 200), (400, 400)]


def images(train: Sequence[tuple[int, int]], test: Sequence[tuple[int, int]] = ()) -> list[ScannedImage]:
    return [
        ScannedImage(f"i{number}", split, size=size)
        for split, sizes in (("train", train), ("test", test))
        for number, size in enumerate(sizes)
    ]


def test_sizes_of_both_splits_are_reported() -> None:
    lines = report_sizes(images(TRAIN, [(100, 100), (100, 100), (50, 1000)]), configured())
    assert lines[0] == (
        "4 training images have 4 sizes: heights 100 to 400 (median 150) px, widths 100 to 400 (median 150) px, "
        "width / height 0.5 to 2 (median 1)."
    )
    assert lines[2].startswith("3 test images have 2 sizes: heights 50 to 100")
    assert len(lines) == 4, "the area of the oblong image is within the range"


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ("stretch", "fit: stretch changes width / height by a factor of 1 to 2 (median 1.5). image.fit: pad or crop"),
        ("pad", "with fit: pad, black borders are 0 to 50 (median 25) % of a record."),
        ("crop", "with fit: crop, 0 to 50 (median 25) % of an image lie beyond its record, without a mask."),
    ],
)
def test_what_fitting_does_is_reported(fit: str, words: str) -> None:
    lines = report_sizes(images(TRAIN), configured(image={"fit": fit}))
    assert len(lines) == 2
    assert words in lines[1]
    assert lines[1].startswith("Their sides are 1.56 to 6.25 (median ")
    assert "times those of the records, 64 x 64 px; " in lines[1]


def test_tiles_per_image_are_reported_and_odd_test_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    comp = configured(tiles={"size": 64, "overlap": 0, "scale": 0.5}, records={"format": "png"})
    lines = report_sizes(images([(128, 128), (256, 128)], [(512, 512)]), comp)
    assert lines[1] == "They become 3 tiles of 64 px, 1 to 2 (median 1.5) per image."
    assert lines[3] == "They become 16 tiles of 64 px, 16 per image."
    assert lines[4] == "1 test images are larger or smaller than every training image."
    assert lines[4] in capsys.readouterr().err


def test_one_size_needs_no_report() -> None:
    assert report_sizes(images([(100, 100)] * 3), configured([100, 100])) == []
