"""Predict a test set in shards, on any number of processes, GPUs or nodes, and join them to one submission.

    <folder>/shard-<k>-of-<n>.json   masks of the images of a shard, and its report; written last

A shard is a run of consecutive images. Its networks see batches of the same size as those of the whole, so on the same
kind of device the submission has the same bytes however many shards there are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from gatemask.data.mask_sizes import MaskSizes
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, listing_fingerprint, locked, read_json, sha256, write_json
from gatemask.inference.images import FileSizes, TestImageReader
from gatemask.inference.output import SubmissionFile
from gatemask.inference.runner import predict_images
from gatemask.inference.test_set import TestSet, open_test_set
from gatemask.pieces.piece import Piece, Place, split_evenly, values
from gatemask.results.ensemble import ShippedEnsemble
from gatemask.results.submission import InferenceReport, MemberTiming

MEMORY = 4 << 30  # bytes: a backend, the members and the images that wait for them
CORES = 4


class Source(NamedTuple):
    """A test set, and what predicts it.

    Args:
        ensemble: Contents of the dataset's ensemble.yaml.
        dataset: Packaged folder.
        competition: Folder with the test images, and the sample submission where there is one.
        test_set: Images and rows.
    """

    ensemble: ShippedEnsemble
    dataset: Path
    competition: Path
    test_set: TestSet

    @classmethod
    def open(cls, dataset: Path, competition: Path) -> Source:
        """List the images and rows of a test set.

        Raises:
            GatemaskError: There is nothing to predict.
        """
        ensemble = ShippedEnsemble.load(dataset / "ensemble.yaml")
        return cls(ensemble, dataset, competition, open_test_set(competition, ensemble.competition, [], forgive=False))

    def made_from(self) -> str:
        """Return a fingerprint of the package and of names, sizes and times of the images."""
        files = [path for source in self.test_set.files.values() for path in source.files]
        return fingerprint(
            [sha256(self.dataset / "SHA256SUMS"), self.test_set.ids, listing_fingerprint(files, self.competition)]
        )


def predict_in_shards(source: Source, working: Path, count: int, place: Place) -> InferenceReport:
    """Predict a test set in shards, and write submission.csv (an archive: submission.zip) and inference.json.

    Shards that were finished before a kill are kept.

    Args:
        source: Test set, and what predicts it.
        working: Folder of these files and of the shards.
        count: Number of shards.
        place: Place that predicts them.

    Raises:
        GatemaskError: A shard failed, the images changed meanwhile, or a share of all images passes the gate.
    """
    if any(rule.quantile for rule in source.ensemble.class_rules):
        raise GatemaskError(
            "A gate that lets a share of the images pass needs all of them: a shard sees only its own.",
            where=source.dataset / "ensemble.yaml",
            received=f"{count} shards, and a rule with quantile: true",
            do="Predict without shards, or tune with tune.rule.gate: true.",
        )
    started = time.monotonic()
    made_from, ids = source.made_from(), source.test_set.ids
    pieces = [
        shard_piece(source, working, made_from, images, (number, count))
        for number, images in enumerate(split_evenly(range(len(ids)), count))
    ]
    values(place.run(pieces), "Fix the cause and run the same command again: finished shards are kept.")
    shards = [read_json(Path(piece.writes[0])) for piece in pieces]
    facts, reader = (
        source.ensemble.competition,
        TestImageReader(source.test_set.files, source.ensemble.competition.image),
    )
    for shard in shards:
        reader.sizes.update({image_id: (size[0], size[1]) for image_id, size in shard["sizes"].items()})
        reader.unreadable.update(shard["report"]["unreadable"])
    sizes = MaskSizes.of(facts.image, FileSizes(reader))
    encoded = {(image_id, index): texts for shard in shards for image_id, index, texts in shard["encoded"]}
    degraded: list[str] = []
    output = SubmissionFile(working / facts.submission.file_name, source.test_set.table, sizes)
    output.prepare(degraded, forgive=False)
    output.replace(encoded, degraded)
    report = _joined([InferenceReport.model_validate(shard["report"]) for shard in shards]).model_copy(
        update={
            "rows": len(source.test_set.table.rows),
            "empty": sum(row.key not in encoded for row in source.test_set.table.rows),
            "extra": len(set(source.test_set.files) - set(ids)),
            "seconds": round(time.monotonic() - started, 1),
            "submission": sha256(output.path),
        }
    )
    write_json(working / "inference.json", report.as_dict())
    return report


def shard_piece(source: Source, working: Path, made_from: str, images: Sequence[int], number: tuple[int, int]) -> Piece:
    """Return the prediction of consecutive images as a piece of work.

    Args:
        source: Test set, and what predicts it.
        working: Folder of the shard's file.
        made_from: Fingerprint of the source.
        images: Places of the images in the test set.
        number: Number of the shard, and of all shards.
    """
    path = working / f"shard-{number[0]}-of-{number[1]}.json"
    return Piece(
        name=f"prediction, shard {number[0] + 1} of {number[1]}",
        function="inference.shards:predict_piece",
        arguments={
            "dataset": str(source.dataset),
            "competition": str(source.competition),
            "made_from": made_from,
            "first": images[0] if images else 0,
            "last": images[-1] if images else -1,
            "path": str(path),
        },
        reads=(str(source.dataset / "SHA256SUMS"), str(source.competition)),
        writes=(str(path),),
        log=str(path.with_suffix(".log")),
        accelerator="auto",
        cores=CORES,
        memory=MEMORY,
    )


def predict_piece(dataset: str, competition: str, made_from: str, first: int, last: int, path: str) -> None:
    """Predict consecutive images of a test set, unless the file of the shard is current.

    Args:
        dataset: Packaged folder.
        competition: Folder with the test images.
        made_from: Fingerprint of package and images where the piece was made.
        first: Place of the first image in the test set.
        last: Place of the last image.
        path: File to write.

    Raises:
        GatemaskError: This process sees another package or other images, or an image or member cannot be used.
    """
    target, key = Path(path), [made_from, first, last]
    with locked(target.with_name(f".{target.name}.lock"), "Another process predicts this shard."):
        with suppress(GatemaskError, KeyError, TypeError):  # damaged, or of another test set: predicted again
            if target.exists() and read_json(target)["made_from"] == key:
                return
        source = Source.open(Path(dataset), Path(competition))
        if source.made_from() != made_from:
            raise GatemaskError(
                "The package or the test images that are seen here are not those of the command.",
                where=competition,
                do="Run the command again.",
            )
        facts, test_set = source.ensemble.competition, source.test_set
        test_set.ids = test_set.ids[first : last + 1]
        reader = TestImageReader(test_set.files, facts.image, facts.tiles)
        encoded, report = predict_images(
            source.ensemble, source.dataset, test_set, reader, [], {}, False, time.monotonic()
        )
        write_json(
            target,
            {
                "made_from": key,
                "encoded": [[image_id, index, texts] for (image_id, index), texts in encoded.items()],
                "sizes": {image_id: list(size) for image_id, size in reader.sizes.items()},
                "report": report.as_dict(),
            },
        )


def _joined(reports: Sequence[InferenceReport]) -> InferenceReport:
    """Return the report of all shards together."""
    images = sum(report.images for report in reports)
    totals: dict[str, Any] = {
        name: sum(getattr(report, name) for report in reports) for name in ("images", "passed", "odd_sizes")
    }
    spent = sum(report.seconds_per_image * report.images for report in reports)
    return reports[0].model_copy(
        update={
            **totals,
            "unreadable": {image: reason for report in reports for image, reason in report.unreadable.items()},
            "degraded": [fault for report in reports for fault in report.degraded],
            "dropped": [member for report in reports for member in report.dropped],
            "members": _timings([report.members for report in reports]),
            "seconds_per_image": round(spent / max(1, images), 6),
            "peak_megabytes": max(report.peak_megabytes for report in reports),
        }
    )


def _timings(parts: Sequence[Mapping[str, MemberTiming]]) -> dict[str, MemberTiming]:
    joined: dict[str, MemberTiming] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        timings = [part[name] for part in parts if name in part]
        images = sum(timing.images for timing in timings)
        seconds = sum(timing.images * timing.seconds_per_image for timing in timings)
        joined[name] = MemberTiming(images=images, seconds_per_image=round(seconds / max(1, images), 6))
    return joined
