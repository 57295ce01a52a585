"""The files of the training images that the manifest lists."""

from __future__ import annotations

from gatemask.config import Competition
from gatemask.data.image_files import find_images
from gatemask.data.raw_folder import raw_folder
from gatemask.data.sources import ImageSource
from gatemask.data.split import read_manifest
from gatemask.errors import GatemaskError
from gatemask.project import Project


def training_sources(project: Project, comp: Competition) -> dict[str, ImageSource]:
    """Return the files of each training image, by id, in the manifest's order.

    Where an image has several files or neighbors, they are searched for in the raw folder. Otherwise nothing is read.

    Args:
        project: Project folders.
        comp: competition.yaml.

    Raises:
        GatemaskError: There is no manifest, or an image with several files does not exist any more.
    """
    folder, manifest = raw_folder(project, comp), read_manifest(project, "train")
    rows = list(zip(manifest["image_id"], manifest["path"], strict=True))
    if not has_other_files(comp):
        return {image_id: ImageSource(image_id, (folder / path,)) for image_id, path in rows}
    sources = {file.image_id: file.source for file in find_images(folder, comp).train}
    if missing := [path for image_id, path in rows if image_id not in sources]:
        raise GatemaskError(
            "An image of the manifest does not exist any more.",
            where=folder / missing[0],
            received=f"{len(missing)} such images",
            do="Restore the files, or run gatemask data prepare again.",
        )
    return {image_id: sources[image_id] for image_id, _ in rows}


def has_other_files(comp: Competition) -> bool:
    """Return whether an image is more than the file that the manifest names."""
    return len(comp.train.sources) > 1 or comp.train.stack is not None
