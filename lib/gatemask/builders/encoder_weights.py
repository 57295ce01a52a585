"""Encoder weights: where their files are, how they get here, and how they get into a network.

Finding imports nothing heavy, so that a missing file is refused before Keras is. Files may be

- published ones ('imagenet', 'noisy-student'), of the packages' own names: looked for offline first, in the
  folders of GATEMASK_WEIGHTS, in <project>/data/weights, in ~/.keras/models and anywhere below /kaggle/input,
  then downloaded into <project>/data/weights;
- any legacy .h5 of an encoder without its top, as the packages and older Keras write them;
- our own .weights.h5, of an encoder alone or of a whole network.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gatemask.config import ENCODERS, PublishedWeights
from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import write_with

if TYPE_CHECKING:
    from gatemask.builders.models import Network
    from gatemask.config import Model

KAGGLE = Path("/kaggle/input")
TIMEOUT_S = 60


def find_weights_file(config: Model, root: Path, download: bool = True) -> Path | None:
    """The file that `model.weights` speaks of.

    Args:
        config: the section of the YAML.
        root: the project's folder.
        download: fetch a published file that is nowhere.

    Returns:
        Its path; None for 'none' and for 'run:NAME', which is the trainer's to find, and, without `download`,
        for a published file that is nowhere yet.

    Raises:
        GatemaskError: it is not there, cannot be fetched, or is damaged.
    """
    if config.weights == "none" or config.weights.startswith("run:"):
        return None
    if published := ENCODERS[config.encoder].weights.get(config.weights):
        return _offline(published, root) or (_fetch(published, root) if download else None)
    for path in (Path(config.weights).expanduser(), root / config.weights):
        if path.is_file():
            return path
    raise GatemaskError(
        "There is no such weights file.",
        where="model.weights",
        received=config.weights,
        expected=f"none, run:NAME, {', '.join(ENCODERS[config.encoder].weights)}, or the path of an .h5 file",
        do="Download it once and name its path.",
    )


def weights_folders(root: Path) -> list[Path]:
    """Where published files are looked for, in this order, before those below /kaggle/input."""
    named = [Path(part).expanduser() for part in os.environ.get("GATEMASK_WEIGHTS", "").split(os.pathsep) if part]
    return [*named, root / "data" / "weights", Path.home() / ".keras" / "models"]


def _offline(published: PublishedWeights, root: Path) -> Path | None:
    places = [folder / published.file for folder in weights_folders(root)]
    found = next((path for path in places if path.is_file()), None)
    if found is None and KAGGLE.is_dir():
        found = next(iter(sorted(KAGGLE.rglob(published.file))), None)
    if found is not None and not _whole(found, published):
        raise GatemaskError(
            "A weights file is damaged.",
            where=found,
            received=f"hash {_digest(found, published)}",
            expected=f"{published.hash}, as published",
            do="Delete it, or put a whole one in its place.",
        )
    return found


def _digest(path: Path, published: PublishedWeights) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5" if len(published.hash or "") == 32 else "sha256").hexdigest()


def _whole(path: Path, published: PublishedWeights) -> bool:
    return published.hash is None or _digest(path, published) == published.hash


def _fetch(published: PublishedWeights, root: Path) -> Path:
    """Download into <root>/data/weights; nothing that is not whole takes the file's name."""
    path = root / "data" / "weights" / published.file
    say(f"downloading {published.url} into {path.parent}")
    try:
        return write_with(path, lambda temporary: _download(published, temporary))
    except (OSError, urllib.error.URLError) as error:
        searched = ", ".join(map(str, [*weights_folders(root), f"everything below {KAGGLE}"]))
        raise GatemaskError(
            "The encoder's published weights are not here and cannot be downloaded.",
            where=published.url,
            received=str(getattr(error, "reason", None) or error),
            expected=f"{published.file} in one of {searched}",
            do=f"Put {published.file} into {path.parent}, or on Kaggle attach a dataset with that file.",
        ) from None


def _download(published: PublishedWeights, path: Path) -> None:
    with urllib.request.urlopen(published.url, timeout=TIMEOUT_S) as answer, path.open("wb") as file:
        while part := answer.read(1 << 20):
            file.write(part)
    if not _whole(path, published):
        raise GatemaskError(
            "What was downloaded is not the published file.",
            where=published.url,
            received=f"hash {_digest(path, published)}",
            expected=published.hash,
            do="Try again; behind a proxy, download it by hand.",
        )


# --- into a network --------------------------------------------------------------------------------------


def load_encoder_weights(network: Network, config: Model, path: Path | None = None, channels: int = 3) -> str:
    """Put an encoder's weights into a built network.

    Args:
        network: of models.build.
        config: what it was built from.
        path: the file; None: whatever `find` says, in this project.
        channels: of the network's images. Beyond three, first kernels are inflated (see `inflate_channels`).

    Returns:
        What was loaded, in words.

    Raises:
        GatemaskError: the file is not one of this encoder's.
    """
    if path is None:
        from gatemask.project import find_root

        path = find_weights_file(config, find_root())
    if path is None:
        return "random weights"
    try:
        _load_encoder(network.nested, network.plain, config.encoder, path)
        return f"the encoder of {path.name}"
    except GatemaskError:
        if channels in (1, 3):
            raise
    from gatemask.builders import models

    # Of any size: the smallest that every encoder takes is built the fastest.
    three = models.build_network(config.model_copy(update={"name": "gate", **AS_GATE}), 96, 3, seed=None)
    _load_encoder(three.nested, three.plain, config.encoder, path)
    for mine, theirs in zip(network.nested.weights, three.nested.weights, strict=True):
        mine.assign(inflate_channels(np.asarray(theirs), tuple(mine.shape)))
    return f"the encoder of {path.name}, inflated to {channels} channels"


AS_GATE = {"gate_head": False, "deep_supervision": False, "filters": None, "block": "upsampling"}


def inflate_channels(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A weight of three input channels for n of them: repeated in turn.

    A kernel (h, w, 3, f) is scaled by 3/n, so that sums over channels keep their size: an image shown twice, n
    being 6, says what it said once. Other weights, such as the statistics of a first BatchNorm, are not scaled.
    """
    if value.shape == shape:
        return value
    axis = next(at for at, (old, new) in enumerate(zip(value.shape, shape, strict=True)) if old != new)
    repeated = np.take(value, np.arange(shape[axis]) % value.shape[axis], axis=axis)
    return repeated * (value.shape[axis] / shape[axis]) if value.ndim == 4 else repeated


def load_run_weights(network: Network, path: Path) -> str:
    """Go on from a run's checkpoint, of `network.predict` at this or another input size.

    Args:
        network: of models.build.
        path: a run's best.weights.h5.

    Returns:
        What was loaded, in words: the whole network where it fits, else its encoder.

    Raises:
        GatemaskError: neither fits.
    """
    import h5py

    before = [np.asarray(variable) for variable in network.predict.variables]
    try:
        with h5py.File(path) as file:
            same = _shapes(file) == _own_shapes(network.predict)
        if same:
            network.predict.load_weights(path)
            return f"the whole network of {path}"
    except (ValueError, OSError, KeyError):
        for variable, value in zip(network.predict.variables, before, strict=True):
            variable.assign(value)
    _load_encoder(network.nested, network.plain, network.name, path)
    return f"the encoder of {path}: the rest is another architecture's"


def _load_encoder(nested: Any, plain: Any, encoder: str, path: Path) -> None:
    """One of the three kinds of file into an encoder; each is compared before anything is overwritten."""
    import h5py

    try:
        with h5py.File(path) as file, tempfile.TemporaryDirectory() as folder:
            legacy = "layer_names" in file.attrs or "model_weights" in file
            if legacy:
                root = file.get("model_weights", file)
                target, inside, want = plain, root, sorted(tuple(w.shape) for w in plain.weights)
            else:
                part = _encoder_part(file)
                target, inside, want = nested, part, _own_shapes(nested)
            if _shapes(inside) != want:
                raise ValueError(_whose(inside))
            # A copy of the part that counts; it also keeps Keras from guessing by the file's name.
            copy = Path(folder) / ("encoder.h5" if legacy else "encoder.weights.h5")
            with h5py.File(copy, "w") as out:
                for name in inside:
                    inside.copy(name, out)
                for name, value in inside.attrs.items():
                    out.attrs[name] = value
            target.load_weights(copy)
    except (ValueError, OSError, KeyError) as error:
        raise GatemaskError(
            "These weights do not fit the encoder.",
            where=path,
            received=str(error).splitlines()[0],
            expected=f"{encoder} without its top, or a network with that encoder",
        ) from None


def _encoder_part(file: Any) -> Any:
    """A whole network's file keeps its one nested layer, the encoder, below layers/functional."""
    return file.get("layers/functional", file)


def _shapes(group: Any) -> list[tuple[int, ...]]:
    """The shapes of all weights in a file or a part of it; states of random generators are not weights."""
    import h5py

    found: list[tuple[int, ...]] = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "seed_generator" not in name and "optimizer" not in name.split("/"):
            found.append(tuple(item.shape))

    group.visititems(look)
    return sorted(found)


def _own_shapes(model: Any) -> list[tuple[int, ...]]:
    return sorted(tuple(weight.shape) for weight in model.weights)


def _whose(group: Any) -> str:
    """What a file that does not fit seems to be, by the number of its parameters."""
    count = int(sum(np.prod(shape) for shape in _shapes(group)))
    known = {encoder.parameters: name for name, encoder in ENCODERS.items()}
    return f"weights of {known[count]}" if count in known else f"{count:,} parameters of something else"
