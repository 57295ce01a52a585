"""Load weights files (HDF5), which may come from elsewhere, only if they are what they seem: arrays in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gatemask.errors import GatemaskError

if TYPE_CHECKING:
    import keras


def load_weights(model: keras.Model, path: Path) -> None:
    """Load weights into a model of the same structure.

    Raises:
        GatemaskError: The file refers to anything outside of it.
        Exception: Whatever Keras and h5py raise for a damaged file or another structure.
    """
    require_self_contained(path)
    model.load_weights(path)


def require_self_contained(path: Path) -> None:
    """Verify that an HDF5 file holds all of its data, each object under its own name.

    HDF5 follows external links, external storage and virtual datasets to any file that this user may read, without a
    word. Soft links stay in the file, but no program that writes weights makes them.

    Args:
        path: The file.

    Raises:
        GatemaskError: It contains a link, an array that is stored elsewhere, or a virtual array.
        OSError: It is not an HDF5 file.
    """
    import h5py

    kinds = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}
    links: list[tuple[bytes, int]] = []
    with h5py.File(path, "r") as file:
        file.id.links.visit(lambda name, link: links.append((name, link.type)), info=True)  # follows no link
        for name, kind in links:
            if kind != h5py.h5l.TYPE_HARD:
                raise _refusal(path, name, kinds.get(kind, f"a link of type {kind}"))
        for name, _ in links:
            item = h5py.h5o.open(file.id, name)
            if not isinstance(item, h5py.h5d.DatasetID):
                continue
            settings = item.get_create_plist()
            if settings.get_external_count():
                raise _refusal(path, name, f"an array that is stored in {_text(settings.get_external(0)[0])}")
            if settings.get_layout() == h5py.h5d.VIRTUAL:
                raise _refusal(path, name, "a virtual array")


def _refusal(path: Path, name: bytes, received: str) -> GatemaskError:
    return GatemaskError(
        "This weights file refers to data outside of its own arrays.",
        where=f"{path}, {_text(name)}",
        received=received,
        expected="plain arrays, as Keras saves them",
        do="Do not use this file. Save the weights again with model.save_weights.",
    )


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
