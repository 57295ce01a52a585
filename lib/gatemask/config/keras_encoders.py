"""The encoders of keras.applications, with the weights published for each: file names, addresses, hashes.

A test compares them with what keras.applications itself asks for.
"""

from __future__ import annotations

from gatemask.config.encoder_info import EncoderInfo, Family, PublishedWeights

BASE = "https://storage.googleapis.com/tensorflow/keras-applications/"

EFFICIENTNET_V2_B = Family("EfficientNetV2", "Tan 2021", "keras", "torch")
EFFICIENTNET_V2 = EFFICIENTNET_V2_B._replace(normalization="tf128")
CONVNEXT = Family("ConvNeXt", "Liu 2022", "keras", "torch", strides=(4, 8, 16, 32))
RESNET_V2 = Family("ResNetV2", "He 2016", "keras", "tf")


def _encoder(family: Family, parameters: int, file: str, digest: str) -> EncoderInfo:
    """Return an entry; `file` is a path below BASE."""
    folder, name = file.split("/")
    return EncoderInfo(family, parameters, {"imagenet": PublishedWeights(name, f"{BASE}{folder}/", digest)})


APPLICATIONS: dict[str, EncoderInfo] = {
    "efficientnetv2b0": _encoder(
        EFFICIENTNET_V2_B, 5919312, "efficientnet_v2/efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"
    ),
    "efficientnetv2b1": _encoder(
        EFFICIENTNET_V2_B, 6931124, "efficientnet_v2/efficientnetv2-b1_notop.h5", "0e80663031ca32d657f9caa404b6ec37"
    ),
    "efficientnetv2b2": _encoder(
        EFFICIENTNET_V2_B, 8769374, "efficientnet_v2/efficientnetv2-b2_notop.h5", "1dfe2e7a5d45b6632553a8961ea609eb"
    ),
    "efficientnetv2b3": _encoder(
        EFFICIENTNET_V2_B, 12930622, "efficientnet_v2/efficientnetv2-b3_notop.h5", "f6abf7b5849ac99a89b50dd3fd532856"
    ),
    "efficientnetv2s": _encoder(
        EFFICIENTNET_V2, 20331360, "efficientnet_v2/efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070"
    ),
    "efficientnetv2m": _encoder(
        EFFICIENTNET_V2, 53150388, "efficientnet_v2/efficientnetv2-m_notop.h5", "1b8dc055df72dde80d614482840fe342"
    ),
    "efficientnetv2l": _encoder(
        EFFICIENTNET_V2, 117746848, "efficientnet_v2/efficientnetv2-l_notop.h5", "b0b66b5c863aef5b46e8608fe1711615"
    ),
    "convnext_tiny": _encoder(
        CONVNEXT,
        27820128,
        "convnext/convnext_tiny_notop.h5",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
    "convnext_small": _encoder(
        CONVNEXT,
        49454688,
        "convnext/convnext_small_notop.h5",
        "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
    ),
    "convnext_base": _encoder(
        CONVNEXT,
        87566464,
        "convnext/convnext_base_notop.h5",
        "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
    ),
    "convnext_large": _encoder(
        CONVNEXT,
        196230336,
        "convnext/convnext_large_notop.h5",
        "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd",
    ),
    "convnext_xlarge": _encoder(
        CONVNEXT,
        348147968,
        "convnext/convnext_xlarge_notop.h5",
        "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05",
    ),
    "resnet50v2": _encoder(
        RESNET_V2,
        23564800,
        "resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "fac2f116257151a9d068a22e544a4917",
    ),
    "resnet101v2": _encoder(
        RESNET_V2,
        42626560,
        "resnet/resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "c0ed64b8031c3730f411d2eb4eea35b5",
    ),
    "resnet152v2": _encoder(
        RESNET_V2,
        58331648,
        "resnet/resnet152v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "ed17cf2e0169df9d443503ef94b23b33",
    ),
}
