"""Threshold tables counted in parts, each a piece of work, and joined: the same tables wherever they are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gatemask.config import Competition, Ensemble
from gatemask.files import locked
from gatemask.oof.tables import Tables
from gatemask.pieces.piece import Piece, Place, split_evenly, values
from gatemask.project import Project
from gatemask.tuning.members import count_tables, open_members, training_images


def count_at(
    place: Place,
    project: Project,
    comp: Competition,
    ensemble: Ensemble,
    count: int,
    weights: Sequence[float],
    path: Path,
) -> Tables:
    """Count the tables of averaged members at a place, in as many parts as it runs at once.

    Args:
        place: Place that counts.
        project: Project whose runs hold the predictions.
        comp: Classes and image size.
        ensemble: Experiments.
        count: Number of images.
        weights: Weight of each reader of maps.
        path: File of the tables, for the names of the parts; they are removed.
    """
    arguments: dict[str, Any] = {
        "project": project.as_dict(),
        "competition": comp.model_dump(mode="json", exclude={"quick"}, exclude_none=True),
        "ensemble": ensemble.model_dump(mode="json", exclude={"quick"}, exclude_none=True),
        "weights": list(weights),
    }

    def piece(images: Sequence[int]) -> Piece:
        part = path.with_name(f"{path.stem}.{images[0]}-{images[-1]}.npz")
        return Piece(
            name=f"tables {path.stem[:6]}, images {images[0]} to {images[-1]}",
            function="tuning.table_pieces:count_piece",
            arguments={**arguments, "first": images[0], "last": images[-1], "path": str(part)},
            reads=(str(project.data / "masks.csv"),),
            writes=(str(part),),
        )

    path.parent.mkdir(parents=True, exist_ok=True)
    images = range(count)
    pieces = [piece(some) for some in split_evenly(images, place.slots(piece(images)))]
    values(place.run(pieces), "Fix the cause and run the same command again: parts that are counted are kept.")
    parts = [Path(each.writes[0]) for each in pieces]
    tables = Tables.join(map(Tables.load, parts), count)
    for part in parts:
        part.unlink()
    return tables


def count_piece(
    project: Mapping[str, Any],
    competition: Mapping[str, Any],
    ensemble: Mapping[str, Any],
    weights: Sequence[float],
    first: int,
    last: int,
    path: str,
) -> None:
    """Count the tables of some images, unless the file exists.

    Args:
        project: Fields of the project.
        competition: Values of the resolved competition.
        ensemble: Values of the resolved ensemble.
        weights: Weight of each reader of maps.
        first: Place of the first image, in ascending order of the ids of all training images.
        last: Place of the last image.
        path: File to write.
    """
    part = Path(path)
    with locked(part.with_name(f".{part.name}.lock"), "Another process counts these tables."):
        if part.exists():
            return
        home, comp = Project.of(project), Competition.model_validate(competition)
        fold_of = training_images(home).fold_of
        ids = sorted(fold_of)[first : last + 1]
        with open_members(home, comp, Ensemble.model_validate(ensemble), fold_of) as given:
            used = [number for number, weight in enumerate(weights) if weight > 0]
            some = replace(
                given,
                fold_of={image_id: fold_of[image_id] for image_id in ids},
                readers=[given.readers[number] for number in used],
            )
            count_tables(some, [weights[number] for number in used]).save(part)
