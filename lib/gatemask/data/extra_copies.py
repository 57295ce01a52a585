"""Find the images of a source that are copies of the competition's, so that no validation image is trained on.

    data/<comp>/sources/<name>/copies.csv    image_id, other_id, other_split, kind: "exact", "near" or "group"
    data/<comp>/sources/<name>/copies.json   the stamp

Copies are recognized as between the competition's own images (`duplicates`): by their bytes, or by hash and fine
details. Folds do not matter here: they are applied when a fold is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from gatemask.config import Competition, Picture
from gatemask.console import progress, say
from gatemask.data.duplicates import (
    NEAR_BITS,
    NO_SIGNATURE,
    TOO_MANY,
    CopyPair,
    Signature,
    compute_signature,
    find_copies,
)
from gatemask.data.groups import credible, join_groups
from gatemask.data.hash_search import find_close_pairs
from gatemask.data.image_files import find_images
from gatemask.data.raw_folder import raw_folder
from gatemask.data.sources import ImageSource, own_pixels, read_source
from gatemask.data.split import read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import sha256, write_text
from gatemask.project import Project
from gatemask.results.data import CopiesResult
from gatemask.stage import Stage

COLUMNS = ["image_id", "other_id", "other_split", "kind"]
Key = tuple[bool, str, str]  # whether the image belongs to the source, its split and its id
Files = Mapping[Key, tuple[ImageSource, Picture]]


def find_source_copies(project: Project, comp: Competition, name: str, source: Competition) -> CopiesResult:
    """Write the copies between a source and its competition.

    Args:
        project: Project of the competition.
        comp: competition.yaml.
        name: Name of the source, whose manifest exists.
        source: Its images and labels as a competition.

    Raises:
        GatemaskError: The competition has no manifest with images, or an image can no longer be read.
    """
    home = project.of_source(name)
    made_from = copies_made_from(project, comp, name, _names_groups(source))
    stage = Stage("sources make", home.data / "copies.json", made_from, CopiesResult)

    def work() -> tuple[CopiesResult, list[Path]]:
        frame, recognizable = _copies(project, comp, home, source)
        once = frame.drop_duplicates(["image_id", "other_split"])["other_split"]
        result = CopiesResult(
            copies=int((once == "train").sum()), test_copies=int((once == "test").sum()), recognizable=recognizable
        )
        return result, [write_text(home.data / "copies.csv", frame.to_csv(index=False, lineterminator="\n"))]

    return stage.run(work)


def copies_made_from(project: Project, comp: Competition, name: str, groups: object) -> dict[str, object]:
    """Return what decides the copies of a source.

    Args:
        project: Project of the competition.
        comp: competition.yaml.
        name: Name of the source.
        groups: Whether its groups have names.
    """
    return {
        "manifest": sha256(project.data / "manifest.csv"),
        "source": sha256(project.of_source(name).data / "manifest.csv"),
        "duplicates": comp.groups.duplicates,
        "groups": groups,
    }


def read_copies(folder: Path) -> dict[str, set[str]]:
    """Return the ids of the competition's training images that each image of a source is a copy of.

    Args:
        folder: Folder of the source.
    """
    frame = pd.read_csv(folder / "copies.csv", dtype=str, keep_default_na=False)
    copies: dict[str, set[str]] = {}
    for row in frame[frame["other_split"] == "train"].itertuples():
        copies.setdefault(str(row.image_id), set()).add(str(row.other_id))
    return copies


def _copies(project: Project, comp: Competition, home: Project, source: Competition) -> tuple[pd.DataFrame, bool]:
    """Return the table of copies, and whether near copies could be recognized."""
    own, theirs = read_manifest(project), read_manifest(home, "train")
    if (own["sha256"] == "").any():
        raise GatemaskError(
            "The manifest was made from the labels alone: copies cannot be recognized.",
            where=project.data / "manifest.csv",
            do=f"Run gatemask data prepare {project.comp} where the images are available.",
        )
    images = pd.concat([own.assign(of_source=False), theirs.assign(of_source=True)], ignore_index=True)
    keys: list[Key] = list(zip(images["of_source"].tolist(), images["split"], images["image_id"], strict=True))

    def files() -> Files:
        return {**_files(project, comp, False), **_files(home, source, True)}

    pairs, recognizable = _pairs(images, keys, files, comp)
    rows = [*_across(keys, pairs), *(_same_groups(own, theirs) if _names_groups(source) else [])]
    return pd.DataFrame(sorted(set(rows)), columns=COLUMNS), recognizable


def _pairs(
    images: pd.DataFrame, keys: Sequence[Key], files: Callable[[], Files], comp: Competition
) -> tuple[list[CopyPair], bool]:
    """Return all pairs of copies, also those of one side, and whether near copies could be recognized.

    Args:
        images: Rows of both manifests, and whether each belongs to the source.
        keys: Key of each row.
        files: Returns the files of each image.
        comp: competition.yaml.
    """
    candidates = _near_candidates(images) if comp.groups.duplicates == "near" else np.zeros(len(images), bool)
    signatures: dict[int, Signature] = {}
    if candidates is not None and candidates.any():
        found = np.flatnonzero(candidates).tolist()
        signatures = dict(zip(found, _signatures([keys[index] for index in found], files()), strict=True))
    bare = [Signature(phash, NO_SIGNATURE.details) for phash in images["phash"]]  # compared by bytes alone
    every = [signatures.get(index, signature) for index, signature in enumerate(bare)]
    copies = find_copies(images["sha256"].tolist(), every, near=bool(signatures))
    near = [(repr(keys[pair.first]), repr(keys[pair.second])) for pair in copies.pairs if pair.kind == "near"]
    if candidates is not None and copies.recognizable and credible(near, len(images)):
        return copies.pairs, True
    say("So many images of the source resemble the competition's that only byte-identical ones count as copies.")
    return [pair for pair in copies.pairs if pair.kind == "exact"], False


def _near_candidates(images: pd.DataFrame) -> np.ndarray | None:
    """Return which images have a hash close to one of the other side, bool (images,); None if too many do."""
    codes = np.frombuffer(bytes.fromhex("".join(images["phash"])), ">u8").astype(np.uint64)
    close = find_close_pairs(codes, NEAR_BITS, TOO_MANY * len(codes))
    if close.refused:
        return None
    of_source, candidates = images["of_source"].to_numpy(), np.zeros(len(images), bool)
    for first, second in close.parts():
        across = of_source[first] != of_source[second]
        candidates[first[across]] = candidates[second[across]] = True
    return candidates


def _signatures(keys: Sequence[Key], files: Files) -> Iterator[Signature]:
    """Read images again, since manifests do not hold their details."""

    def signature(key: Key) -> Signature:
        if key not in files:
            raise GatemaskError(
                "An image of the manifest does not exist any more.",
                received=key[2],
                do="Restore the files, or run gatemask data prepare again.",
            )
        source, picture = files[key]
        return compute_signature(own_pixels(read_source(source, picture), source))

    with ThreadPoolExecutor() as pool:
        yield from progress(pool.map(signature, keys), "comparing", len(keys))


def _files(project: Project, comp: Competition, of_source: bool) -> Files:
    found = find_images(raw_folder(project, comp), comp)
    return {(of_source, split, file.image_id): (file.source, comp.image) for file, split in found.all}


def _across(keys: Sequence[Key], pairs: Sequence[CopyPair]) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each image of the source and each image of the competition that pairs connect, even by others."""
    exact = {(keys[pair.first], keys[pair.second]) for pair in pairs if pair.kind == "exact"}
    involved = sorted({index for pair in pairs for index in (pair.first, pair.second)})
    joined = join_groups([str(i) for i in involved], [], [(str(pair.first), str(pair.second)) for pair in pairs])
    sets: dict[str, list[Key]] = {}
    for index in involved:
        sets.setdefault(joined[str(index)], []).append(keys[index])
    for members in sets.values():
        for theirs, own in product([key for key in members if key[0]], [key for key in members if not key[0]]):
            yield theirs[2], own[2], own[1], "exact" if (own, theirs) in exact else "near"


def _same_groups(own: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each image of the source and each image of the competition whose groups have one name."""
    merged = theirs[["image_id", "group"]].merge(own[["image_id", "group", "split"]], on="group")
    for row in merged.itertuples():
        yield str(row.image_id_x), str(row.image_id_y), str(row.split), "group"


def _names_groups(source: Competition) -> bool:
    groups = source.groups
    return bool(groups.file or groups.dicom or groups.regex)
