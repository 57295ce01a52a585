"""Out-of-fold images with the masks that a rule makes of them, whether the rule is tuned or only provisional."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gatemask.data.sources import ImageSource, own_pixels, read_source
from gatemask.data.training_sources import training_sources
from gatemask.data.truth import Masks
from gatemask.masks import rule as rules
from gatemask.masks import rule_files
from gatemask.masks.frame import Frame, comp_frame, resize
from gatemask.masks.metrics import dice_of_masks
from gatemask.masks.rule import Rule
from gatemask.oof.full_maps import read_full
from gatemask.oof.store import MapReader
from gatemask.oof.tables import Scorable, Tables, best_single_threshold, dice_per_image
from gatemask.plots.gallery import GalleryImage, crop_to_masks
from gatemask.report.inputs import Inputs, NotYet
from gatemask.results.tuning import TunedResult
from gatemask.tuning.final_pass import searched_on_masks
from gatemask.tuning.members import open_members
from gatemask.tuning.tune import load_counted


@dataclass
class Decided:
    """Out-of-fold images under rules.

    Args:
        inputs: Files of the competition.
        counted: Counts on which the rules are scored.
        rules: Rule of each class.
        by_count: The same as far as counts can tell.
        readers: Maps of each member.
        truth: True masks.
        weights: Weight of each reader; None for equal weights.
        frame: Frame of the maps; None where they show the image as a whole.
        about: What decides the masks, in one sentence.
        gated: Whether a gate decides, too.
    """

    inputs: Inputs
    counted: Scorable
    rules: Sequence[Rule]
    by_count: Sequence[Rule]
    readers: Sequence[MapReader]
    truth: Masks
    weights: Sequence[float] | None
    frame: Frame | None
    about: str
    gated: bool

    @cached_property
    def _decisive_gates(self) -> np.ndarray:
        """What the rules compare with their gates, float (n, classes)."""
        return self.counted.gate_scores(self.rules)

    def image(self, index: int) -> GalleryImage:
        """Return one image with its truth, map and mask; of a large image in tiles, the part around its masks."""
        comp = self.inputs.comp
        name, gate = str(self.counted.ids[index]), self.counted.gate[index]
        decisive = self._decisive_gates[index]
        shown = read_full(name, self.readers, self.truth, self.weights, self.frame)
        if comp.objects is None:
            mask = rules.decide(self.rules, decisive, shown.full_map, comp.exclusive)
        else:
            mask = rules.decide_objects(self.rules, decisive, shown.full_map, comp.exclusive) > 0
        truth = shown.truth
        if shown.ignored is not None:
            mask, truth = mask & ~shown.ignored[:, :, None], truth & ~shown.ignored[:, :, None]
        classes = range(len(self.rules))
        whole = GalleryImage(
            name=name,
            fold=int(self.counted.folds[index]),
            image=self._pixels(name, truth.shape[0], truth.shape[1]),
            truth=truth,
            full_map=shown.full_map[:, :, : len(self.rules)],
            mask=mask,
            dice=float(np.mean([dice_of_masks(truth[:, :, each], mask[:, :, each]) for each in classes])),
            gate=float(gate.max()) if self.gated else None,
        )
        return crop_to_masks(whole) if comp.tiles is not None else whole

    @cached_property
    def dice(self) -> np.ndarray:
        """Dice of each image and class, float (n, classes)."""
        return dice_per_image(self.counted, self.by_count)

    @cached_property
    def area(self) -> np.ndarray:
        """Number of pixels of each image's and class's mask, float (n, classes)."""
        return self.counted.counts(self.by_count)[1]

    @cached_property
    def _sources(self) -> Mapping[str, ImageSource]:
        return training_sources(self.inputs.project, self.inputs.comp)

    def _pixels(self, name: str, height: int, width: int) -> np.ndarray:
        """Return an image at the size of its truth; gray where the raw files are on another machine."""
        try:
            source = self._sources[name]
            image = own_pixels(read_source(source, self.inputs.comp.image), source)
        except Exception:  # the page shows masks even where no image can be read
            return np.full((height, width), 128, np.uint8)
        image = resize(image, (height, width))
        return image if image.shape[2] == 3 else image[:, :, image.shape[2] // 2]


@contextmanager
def open_decided(inputs: Inputs) -> Iterator[Decided]:
    """Open the out-of-fold images under the tuned rule, or else under a provisional one.

    Raises:
        NotYet: No fold of a mask network is finished.
        GatemaskError: Predictions are damaged.
    """
    if isinstance(inputs.tuned, TunedResult):
        with _tuned(inputs, inputs.tuned) as decided:
            yield decided
    else:
        with _provisional(inputs) as decided:
            yield decided


@contextmanager
def _tuned(inputs: Inputs, tuned: TunedResult) -> Iterator[Decided]:
    project, comp = inputs.project, inputs.comp
    shipped = rule_files.load_rules(project.tuned / "rule.yaml", comp.classes)
    by_count = [rules.without_components(rule) for rule in shipped] if searched_on_masks(comp) else shipped
    counted = load_counted(project, by_count)
    fold_of = dict(zip(counted.ids.tolist(), counted.folds.tolist(), strict=True))
    with open_members(project, comp, inputs.ensemble, fold_of, tuned.gate_weights) as members:
        yield Decided(
            inputs,
            counted,
            shipped,
            by_count,
            members.readers,
            members.truth,
            tuned.weights,
            members.frame,
            "Masks of the whole ensemble under the shipped rule, each image predicted by networks that never saw it.",
            bool(tuned.gate_weights),
        )


@contextmanager
def _provisional(inputs: Inputs) -> Iterator[Decided]:
    """Open the mask experiment with most finished folds, at the single threshold that suits positive images best."""
    project, comp = inputs.project, inputs.comp
    folds: dict[str, list[int]] = {}
    for (name, fold), result in inputs.results.items():
        if result.task == "mask":
            folds.setdefault(name, []).append(fold)
    if not folds:
        first = inputs.ensemble.mask.experiments[0]
        raise NotYet(f"Masks appear when a fold of a mask network is finished: {inputs.command('train', first, [0])}.")
    scores = {name: np.mean([inputs.results[name, fold].score for fold in found]) for name, found in folds.items()}
    name = max(folds, key=lambda each: (len(folds[each]), scores[each]))
    parts = [Tables.load(project.fold(name, fold) / "tables.npz") for fold in folds[name]]
    counted = Tables.join(parts, sum(map(len, parts)))
    # By positives: where most images are empty, an early network scores best with a threshold that nothing reaches.
    cuts = [best_single_threshold(counted.of_class(index), "dice_positives")[0] for index in range(counted.classes)]
    made = [Rule(0.0, cut, cut, 0) for cut in cuts]
    reader = MapReader([project.fold(name, fold) / "oof.h5" for fold in folds[name]])
    which = f"fold{'s' if len(folds[name]) > 1 else ''} {', '.join(map(str, folds[name]))}"
    about = (
        f"Before a rule is tuned: masks of {name} alone, {which}, at the threshold that suits its positive images best "
        f"({', '.join(f'{cut:.2f}' for cut in cuts)}). No gate and no minimum area."
    )
    try:
        frame = None if comp.tiles else comp_frame(comp)
        yield Decided(inputs, counted, made, made, [reader], Masks.of(project, comp), None, frame, about, False)
    finally:
        reader.close()
