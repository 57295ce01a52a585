"""U-Net++."""

from __future__ import annotations

import keras

from gatemask.builders.decoders.attention import attend
from gatemask.builders.decoders.blocks import Decoded, Features, convolve, transpose
from gatemask.builders.tensor import Tensor
from gatemask.config import Model
from gatemask.config.names import DEFAULT_FILTERS


def unetpp(config: Model, features: Features) -> Decoded:
    """U-Net++ (Zhou 2018): a triangle of nodes with dense skip connections between encoder and decoder.

    Node (i, j) is on level i (level 0 has half the input size) and in column j. Column 0 is the encoder. Node (i, j)
    joins all earlier nodes of its level and the enlarged node (i + 1, j - 1). A last block brings node (0, 4) to full
    size. `filters` are ordered as in U-Net: level 3 first, the last block last. With deep supervision, nodes (0, 1) to
    (0, 3) also get such a block and a head, and the prediction is the mean of all four: the paper's accurate mode.

    An `output_stride` of 2 leaves out the last blocks, one of 4 also level 0.

    Args:
        config: The experiment's `model:`.
        features: Features of the encoder. Nodes of a level that it lacks join those of the decoder alone.
    """
    filters = config.filters or DEFAULT_FILTERS[: config.enlargements]
    top = 1 if config.output_stride == 4 else 0
    nodes = {(level, 0): features[2 << level] for level in range(top, 5) if 2 << level in features}
    for j in range(1, 5 - top):
        for i in range(top, 5 - j):
            earlier = [nodes[i, k] for k in range(j) if (i, k) in nodes]
            nodes[i, j] = _node(nodes[i + 1, j - 1], earlier, filters[3 - i], config, f"node{i}{j}")
    last = 4 - top
    outputs = {"main" if j == last else f"deep{j}": nodes[top, j] for j in range(1, last + 1)}
    if not config.deep_supervision:
        outputs = {"main": outputs["main"]}
    if config.enlargements == 5:
        suffixes = {"main": "", **{name: f"_{name}" for name in outputs if name != "main"}}
        outputs = {name: _node(x, [], filters[4], config, f"full{suffixes[name]}") for name, x in outputs.items()}
    return Decoded(outputs.pop("main"), outputs, averaged=True)


def _node(below: Tensor, earlier: list[Tensor], filters: int, config: Model, name: str) -> Tensor:
    """Enlarge, join with earlier nodes of the level, and convolve: once after a transposed convolution, else twice."""
    if config.block == "upsampling":
        x = keras.layers.UpSampling2D(name=f"{name}_up")(below)
    else:
        x = transpose(below, filters, f"{name}_up", suffix="")
    if earlier:
        x = keras.layers.Concatenate(name=f"{name}_concat")([x, *earlier])
    for letter in "a" if config.block == "transpose" else "ab":
        x = convolve(x, filters, f"{name}_{letter}")
    return attend(x, config.attention, name)
