"""`gatemask pseudo`: label images with trained networks, fold by fold, so that no label knows a validation image.

The labels of fold k come from the networks of fold k, which never saw its validation images, and only the training of
fold k reads them. With labels of other folds, or of an average over folds, the networks of the next round would learn
from networks that were trained on what they are validated on. `data.label_sets` describes the files.

    data/<comp>/sources/<name>/fold<k>/<experiment>.npy    predictions, until the labels of the fold are written

Killed at any time, it is run again: networks that have predicted a fold do not predict it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import Batch, Competition, Experiment, Images, RleLabels, Runtime, Source, load_run_config
from gatemask.config.sources import source_competition, source_name_fault
from gatemask.console import say, table
from gatemask.data import records
from gatemask.data.encode import encode_mask
from gatemask.data.example import EncodedExample
from gatemask.data.extra_copies import find_source_copies
from gatemask.data.ids import train_rule
from gatemask.data.image_files import image_files
from gatemask.data.label_sets import IMAGES, STAMP, Labeled, label_image, write_label_set
from gatemask.data.manifest import prepare
from gatemask.data.raw_folder import raw_folder
from gatemask.data.shards import StoredExample
from gatemask.data.split import read_folds, read_manifest
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint, sha256, write_text, write_with
from gatemask.hdf5 import load_weights
from gatemask.masks.frame import resize_map
from gatemask.masks.tiling import Origin
from gatemask.project import Project
from gatemask.results.data import LabelSetResult, PseudoResult
from gatemask.results.training import FoldResult
from gatemask.stage import Stage, Stamp, require_unchanged
from gatemask.training.fold_inputs import TrainingInputs, settings_of, with_record_size

WEIGHTS = "best.weights.h5"
LARGEST_BATCH = 16  # images per step of networks whose batch was found on another machine
DECIDES = ("task", "model", "input", "tta", "tta_apart", "augment")  # keys that decide what a network predicts


@dataclass(frozen=True)
class PseudoOptions:
    """What to label, and how.

    Args:
        name: Name of the source to write.
        experiments: Names of the experiments whose networks label; those of a task are averaged.
        images: Folder of the images, or a glob. Default: the test images of the competition.
        soft: Whether masks hold probabilities instead of 0 and 1.
        confidence: Images whose labels are less sure are left out of a fold's set, 0 to 1. Default: none are.
    """

    name: str
    experiments: tuple[str, ...]
    images: str | None = None
    soft: bool = False
    confidence: float = 0.0


class Network(NamedTuple):
    """A trained network of one fold.

    Args:
        exp: Experiment as it was trained.
        fold: Number of the fold.
        weights: File of its weights.
        digest: SHA-256 of that file.
    """

    exp: Experiment
    fold: int
    weights: Path
    digest: str


def make_pseudo(project: Project, comp: Competition, options: PseudoOptions) -> PseudoResult:
    """Label images, and write them as a source that an experiment names under `data.extra`.

    Args:
        project: Project with trained runs.
        comp: competition.yaml.
        options: What to label, and how.

    Raises:
        GatemaskError: A network is missing or was trained on another split, there are no images, or no label is sure
            enough.
    """
    _check_options(project, options)
    networks = {fold: _networks(project, options.experiments, fold) for fold in _folds(project)}
    source = _unlabeled(project, comp, options)
    name = f"{options.name}/{IMAGES}"
    home = project.of_source(name)
    prepare(home, source)
    copies = find_source_copies(project, comp, name, source)
    sets = [_LabelSet(project, comp, source, options, fold, networks[fold]) for fold in networks]
    made_from = {"sets": {str(one.fold): one.made_from() for one in sets}, "folds": sha256(project.folds)}
    stamp = project.of_source(options.name).data / STAMP
    stage = Stage("pseudo", stamp, made_from, PseudoResult)

    def work() -> tuple[PseudoResult, list[Path]]:
        stamp.unlink(missing_ok=True)
        results = _label_all(sets)
        result = PseudoResult(
            source=options.name,
            task="mask" if any(network.exp.task == "mask" for network in networks[sets[0].fold]) else "gate",
            soft=options.soft,
            images=len(read_manifest(home, "train")),
            copies=copies.copies,
            labeled={str(fold): result.labeled for fold, result in results.items()},
            positives={str(fold): result.positives for fold, result in results.items()},
        )
        return result, [one.stage().stamp for one in sets]

    return stage.run(work)


def print_pseudo(result: PseudoResult) -> None:
    """Print how many images each fold's networks labeled, and what to do with the source."""
    rows = [[fold, str(count), str(result.positives[fold])] for fold, count in result.labeled.items()]
    table(f"Source {result.source}: {result.images} images", ["fold", "labeled", "positive"], rows)
    if result.copies:
        say(f"{result.copies} images are copies of the competition's: no fold is trained on a copy that it validates.")
    say(f"Write 'data: {{extra: [{result.source}]}}' in an experiment, and compare it with one without.")


def _check_options(project: Project, options: PseudoOptions) -> None:
    if fault := source_name_fault(options.name):
        raise GatemaskError(f"{fault}.", where="--name")
    if project.source_file(options.name).exists() or (project.of_source(options.name).data / "manifest.csv").exists():
        raise GatemaskError(
            "A source of labeled images has this name.",
            where=project.of_source(options.name).data,
            received=options.name,
            do="Choose another --name.",
        )
    if not 0 <= options.confidence < 1:
        raise GatemaskError(
            "--confidence must be at least 0 and below 1.", received=options.confidence, expected="such as 0.9"
        )


def _folds(project: Project) -> list[int]:
    return sorted({int(fold) for fold in read_folds(project)["fold"] if fold >= 0})


# --- networks ----------------------------------------------------------------------------------------------


def _networks(project: Project, experiments: Sequence[str], fold: int) -> list[Network]:
    if not experiments:
        raise GatemaskError("Nothing says which networks label the images.", do="Name experiments with --from.")
    return [_network(project, name, fold) for name in dict.fromkeys(experiments)]


def _network(project: Project, name: str, fold: int) -> Network:
    """Return a network that never saw the validation images of its fold."""
    folder = project.fold(name, fold)
    if not (folder / "result.json").exists():
        raise GatemaskError(
            "A network that should label images is not trained.",
            where=folder,
            received=f"{name}, of which fold {fold} has no result",
            do=f"Run gatemask train {project.comp}/{name} first: each fold needs its own labels.",
        )
    stamp = Stamp.load(folder / "result.json")
    if stamp.made_from.get("folds") != sha256(project.folds) or stamp.made_from.get("fold") != fold:
        raise GatemaskError(
            "A network was trained on another split and may have seen this fold's validation images.",
            where=folder,
            expected=f"a run of fold {fold} made from {project.folds}",
            do=f"Train {name} again on the present split.",
        )
    require_unchanged(folder / "result.json", folder / WEIGHTS, f"Restore the file, or train {name} again.")
    exp = _for_prediction(load_run_config(folder), FoldResult.load(folder / "result.json").batch)
    return Network(exp, fold, folder / WEIGHTS, str(stamp.outputs[WEIGHTS]))


def _for_prediction(exp: Experiment, trained_batch: int) -> Experiment:
    """Return an experiment as it predicts on this machine: without initial weights, with a batch of known size."""
    per_device = exp.batch.per_device
    if per_device == "auto":
        per_device = max(1, min(LARGEST_BATCH, trained_batch))
    return exp.model_copy(
        update={
            "model": exp.model.model_copy(update={"weights": "none"}),
            "runtime": Runtime(precision=exp.runtime.precision),
            "batch": Batch(per_device=per_device),
        }
    )


# --- images ------------------------------------------------------------------------------------------------


def _unlabeled(project: Project, comp: Competition, options: PseudoOptions) -> Competition:
    """Return the images as a competition whose label table has an empty mask for each."""
    raw, images = _raw_and_images(project, comp, options.images)
    columns = {name: f"mask{index}" for index, name in enumerate(comp.classes)} if len(comp.classes) > 1 else {}
    labels = project.of_source(options.name).data / "unlabeled.csv"
    section = RleLabels(format="rle", file=str(labels), columns=columns)
    source = source_competition(comp, Source(raw=str(raw), train=images, labels=section), "--images", same_planes=False)
    ids = [file.image_id for file in image_files(raw, train_rule(source), source.train)]
    header = ",".join(["ImageId", *(columns.values() or ["EncodedPixels"])])
    empty = "," * max(1, len(columns))
    text = "\n".join([header, *(f'"{name}"{empty}' for name in sorted(ids))]) + "\n"
    if not labels.exists() or labels.read_text(encoding="utf-8") != text:  # its time decides if the manifest is current
        write_text(labels, text)
    return source


def _raw_and_images(project: Project, comp: Competition, wanted: str | None) -> tuple[Path, Images]:
    if wanted is None:
        if comp.test is None:
            raise GatemaskError(
                "This competition has no test images.",
                received="no --images",
                expected="a folder of images",
                do="Name it with --images. The hold-out takes the place of the test set and is never trained on.",
            )
        fields = comp.test.model_dump(mode="json", exclude={"labels"}, exclude_none=True)
        return raw_folder(project, comp), Images.model_validate(fields)
    if len(comp.train.sources) > 1 or comp.train.stack is not None:
        raise GatemaskError(
            "Images of several files cannot be named by a folder.",
            where="--images",
            received=wanted,
            expected="no --images: the test images",
        )
    path = Path(wanted).expanduser().absolute()
    if has_magic(wanted):
        parts = path.parts
        first = next(number for number, part in enumerate(parts) if has_magic(part))
        return Path(*parts[:first]), Images(images="/".join(parts[first:]))
    if not path.is_dir():
        raise GatemaskError("The images do not exist.", where=path, expected="a folder, or a glob")
    suffix = Path(comp.train.pattern).suffix
    return path, Images(images=f"**/*{suffix}" if suffix else "**/*")


class _WithoutMask(NamedTuple):
    """A stored image with an empty mask of the competition's planes, as networks predict it.

    Args:
        stored: The image.
        mask: Encoded mask.
        label: Always 0. Default: 0.
    """

    stored: StoredExample
    mask: bytes
    label: int = 0

    @property
    def image_id(self) -> str:
        return self.stored.image_id

    @property
    def image(self) -> bytes:
        return self.stored.image

    @property
    def origin(self) -> Origin | None:
        return self.stored.origin

    @property
    def key(self) -> object:
        return self.stored.key


# --- labels ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LabelSet:
    """The labels of one fold.

    Args:
        project: Project of the competition.
        comp: competition.yaml.
        source: The images as a competition.
        options: What to label, and how.
        fold: Number of the fold.
        networks: Networks of this fold.
    """

    project: Project
    comp: Competition
    source: Competition
    options: PseudoOptions
    fold: int
    networks: Sequence[Network]

    @property
    def home(self) -> Project:
        return self.project.of_source(f"{self.options.name}/{IMAGES}")

    @property
    def folder(self) -> Path:
        return self.project.of_source(f"{self.options.name}/fold{self.fold}").data

    def made_from(self) -> dict[str, object]:
        """Return what decides the labels: networks, images, settings, and the split."""
        return {
            "fold": self.fold,
            "folds": sha256(self.project.folds),
            "manifest.csv": sha256(self.home.data / "manifest.csv"),
            "networks": {network.exp.name: network.digest for network in self.networks},
            "settings": [fingerprint(settings_of(network.exp, DECIDES)) for network in self.networks],
            "image": self.source.image.pixel_settings,
            "records": self.comp.records.model_dump(mode="json"),
            "planes": self.comp.planes,
            "soft": self.options.soft,
            "confidence": self.options.confidence,
        }

    def stage(self) -> Stage[LabelSetResult]:
        stamp = self.project.of_source(f"{self.options.name}/fold{self.fold}").records(self.comp.records.size)
        return Stage("pseudo", stamp / records.INDEX, self.made_from(), LabelSetResult)

    def predicted(self, network: Network) -> Path:
        """Return the file of a network's predictions, whose name tells what they were made from."""
        images = sha256(self.home.data / "manifest.csv"), self.source.image.pixel_settings
        digest = fingerprint([images, network.digest, settings_of(network.exp, DECIDES)])
        return self.folder / f"{network.exp.name}-{digest[:12]}.npy"

    def predict(self, network: Network) -> None:
        """Write the predictions of a network, unless they exist: uint8 maps, or float32 probabilities of a gate."""
        from gatemask.masks.rule import as_uint8
        from gatemask.training.out_of_fold import predict_examples
        from gatemask.training.trainer import Trainer

        path = self.predicted(network)
        if path.exists():
            return
        examples = self.examples(with_record_size(self.comp, network.exp))
        trainer = Trainer(TrainingInputs(self.project, self.comp, network.exp))
        load_weights(trainer.models.evaluator, network.weights)
        batches = predict_examples(trainer, examples, f"fold {self.fold} labels {self.options.name}")
        is_gate, outputs = network.exp.task == "gate", self.comp.outputs
        parts = (batch if is_gate else as_uint8(batch[..., :outputs]) for batch in batches)
        write_with(path, lambda temporary: _write_array(temporary, parts, len(examples)))

    def examples(self, comp: Competition) -> list[EncodedExample]:
        """Return all images, or their tiles, at a size of records."""
        size = self.source.model_copy(update={"records": comp.records})
        records.make_records(self.home, size)
        ids = read_manifest(self.home, "train")["image_id"].tolist()
        empty = encode_mask(None, comp)
        stored = records.read_records(self.home.records(comp.records.size), ids)
        return [_WithoutMask(example, empty) for example in stored]

    def write(self) -> LabelSetResult:
        """Write the labels of the fold from the predictions of all of its networks."""
        stage = self.stage()

        def work() -> tuple[LabelSetResult, dict[Path, str]]:
            frame, hashes = write_label_set(
                stage.stamp.parent, self.labeled(), self.comp, self.options.confidence, self.options.soft
            )
            kept = frame[frame["kept"] == 1]
            if kept.empty:
                raise GatemaskError(
                    "No label is sure enough.",
                    where=f"fold {self.fold}",
                    received=f"confidences up to {frame['confidence'].max():.3f}",
                    expected=f"at least {self.options.confidence}",
                    do="Lower --confidence, or train better networks first.",
                )
            return LabelSetResult(fold=self.fold, labeled=len(kept), positives=int((kept["label"] > 0).sum())), hashes

        return stage.run(work, self.tidy)

    def labeled(self) -> Iterator[Labeled]:
        """Yield each image, or tile, with its label."""
        predictions = {
            task: [np.load(self.predicted(n), mmap_mode="r") for n in self.networks if n.exp.task == task]
            for task in ("mask", "gate")
        }
        size, classes = self.comp.records.shape, len(self.comp.classes)
        for index, example in enumerate(self.examples(self.comp)):
            maps = [resize_map(array[index], size) for array in predictions["mask"]]
            gates = [array[index] for array in predictions["gate"]]
            yield label_image(
                example, _mean(maps) / 255 if maps else None, _mean_gate(gates, classes) if gates else None, classes
            )

    def tidy(self) -> None:
        """Remove the predictions."""
        for path in self.folder.glob("*.npy"):
            path.unlink()


def _write_array(path: Path, parts: Iterator[np.ndarray], count: int) -> None:
    """Write batches as one array, of which only a batch is in memory."""
    first = next(parts)
    array = np.lib.format.open_memmap(path, "w+", first.dtype, (count, *first.shape[1:]))
    start = 0
    for part in chain([first], parts):
        array[start : start + len(part)] = part
        start += len(part)
    array.flush()


def _mean_gate(gates: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Return the mean probability of gates, float32 (1,), or (classes,) if one of them tells classes apart."""
    if all(len(gate) == 1 for gate in gates):
        return _mean(gates)
    return _mean([np.broadcast_to(gate, (classes,)) for gate in gates])


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    mean: np.ndarray = np.stack(arrays).mean(axis=0, dtype=np.float32)
    return mean


def _label_all(sets: Sequence[_LabelSet]) -> dict[int, LabelSetResult]:
    """Label all folds: network by network, since the folds of an experiment share one model."""
    unfinished = [one for one in sets if one.stage().current() is None]
    for number in range(len(sets[0].networks)):
        for one in unfinished:
            one.predict(one.networks[number])
    return {one.fold: one.write() for one in sets}
