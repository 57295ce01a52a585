"""The networks of gatemask in PyTorch, layer by layer, from the parts of timm and segmentation-models-pytorch.

The packages' own U-Nets differ from those of the Keras packages: their skip connections come from the end of a stage
instead of its expansion, which has six times the channels, and the encoder's last convolution is missing. Both are
restored here, so that the numbers of parameters on both sides are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn

FILTERS = (256, 128, 64, 32, 16)  # of the decoder, deepest first
SKIP_STAGES = (1, 2, 3, 5)  # whose first block halves the size: at 1/2, 1/4, 1/8 and 1/16, before it does


def build_network(name: str, encoder: str) -> nn.Module:
    """Return a network from normalized images, (b, 3, h, w), to logits, with random weights and one output.

    Args:
        name: "gate", "unet" or "unetpp".
        encoder: Name of the encoder in a YAML, such as "efficientnetb1".
    """
    packaged = f"efficientnet_{encoder.removeprefix('efficientnet')}"
    if name == "gate":
        return timm.create_model(packaged, num_classes=1, drop_rate=0.2, drop_path_rate=0.2)
    from segmentation_models_pytorch.base import SegmentationHead
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    features = Encoder(timm.create_model(packaged, drop_path_rate=0.2))
    channels = (3, *features.channels)
    decoder = UnetDecoder(channels, FILTERS) if name == "unet" else DenseDecoder(channels, FILTERS)
    return MaskNetwork(features, decoder, SegmentationHead(FILTERS[-1], 1, kernel_size=3))


class Encoder(nn.Module):
    """EfficientNet that returns its features from the full size to 1/32.

    Args:
        network: EfficientNet of timm.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.stem, self.stages = nn.Sequential(network.conv_stem, network.bn1), network.blocks
        self.head = nn.Sequential(network.conv_head, network.bn2)
        skips = [self.stages[stage][0].conv_pw.out_channels for stage in SKIP_STAGES]
        self.channels = (*skips, network.conv_head.out_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        features, x = [images], self.stem(images)
        for number, stage in enumerate(self.stages):
            if number in SKIP_STAGES:
                block = stage[0]
                x = block.bn1(block.conv_pw(x))
                features.append(x)
                # The rest of the block, as in timm; it changes the size, so it has no residual.
                x = block.bn3(block.conv_pwl(block.se(block.bn2(block.conv_dw(x)))))
                x = stage[1:](x)
            else:
                x = stage(x)
        return [*features, self.head(x)]


class DenseDecoder(nn.Module):
    """Decoder of U-Net++: node (i, j) joins all earlier nodes of its level and the enlarged node (i + 1, j - 1).

    Args:
        channels: Channels of the encoder's features, from the images on.
        filters: Channels of the levels, deepest first; the last ones are those of the full size.
    """

    def __init__(self, channels: Sequence[int], filters: Sequence[int]) -> None:
        super().__init__()
        self.depth = len(filters) - 1
        widths = {(level, 0): width for level, width in enumerate(channels[1:])}
        self.nodes = nn.ModuleDict()
        for column in range(1, self.depth + 1):
            for level in range(self.depth + 1 - column):
                incoming = widths[level + 1, column - 1] + sum(widths[level, earlier] for earlier in range(column))
                widths[level, column] = filters[self.depth - 1 - level]
                self.nodes[f"{level}{column}"] = _convolutions(incoming, widths[level, column])
        self.full = _convolutions(widths[0, self.depth], filters[-1])

    def forward(self, features: list[Tensor]) -> Tensor:
        nodes = {(level, 0): x for level, x in enumerate(features[1:])}
        for column in range(1, self.depth + 1):
            for level in range(self.depth + 1 - column):
                earlier = [nodes[level, k] for k in range(column)]
                joined = torch.cat([_enlarge(nodes[level + 1, column - 1]), *earlier], 1)
                nodes[level, column] = self.nodes[f"{level}{column}"](joined)
        return self.full(_enlarge(nodes[0, self.depth]))


class MaskNetwork(nn.Module):
    """Encoder, decoder and last convolution."""

    def __init__(self, encoder: Encoder, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(images)))


def _enlarge(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _convolutions(incoming: int, width: int) -> nn.Sequential:
    """Return two convolutions, each with BatchNorm and ReLU."""
    from segmentation_models_pytorch.base.modules import Conv2dReLU

    return nn.Sequential(Conv2dReLU(incoming, width, 3, padding=1), Conv2dReLU(width, width, 3, padding=1))
