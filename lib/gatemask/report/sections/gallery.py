"""The gallery: out-of-fold images whose layers are blended by a slider, the best and the typical ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from gatemask.plots.gallery import LAYERS, GalleryImage, class_color, draw_layers
from gatemask.report import markup
from gatemask.report.inputs import Inputs
from gatemask.report.pictures import Pictures, webp
from gatemask.report.shown import Decided, open_decided

EACH = 4  # images of a kind


def body(inputs: Inputs, pictures: Pictures) -> str:
    """Return the best and the typical masks.

    Raises:
        NotYet: No fold of a mask network is finished.
    """
    with open_decided(inputs) as decided:
        chosen = choose_images(decided)
        if not any(map(len, chosen.values())):
            return markup.paragraph(decided.about, "No mask that was predicted overlaps its truth yet.")
        parts = [markup.paragraph(decided.about), legend(inputs.comp.classes), _all_images()]
        for kind, indices in chosen.items():
            if len(indices):
                shown = shots(decided, pictures, [(int(index), "") for index in indices])
                parts += [markup.heading(kind), shown]
    return "".join(parts)


def choose_images(decided: Decided, each: int = EACH) -> dict[str, np.ndarray]:
    """Return indices of images with a mask: the best, and those in the middle of all that were found."""
    dice = decided.dice.mean(axis=1)
    positive = decided.counted.truth.sum(axis=1) > 0
    order = np.flatnonzero(positive)[np.argsort(-dice[positive], kind="stable")]
    hit = order[dice[order] > 0]
    middle = max(0, (len(hit) - each) // 2)
    best = hit[:each]
    return {"Best": best, "Typical": np.setdiff1d(hit[middle : middle + each], best, assume_unique=True)}


def shots(decided: Decided, pictures: Pictures, chosen: Sequence[tuple[int, str]]) -> str:
    """Return images side by side, each with a slider between its layers.

    Args:
        decided: Images under rules.
        pictures: Pictures of the page; images that do not fit any more are left out.
        chosen: Index of each image, and what to say about it first.
    """
    figures = []
    for index, remark in chosen:
        image = decided.inputs.problems.guard(
            f"image {decided.counted.ids[index]}", partial(decided.image, index), None
        )
        if image is None:
            continue
        layers = pictures.image(image.name, partial(_encoded, image))
        if layers is not None:
            figures.append(_shot(image, layers, remark, pictures.count()))
    return f'<div class="shots">{"".join(figures)}</div>'


def _encoded(image: GalleryImage) -> dict[str, str]:
    layers = draw_layers(image)
    return {name: webp(layers[name], lossless=name in ("truth", "mask")) for name in LAYERS}


def _shot(image: GalleryImage, layers: Mapping[str, str], remark: str, number: int) -> str:
    name = markup.text(image.name)
    told = {
        "image": f"Image {image.name}",
        "truth": f"Truth of {image.name}: {int(image.truth.sum())} pixels",
        "map": f"Probability map of {image.name}, at most {image.full_map.max() / 255:.2f}",
        "mask": f"Final mask of {image.name}: {int(image.mask.sum())} pixels",
    }
    stack = "".join(f'<img class="{layer}" alt="{markup.text(told[layer])}" src="{layers[layer]}">' for layer in LAYERS)
    gate = "" if image.gate is None else f" · gate {image.gate:.3f}"
    facts = f"Dice {image.dice:.3f}{gate} · truth {int(image.truth.sum())} px · mask {int(image.mask.sum())} px"
    first = f"<b>{markup.text(remark)}</b> " if remark else ""
    slider = _slider("Layer", f"of {image.name}", f"layer-{number}")
    caption = f"<figcaption>{first}<b>{name}</b>, fold {image.fold}<br>{facts}</figcaption>"
    return f'<figure class="shot"><div class="layers">{stack}</div>{slider}{caption}</figure>'


def _slider(label: str, of: str, identity: str) -> str:
    """Return a slider between the layers.

    Args:
        label: Text above it.
        of: What it belongs to, for screen readers.
        identity: Its id.
    """
    last = len(LAYERS) - 1
    stops = "".join(f"<span>{layer}</span>" for layer in LAYERS)
    return (
        f'<div class="slider"><div class="head"><label for="{identity}">{label}'
        f'<span class="hidden"> {markup.text(of)}</span></label><output for="{identity}">{LAYERS[last]}</output></div>'
        f'<input id="{identity}" type="range" min="0" max="{last}" step="0.05" value="{last}" '
        f'aria-valuetext="{LAYERS[last]}"><div class="stops" aria-hidden="true">{stops}</div></div>'
    )


def _all_images() -> str:
    return f'<div class="all">{_slider("All images", "at once", "all-images")}</div>'


def legend(classes: Sequence[str]) -> str:
    """Return the colors of masks; of several classes, the color of each."""
    if len(classes) == 1:
        colors = {"truth": "var(--green)", "final mask": "var(--red)"}
    else:
        colors = {name: class_color(index) for index, name in enumerate(classes)}
    parts = [
        f'<span><svg viewBox="0 0 8 8" aria-hidden="true"><rect width="8" height="8" rx="1.5" fill="{color}"/></svg>'
        f"{markup.text(name)}</span>"
        for name, color in colors.items()
    ]
    return f'<p class="legend">{"".join(parts)}</p>'
