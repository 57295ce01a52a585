"""Layer-wise decay of the learning rate: the shallower a layer of the encoder, the smaller its steps."""

from __future__ import annotations

import keras


def stage_depths(encoder: keras.Model) -> dict[int, int]:
    """Return the depth of the stage that each variable of an encoder belongs to, counted from the head.

    A stage ends with an output of the encoder: the features of one resolution. A layer belongs to the first output that
    it contributes to. This is read from the graph, so it holds for every encoder.

    Args:
        encoder: Encoder with one output per resolution, in any order.

    Returns:
        Depth by id of the variable: 1 in the stage of the deepest features, one more in each shallower stage.
    """
    ancestors = [keras.Model(encoder.inputs, output, name="stage").layers for output in encoder.outputs]
    depths: dict[int, int] = {}
    # The first stage has the fewest layers before its output, and its depth is the largest.
    for number, layers in enumerate(sorted(ancestors, key=len)):
        for layer in layers:
            for variable in layer.variables:
                depths.setdefault(id(variable), len(ancestors) - number)
    return depths


def rate_factors(encoder: keras.Model, decay: float) -> dict[int, float]:
    """Return the factor of the learning rate of each variable of an encoder (ELECTRA, Clark 2020; BEiT, Bao 2021).

    Args:
        encoder: Encoder with one output per resolution, in any order.
        decay: Factor from one stage to the next shallower one; the decoder's rate has no factor.

    Returns:
        Factor by id of the variable.
    """
    return {variable: decay**depth for variable, depth in stage_depths(encoder).items()}
