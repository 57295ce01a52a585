"""`gatemask records make | check`: images and masks at training size as TFRecords, the same for every split.

data/<comp>/records-<px>/00000.tfrec ...   image_id, image (JPEG or PNG), mask (PNG, 0 or 255), label, origin of a tile
data/<comp>/records-<px>/making.json       while they are made: their inputs, by which finished shards are kept
data/<comp>/records-<px>/index.json        the stamp: counts, hashes, the settings that made them
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from gatemask.config import Competition
from gatemask.console import progress, say
from gatemask.data import tfrecord
from gatemask.data.encode import RawImage, ShardPart, class_bits, origins_of, split_tasks, write_parts
from gatemask.data.manifest import require_images
from gatemask.data.record_survey import RecordSurvey
from gatemask.data.shards import Shard, StoredExample
from gatemask.data.training_sources import has_other_files, training_sources
from gatemask.data.truth import Masks
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, fresh_folder, locked, read_json, sha256, write_json, write_with
from gatemask.pieces.piece import Piece, Place, split_evenly, values
from gatemask.project import Project
from gatemask.results.data import RecordsCheck, RecordsResult
from gatemask.stage import Stage, Stamp

INDEX = "index.json"
PIECES_PER_SLOT = 2  # few, since each reads the manifest; enough that a slow node does not hold up the others


def make_records(project: Project, comp: Competition, place: Place | None = None) -> RecordsResult:
    """Write the records of all training images, hold-out included: folds are applied when records are read.

    Works shard by shard, and keeps the shards that were finished before a kill.

    Args:
        project: Project with a manifest.
        comp: competition.yaml.
        place: Place that writes the shards. Default: the processes of this machine.

    Raises:
        GatemaskError: There is no manifest with images, or an image can no longer be read.
    """
    folder = project.records(comp.records.size)
    stage = Stage("records make", folder / INDEX, _made_from(project, comp), RecordsResult)

    def write() -> tuple[RecordsResult, dict[Path, str]]:
        raws = _raw_images(project, comp)
        parts = _split_shards(raws, comp)
        shards = [folder / f"{number:05d}.tfrec" for number in range(len(parts))]
        _keep_finished(stage)
        unfinished = [(shard, part) for shard, part in zip(shards, parts, strict=True) if not shard.exists()]
        if len(unfinished) < len(parts):
            say(f"{len(parts) - len(unfinished)} of {len(parts)} shards were finished before.")
        hashes = {shard: sha256(shard) for shard in shards if shard.exists()}
        if place is None:
            hashes |= _make_shards(unfinished, folder / "parts", comp)
        else:
            hashes |= _make_shards_at(place, [shard for shard, _ in unfinished], project, comp)
        result = RecordsResult(
            count=_count_records(raws, comp),
            positives=sum(class_bits(raw.masks) > 0 for raw in raws),
            size=comp.records.size,
            bytes=sum(shard.stat().st_size for shard in shards),
            shards=len(shards),
        )
        if comp.tiles is not None:
            result = result.model_copy(update={"images": len(raws)})
        return result, {shard: hashes[shard] for shard in shards}

    return stage.run(write, lambda: _tidy(folder))


def write_piece(
    project: Mapping[str, Any], competition: Mapping[str, Any], shards: Sequence[int], made_from: str
) -> dict[str, str]:
    """Write some shards, unless they exist, and return their hashes by name.

    Args:
        project: Fields of the project.
        competition: Values of the resolved competition.
        shards: Numbers of the shards.
        made_from: Fingerprint of the inputs where the piece was made.

    Raises:
        GatemaskError: This process sees other inputs, or an image can no longer be read.
    """
    home, comp = Project.of(project), Competition.model_validate(competition)
    folder = home.records(comp.records.size)
    if fingerprint(_made_from(home, comp)) != made_from:
        raise GatemaskError(
            "The manifest that is seen here is not the one from which the records are made.",
            where=home.data,
            do="Run the command again.",
        )
    parts = dict(enumerate(_split_shards(_raw_images(home, comp), comp)))
    paths = {number: folder / f"{number:05d}.tfrec" for number in shards}
    with locked(folder / f".{shards[0]:05d}.lock", "Another process writes these shards."):
        unfinished = [(path, parts[number]) for number, path in paths.items() if not path.exists()]
        made = _make_shards(unfinished, folder / f"parts-{shards[0]:05d}", comp)
    return {path.name: made.get(path) or sha256(path) for path in paths.values()}


def check_records(project: Project, comp: Competition) -> RecordsCheck:
    """Read all records: check hashes, checksums, ids, tiles and labels, and that images and masks decode to their size.

    Raises:
        GatemaskError: There are no current records, or some are damaged.
    """
    started = time.monotonic()
    hashes, folder = require_records(project, comp), project.records(comp.records.size)
    survey = RecordSurvey(project, comp)
    for name, digest in progress(list(hashes.items()), "checking"):
        if not (folder / name).exists() or sha256(folder / name) != digest:
            survey.problems.append(f"{name}: differs from the file that was written")
            continue
        try:
            for example in list(Shard(folder / name).examples(None)):
                survey.add(example, name)
        except GatemaskError as error:
            survey.problems.append(f"{name}: {error.short()}")
    survey.finish()
    if survey.problems:
        raise GatemaskError(
            "Some records are damaged.",
            where=folder,
            received=f"{len(survey.problems)} problems: " + "; ".join(survey.problems[:5]),
            do=f"Run gatemask records make {project.comp}: damaged shards are made again.",
        )
    if vanished := survey.vanished:
        say(f"{vanished} masks vanish at {_described_size(comp)}; their images still count as positive.")
    check = RecordsCheck(
        checked=len(survey.checked),
        shards=len(hashes),
        vanished_masks=vanished,
        seconds=round(time.monotonic() - started, 2),
    )
    tiled = {"images": len(survey.images), "positive_tiles": survey.positives}
    return check if comp.tiles is None else check.model_copy(update=tiled)


def require_records(project: Project, comp: Competition, do: str | None = None) -> dict[str, str]:
    """Return the hash of each shard, by name.

    Args:
        project: Project folders.
        comp: competition.yaml.
        do: What the user should do where there are none. Default: run `gatemask records make`.

    Raises:
        GatemaskError: There are no records, or they are older than manifest or masks.
    """
    path = project.records(comp.records.size) / INDEX
    do = do or f"Run gatemask records make {project.comp}."
    if not path.exists():
        raise GatemaskError("There are no finished records.", where=path.parent, do=do)
    stamp = Stamp.load(path)
    if stamp.made_from != _made_from(project, comp):
        raise GatemaskError("The records were made from another manifest or other settings.", where=path, do=do)
    return {name: str(digest) for name, digest in stamp.outputs.items()}


def read_records(folder: Path, ids: Sequence[str]) -> list[StoredExample]:
    """Return the examples of some images, in their order, still on disk; of tiled images, all tiles.

    All shards are read once, to compare their hashes.

    Args:
        folder: Folder of the records.
        ids: Image ids.

    Raises:
        GatemaskError: There are no records, a shard is missing or damaged, or they lack an image.
    """
    index = folder / INDEX
    if not index.exists():
        raise GatemaskError("There are no finished records.", where=folder, do="Run gatemask records make.")
    examples: dict[str, list[StoredExample]] = {}
    wanted = set(ids)
    for name, digest in Stamp.load(index).outputs.items():
        for example in Shard(folder / name).examples(digest):
            if example.image_id in wanted:
                examples.setdefault(example.image_id, []).append(example)
    if missing := [image_id for image_id in ids if image_id not in examples]:
        raise GatemaskError(
            "The records lack images that the folds list.",
            where=folder,
            received=f"{len(missing)}, such as {missing[0]}",
            do="Run gatemask records make again: folds and records come from different manifests.",
        )
    return [example for image_id in ids for example in examples[image_id]]


def _made_from(project: Project, comp: Competition) -> dict[str, object]:
    if not (project.data / "manifest.json").exists():
        raise GatemaskError(
            "There is no manifest yet.", where=project.data, do=f"Run gatemask data prepare {project.comp}."
        )
    if comp.tiles is not None and comp.records.shape != (comp.tiles.size, comp.tiles.size):
        raise GatemaskError(
            "Records of a tiled competition have the size of its tiles.",
            where="input.records of the experiment, or records.size of competition.yaml",
            received=comp.records.size,
            expected=comp.tiles.size,
            do="Leave the key out; input.size may be smaller.",
        )
    tables = [project.data / "manifest.csv", project.data / "masks.csv"]
    made_from: dict[str, object] = {
        "settings": comp.records.model_dump(mode="json"),
        "image": comp.image.pixel_settings,
        **{path.name: sha256(path) for path in tables},
    }
    # What most competitions do not have appears only where it is set: their records stay current.
    if comp.tiles is not None:
        made_from["tiles"] = comp.tiles.model_dump(mode="json")
    if has_other_files(comp):
        made_from["files"] = comp.train.model_dump(mode="json", include={"images", "stack"})
    if comp.has_soft:
        made_from["soft"] = True
    if comp.planes > 1:
        borders, ignored = comp.outputs - len(comp.classes), int(comp.has_ignored)
        made_from["planes"] = [*comp.classes, *["border"] * borders, *["ignored"] * ignored]
    return made_from


def _raw_images(project: Project, comp: Competition) -> list[RawImage]:
    require_images(project, comp)
    masks = Masks.of(project, comp)
    return [RawImage(source, masks.encoded(image_id)) for image_id, source in training_sources(project, comp).items()]


def _count_records(raws: Sequence[RawImage], comp: Competition) -> int:
    return sum(len(origins_of(raw.masks.size, comp.tiles)) for raw in raws)


def _split_shards(raws: list[RawImage], comp: Competition) -> list[list[RawImage]]:
    """Return the images of each shard: at most `per_shard` records, but all tiles of an image together."""
    shards: list[list[RawImage]] = []
    room = 0
    for raw in raws:
        count = _count_records([raw], comp)
        if count > room or not shards:
            shards.append([])
            room = comp.records.per_shard
        shards[-1].append(raw)
        room -= count
    return shards


def _keep_finished(stage: Stage[RecordsResult]) -> None:
    """Keep complete shards made from the same inputs; delete all others."""
    folder, making = stage.stamp.parent, stage.stamp.with_name("making.json")
    hashes: Mapping[str, str | None] | None = None
    if stage.stamp.exists() and (stamp := Stamp.load(stage.stamp)).made_from == stage.made_from:
        hashes = stamp.outputs
    same_inputs = hashes is not None or (making.exists() and read_json(making) == stage.made_from)
    for shard in folder.glob("*.tfrec"):
        # A shard gets its name only when it is complete: without a stamp, its checksums are proof enough.
        sound = _is_sound(shard) if hashes is None else sha256(shard) == hashes.get(shard.name)
        if not (same_inputs and sound):
            shard.unlink()
    write_json(making, stage.made_from)
    stage.stamp.unlink(missing_ok=True)


def _is_sound(shard: Path) -> bool:
    try:
        return all(True for _ in tfrecord.frames(shard.read_bytes(), checksums=True))
    except ValueError:
        return False


def _make_shards(unfinished: list[tuple[Path, list[RawImage]]], scratch: Path, comp: Competition) -> dict[Path, str]:
    """Join each shard as soon as its parts are written; return the hashes."""
    tasks = [split_tasks(raws, comp) for _, raws in unfinished]
    flat = [task for shard_tasks in tasks for task in shard_tasks]
    count = sum(_count_records(task, comp) for task in flat)
    written = write_parts(flat, fresh_folder(scratch), comp)
    parts = progress(written, "records", count, size=lambda part: part.records)
    hashes = {}
    try:
        for (shard, _), shard_tasks in zip(unfinished, tasks, strict=True):
            _join(shard, islice(parts, len(shard_tasks)))
            hashes[shard] = sha256(shard)  # here, while the processes continue, instead of all at the end
    finally:
        written.close()  # ends the processes
        shutil.rmtree(scratch, ignore_errors=True)  # on a disk that became read-only, the first error counts
    return hashes


def _make_shards_at(place: Place, shards: list[Path], project: Project, comp: Competition) -> dict[Path, str]:
    """Let a place write the shards, some per piece, and return their hashes."""
    arguments: dict[str, Any] = {
        "project": project.as_dict(),
        "competition": comp.model_dump(mode="json", exclude={"quick"}, exclude_none=True),
        "made_from": fingerprint(_made_from(project, comp)),
    }

    def piece(some: list[Path]) -> Piece:
        return Piece(
            name=f"records {some[0].stem} to {some[-1].stem}",
            function="data.records:write_piece",
            arguments={**arguments, "shards": [int(path.stem) for path in some]},
            reads=(str(project.data / "manifest.csv"),),
            writes=tuple(map(str, some)),
        )

    if not shards:
        return {}
    pieces = [piece(some) for some in split_evenly(shards, PIECES_PER_SLOT * place.slots(piece(shards)))]
    written = values(place.run(pieces), "Fix the cause and run the same command again: finished shards are kept.")
    hashes = {name: digest for value in written.values() for name, digest in value.items()}
    return {shard: hashes[shard.name] for shard in shards}


def _tidy(folder: Path) -> None:
    """Remove what only unfinished records need."""
    (folder / "making.json").unlink(missing_ok=True)
    for lock in folder.glob(".[0-9]*.lock"):
        lock.unlink()
    for parts in folder.glob("parts-*"):  # of a piece that was killed
        shutil.rmtree(parts, ignore_errors=True)


def _join(shard: Path, parts: Iterator[ShardPart]) -> Path:
    """Write a shard: TFRecord files have neither header nor footer, so their concatenation is one."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as joined:
            for part in parts:
                with part.path.open("rb") as source:
                    shutil.copyfileobj(source, joined, 1 << 20)
                part.path.unlink()

    return write_with(shard, write)


def _described_size(comp: Competition) -> str:
    height, width = comp.records.shape
    return f"{height} px" if height == width else f"{height} x {width} px"
