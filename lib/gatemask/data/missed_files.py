"""Find image files that a pattern misses because the case or spelling of their extension differs: a.PNG, a.jpeg."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatemask.config import Competition, PngLabels
from gatemask.config.path_patterns import as_glob
from gatemask.data.joins import examples
from gatemask.data.listing import list_images

SPELLINGS = [{".jpg", ".jpeg", ".jpe", ".jfif"}, {".tif", ".tiff"}, {".dcm", ".dicom"}]


def missed_files(raw: Path, comp: Competition) -> list[str]:
    """Return a sentence for each pattern of images or masks that misses files for their extension alone.

    Args:
        raw: The raw folder.
        comp: competition.yaml.
    """
    patterns = _patterns(comp)
    matched = {path for _, pattern in patterns for path in list_images(raw, pattern)}
    sentences = []
    for key, pattern in patterns:
        glob, extension = as_glob(pattern), Path(as_glob(pattern)).suffix
        if not extension[1:].isalnum():
            continue  # any extension matches, or a part of it is a pattern itself
        spellings = next((kind for kind in SPELLINGS if extension.lower() in kind), {extension.lower()})
        near = list_images(raw, f"{glob.removesuffix(extension)}.*")
        missed = [path for path in near if path not in matched and path.suffix.lower() in spellings]
        if missed:
            names = [path.relative_to(raw).as_posix() for path in missed]
            wider = pattern.removesuffix(extension) + _wider(extension, missed)
            sentences.append(
                f"{len(missed)} files match no pattern because of their extension, such as {examples(names)}: they are "
                f"not read. {key}: '{wider}' would match them."
            )
    return sentences


def _patterns(comp: Competition) -> list[tuple[str, str]]:
    """Return the patterns of competition.yaml with their keys."""
    patterns = [("train.images", source.files) for source in comp.train.sources]
    if comp.test is not None:
        patterns += [("test.images", source.files) for source in comp.test.sources]
        if isinstance(comp.test.labels, PngLabels):
            patterns.append(("test.labels.masks", comp.test.labels.masks))
    if isinstance(comp.labels, PngLabels):
        patterns.append(("labels.masks", comp.labels.masks))
    return patterns


def _wider(extension: str, missed: Sequence[Path]) -> str:
    """Return a pattern of the extension that matches the missed files, too."""
    if any(path.suffix.lower() != extension.lower() for path in missed):
        return ".*"
    return "." + "".join(f"[{x.lower()}{x.upper()}]" if x.isalpha() else x for x in extension[1:])
