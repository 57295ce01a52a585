"""Find, download and load encoder weights.

Finding a file imports nothing heavy, so a missing one is reported before Keras is imported. A file may be

- a published one ('imagenet', 'noisy-student') under its package's own name: searched for in the folders of
  GATEMASK_WEIGHTS, in <project>/data/weights, in ~/.keras/models and anywhere below /kaggle/input, then downloaded into
  <project>/data/weights;
- any .h5 file of an encoder without its classifier, as the packages and older Keras write them;
- our own .weights.h5, of an encoder alone or of a whole network.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gatemask.config import ENCODERS, Model, PublishedWeights
from gatemask.console import say
from gatemask.errors import GatemaskError, StorageError
from gatemask.files import write_with
from gatemask.hdf5 import require_self_contained

if TYPE_CHECKING:
    import h5py
    import keras

    from gatemask.builders.models import Network

KAGGLE_INPUT = Path("/kaggle/input")
TIMEOUT_S = 60

Shapes = list[tuple[int, ...]]


def find_weights_file(config: Model, root: Path, download: bool = True) -> Path | None:
    """Return the weights file that `model.weights` names.

    Args:
        config: The experiment's `model:`.
        root: Folder of the project.
        download: Whether to download a published file that is not on this machine. Default: True.

    Returns:
        The path, or None: for 'none'; for 'run:NAME', whose file depends on the fold; and, without `download`, for a
        published file that is not on this machine.

    Raises:
        GatemaskError: The file does not exist, cannot be downloaded, or is damaged.
    """
    if config.weights == "none" or config.weights.startswith("run:"):
        return None
    if published := ENCODERS[config.encoder].weights.get(config.weights):
        return _find_published(published, root) or (_download_published(published, root) if download else None)
    for path in (Path(config.weights).expanduser(), root / config.weights):
        if path.is_file():
            return path
    raise GatemaskError(
        "The weights file does not exist.",
        where="model.weights",
        received=config.weights,
        expected=f"none, run:NAME, {', '.join(ENCODERS[config.encoder].weights)}, or the path of an .h5 file",
        do="Check the path, or download the file and give its path.",
    )


def weights_folders(root: Path) -> list[Path]:
    """Return the folders that are searched for published files, in order, before those below /kaggle/input."""
    variable = os.environ.get("GATEMASK_WEIGHTS", "")
    named = [Path(part).expanduser() for part in variable.split(os.pathsep) if part]
    return [*named, root / "data" / "weights", Path.home() / ".keras" / "models"]


def _find_published(published: PublishedWeights, root: Path) -> Path | None:
    candidates = [folder / published.file for folder in weights_folders(root)]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None and KAGGLE_INPUT.is_dir():
        path = next(iter(sorted(KAGGLE_INPUT.rglob(published.file))), None)
    if path is not None and not _is_intact(path, published):
        raise GatemaskError(
            "A weights file is damaged.",
            where=path,
            received=f"hash {_digest(path, published)}",
            expected=f"{published.hash}, as published",
            do="Delete it, or replace it by an intact copy.",
        )
    return path


def _digest(path: Path, published: PublishedWeights) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5" if len(published.hash or "") == 32 else "sha256").hexdigest()


def _is_intact(path: Path, published: PublishedWeights) -> bool:
    return published.hash is None or _digest(path, published) == published.hash


def _download_published(published: PublishedWeights, root: Path) -> Path:
    """Download into <root>/data/weights; only a complete, verified file gets the published name."""
    path = root / "data" / "weights" / published.file
    say(f"downloading {published.url} into {path.parent}")
    try:
        return write_with(path, lambda temporary: _download(published, temporary))
    except StorageError:  # a full disk is not a failed download
        raise
    except (OSError, urllib.error.URLError) as error:
        searched = ", ".join(map(str, [*weights_folders(root), f"everything below {KAGGLE_INPUT}"]))
        raise GatemaskError(
            "The encoder's published weights are not on this machine and cannot be downloaded.",
            where=published.url,
            received=str(getattr(error, "reason", None) or error),
            expected=f"{published.file} in one of {searched}",
            do=f"Put {published.file} into {path.parent}, or on Kaggle attach a dataset with that file.",
        ) from None


def _download(published: PublishedWeights, path: Path) -> None:
    with urllib.request.urlopen(published.url, timeout=TIMEOUT_S) as response, path.open("wb") as file:
        while chunk := response.read(1 << 20):
            file.write(chunk)
    if not _is_intact(path, published):
        raise GatemaskError(
            "The downloaded file is not the published file.",
            where=published.url,
            received=f"hash {_digest(path, published)}",
            expected=published.hash,
            do="Try again; behind a proxy, download it by hand.",
        )


# --- loading ---------------------------------------------------------------------------------------------


def load_encoder_weights(network: Network, config: Model, path: Path, channels: int = 3) -> str:
    """Load an encoder's weights into a built network.

    Args:
        network: Network from `build_network`.
        config: The `model:` that it was built from.
        path: Weights file.
        channels: Number of image channels. For more than three, the weights of the first layers are inflated (see
            `inflate_channels`). Default: 3.

    Returns:
        A description of what was loaded.

    Raises:
        GatemaskError: The file does not fit the encoder.
    """
    try:
        _load_encoder(network.encoder, network.packaged_encoder, config.encoder, path)
        return f"the encoder of {path.name}"
    except GatemaskError:
        if channels in (1, 3):
            raise
    from gatemask.builders import models

    # Weights do not depend on the size; 96 is the smallest that every encoder accepts, and the fastest to build.
    three_channels = models.build_network(Model(name="gate", encoder=config.encoder), 96, 3, seed=None)
    _load_encoder(three_channels.encoder, three_channels.packaged_encoder, config.encoder, path)
    for weight, loaded in zip(network.encoder.weights, three_channels.encoder.weights, strict=True):
        weight.assign(inflate_channels(np.asarray(loaded), tuple(weight.shape)))
    return f"the encoder of {path.name}, inflated to {channels} channels"


def inflate_channels(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a weight for three input channels, repeated cyclically for another number of them.

    A kernel, (h, w, 3, f), is scaled by 3/n, so sums over channels keep their size: with n = 6, showing an image twice
    gives the features of showing it once. Other weights, such as the statistics of a first BatchNorm, are not scaled.

    Args:
        value: Weight for three channels.
        shape: Shape to return; it differs from that of `value` in one axis at most.
    """
    if value.shape == shape:
        return value
    axis = next(i for i, (old, new) in enumerate(zip(value.shape, shape, strict=True)) if old != new)
    repeated = np.take(value, np.arange(shape[axis]) % value.shape[axis], axis=axis)
    return repeated * (value.shape[axis] / shape[axis]) if value.ndim == 4 else repeated


def load_run_weights(network: Network, path: Path) -> str:
    """Load the weights of another run, which may have another input size or architecture.

    Args:
        network: Network from `build_network`.
        path: The run's best.weights.h5.

    Returns:
        A description of what was loaded: the whole network if it fits, else its encoder.

    Raises:
        GatemaskError: Neither fits, or the file refers to other files.
    """
    import h5py

    previous = [np.asarray(variable) for variable in network.model.variables]
    try:
        require_self_contained(path)
        with h5py.File(path) as file:
            fits = _stored_shapes(file) == _weight_shapes(network.model)
        if fits:
            network.model.load_weights(path)
            return f"the whole network of {path}"
    except (ValueError, OSError, KeyError):
        for variable, value in zip(network.model.variables, previous, strict=True):
            variable.assign(value)
    _load_encoder(network.encoder, network.packaged_encoder, network.encoder_name, path)
    return f"the encoder of {path}; the rest has another architecture"


def _load_encoder(encoder: keras.Model, packaged: keras.Model, name: str, path: Path) -> None:
    """Load any of the three kinds of file; shapes are compared before anything is overwritten."""
    import h5py

    try:
        require_self_contained(path)
        with h5py.File(path) as file, tempfile.TemporaryDirectory() as folder:
            is_legacy = "layer_names" in file.attrs or "model_weights" in file
            if is_legacy:
                target, group = packaged, file.get("model_weights", file)
            else:  # the file of a whole network keeps its one nested layer, the encoder, below layers/functional
                target, group = encoder, file.get("layers/functional", file)
            if _stored_shapes(group) != _weight_shapes(target):
                raise ValueError(_describe(group))
            # Copy the part to load. The name of the copy also tells Keras which of its formats it is.
            copy = Path(folder) / ("encoder.h5" if is_legacy else "encoder.weights.h5")
            with h5py.File(copy, "w") as out:
                for key in group:
                    group.copy(key, out)
                for key, value in group.attrs.items():
                    out.attrs[key] = value
            target.load_weights(copy)
    except (ValueError, OSError, KeyError) as error:
        raise GatemaskError(
            "These weights do not fit the encoder.",
            where=path,
            received=str(error).splitlines()[0],
            expected=f"{name} without its classifier, or a network with that encoder",
        ) from None


def _stored_shapes(group: h5py.Group) -> Shapes:
    """Shapes of all weights in a group, sorted; states of random generators are not weights."""
    import h5py

    shapes: Shapes = []

    def add_shape(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and "seed_generator" not in name and "optimizer" not in name.split("/"):
            shapes.append(tuple(item.shape))

    group.visititems(add_shape)
    return sorted(shapes)


def _weight_shapes(model: keras.Model) -> Shapes:
    return sorted(tuple(weight.shape) for weight in model.weights)


def _describe(group: h5py.Group) -> str:
    """Guess what a file that does not fit contains, by its number of parameters."""
    count = int(sum(np.prod(shape) for shape in _stored_shapes(group)))
    encoders = {encoder.parameters: name for name, encoder in ENCODERS.items()}
    return f"weights of {encoders[count]}" if count in encoders else f"{count:,} parameters of an unknown network"
