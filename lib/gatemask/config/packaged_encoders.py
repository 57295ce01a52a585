"""The encoders of segmentation-models, with the weights published for each: file names, addresses, hashes.

A test compares them with what the package's own loading code asks for. The noisy-student weights (Xie 2020) are those
of efficientnet 1.1.
"""

from __future__ import annotations

from gatemask.config.encoder_info import EncoderInfo, Family, PublishedWeights

EFFICIENTNET_URL = "https://github.com/Callidior/keras-applications/releases/download/efficientnet/"
MOBILENET_V2_KERAS = "https://github.com/JonathanCMitchell/mobilenet_v2_keras/releases/download/v1.1/"
CHOLLET_01 = "https://github.com/fchollet/deep-learning-models/releases/download/v0.1/"
CHOLLET_05 = "https://github.com/fchollet/deep-learning-models/releases/download/v0.5/"
CHOLLET_06 = "https://github.com/fchollet/deep-learning-models/releases/download/v0.6/"
CHOLLET_07 = "https://github.com/fchollet/deep-learning-models/releases/download/v0.7/"
DENSENET_URL = "https://github.com/keras-team/keras-applications/releases/download/densenet/"
CLASSIFICATION = "https://github.com/qubvel/classification_models/releases/download/0.0.1/"
NOISY_STUDENT = "https://github.com/qubvel/efficientnet/releases/download/v0.0.1/"

EFFICIENTNET = Family("EfficientNet", "Tan 2019", "segmentation-models", "torch")
RESNET = Family("ResNet", "He 2015", "segmentation-models", "raw")
RESNEXT = Family("ResNeXt", "Xie 2016", "segmentation-models", "raw")
SE_RESNET = Family("SE-ResNet", "Hu 2017", "segmentation-models", "torch")
SE_RESNET_RAW = SE_RESNET._replace(normalization="raw")
SE_RESNEXT = Family("SE-ResNeXt", "Hu 2017", "segmentation-models", "torch")
SENET = Family("SENet", "Hu 2017", "segmentation-models", "torch")
DENSENET = Family("DenseNet", "Huang 2016", "segmentation-models", "torch")
INCEPTION = Family("Inception v3", "Szegedy 2015", "segmentation-models", "tf", smallest=96)
INCEPTION_RESNET = Family("Inception-ResNet v2", "Szegedy 2016", "segmentation-models", "tf", smallest=96)
MOBILENET = Family("MobileNet", "Howard 2017", "segmentation-models", "tf")
MOBILENET_V2 = Family("MobileNetV2", "Sandler 2018", "segmentation-models", "tf")
VGG = Family("VGG", "Simonyan 2014", "segmentation-models", "caffe")

# What segmentation-models offers; the EfficientNets are preferred.
PACKAGED: dict[str, EncoderInfo] = {
    "efficientnetb0": EncoderInfo(
        EFFICIENTNET,
        4049564,
        {
            "imagenet": PublishedWeights(
                "efficientnet-b0_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
                EFFICIENTNET_URL,
                "c1421ad80a9fc67c2cc4000f666aa50789ce39eedb4e06d531b0c593890ccff3",
            ),
            "noisy-student": PublishedWeights(
                "efficientnet-b0_noisy-student_notop.h5", NOISY_STUDENT, "a5b48ae7547fc990c7e4f3951230290d"
            ),
        },
    ),
    "efficientnetb1": EncoderInfo(
        EFFICIENTNET,
        6575232,
        {
            "imagenet": PublishedWeights(
                "efficientnet-b1_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
                EFFICIENTNET_URL,
                "75de265d03ac52fa74f2f510455ba64f9c7c5fd96dc923cd4bfefa3d680c4b68",
            ),
            "noisy-student": PublishedWeights(
                "efficientnet-b1_noisy-student_notop.h5", NOISY_STUDENT, "4d35baa41ca36f175506a33918f7e334"
            ),
        },
    ),
    "efficientnetb2": EncoderInfo(
        EFFICIENTNET,
        7768562,
        {
            "imagenet": PublishedWeights(
                "efficientnet-b2_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
                EFFICIENTNET_URL,
                "433b60584fafba1ea3de07443b74cfd32ce004a012020b07ef69e22ba8669333",
            ),
            "noisy-student": PublishedWeights(
                "efficientnet-b2_noisy-student_notop.h5", NOISY_STUDENT, "e496e531f41242598288ff3a4b4199f9"
            ),
        },
    ),
    "efficientnetb3": EncoderInfo(
        EFFICIENTNET,
        10783528,
        {
            "imagenet": PublishedWeights(
                "efficientnet-b3_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
                EFFICIENTNET_URL,
                "c5d42eb6cfae8567b418ad3845cfd63aa48b87f1bd5df8658a49375a9f3135c7",
            ),
            "noisy-student": PublishedWeights(
                "efficientnet-b3_noisy-student_notop.h5", NOISY_STUDENT, "47da5b154de1372b557a65795d3e6135"
            ),
        },
    ),
    "efficientnetb4": EncoderInfo(
        EFFICIENTNET,
        17673816,
        {
            "imagenet": PublishedWeights(
                "efficientnet-b4_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
                EFFICIENTNET_URL,
                "7942c1407ff1feb34113995864970cd4d9d91ea64877e8d9c38b6c1e0767c411",
            ),
            "noisy-student": PublishedWeights(
                "efficientnet-b4_noisy-student_notop.h5", NOISY_STUDENT, "47c10902a4949eec589ab92fe1c35ed8"
            ),
        },
    ),
    "efficientnetb5": EncoderInfo(
        EFFICIENTNET,
        28513520,
        {
            "imagenet": PublishedWeights(
                "efficientnet-b5_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
                EFFICIENTNET_URL,
                "9d197bc2bfe29165c10a2af8c2ebc67507f5d70456f09e584c71b822941b1952",
            ),
            "noisy-student": PublishedWeights(
                "efficientnet-b5_noisy-student_notop.h5", NOISY_STUDENT, "4d53ef3544d4114e2d8080d6d777a74c"
            ),
        },
    ),
    "efficientnetb6": EncoderInfo(
        EFFICIENTNET,
        40960136,
        {
            "imagenet": PublishedWeights(
                "efficientnet-b6_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
                EFFICIENTNET_URL,
                "1d0923bb038f2f8060faaf0a0449db4b96549a881747b7c7678724ac79f427ed",
            ),
            "noisy-student": PublishedWeights(
                "efficientnet-b6_noisy-student_notop.h5", NOISY_STUDENT, "71f96d7e15d9f891f3729b4f4e701f77"
            ),
        },
    ),
    "efficientnetb7": EncoderInfo(
        EFFICIENTNET,
        64097680,
        {
            "imagenet": PublishedWeights(
                "efficientnet-b7_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
                EFFICIENTNET_URL,
                "60b56ff3a8daccc8d96edfd40b204c113e51748da657afd58034d54d3cec2bac",
            ),
            "noisy-student": PublishedWeights(
                "efficientnet-b7_noisy-student_notop.h5", NOISY_STUDENT, "e112b00c464fe929b821edbb35d1af55"
            ),
        },
    ),
    "resnet18": EncoderInfo(
        RESNET,
        11186889,
        {
            "imagenet": PublishedWeights(
                "resnet18_imagenet_1000_no_top.h5", CLASSIFICATION, "318e3ac0cd98d51e917526c9f62f0b50"
            )
        },
    ),
    "resnet34": EncoderInfo(
        RESNET,
        21302473,
        {
            "imagenet": PublishedWeights(
                "resnet34_imagenet_1000_no_top.h5", CLASSIFICATION, "8caaa0ad39d927cb8ba5385bf945d582"
            )
        },
    ),
    "resnet50": EncoderInfo(
        RESNET,
        23546057,
        {
            "imagenet": PublishedWeights(
                "resnet50_imagenet_1000_no_top.h5", CLASSIFICATION, "db3b217156506944570ac220086f09b6"
            )
        },
    ),
    "resnet101": EncoderInfo(
        RESNET,
        42590409,
        {
            "imagenet": PublishedWeights(
                "resnet101_imagenet_1000_no_top.h5", CLASSIFICATION, "1016e7663980d5597a4e224d915c342d"
            )
        },
    ),
    "resnet152": EncoderInfo(
        RESNET,
        58280137,
        {
            "imagenet": PublishedWeights(
                "resnet152_imagenet_1000_no_top.h5", CLASSIFICATION, "5867b94098df4640918941115db93734"
            )
        },
    ),
    "resnext50": EncoderInfo(
        RESNEXT,
        23048137,
        {
            "imagenet": PublishedWeights(
                "resnext50_imagenet_1000_no_top.h5", CLASSIFICATION, "7ade5c8aac9194af79b1724229bdaa50"
            )
        },
    ),
    "resnext101": EncoderInfo(
        RESNEXT,
        42266569,
        {
            "imagenet": PublishedWeights(
                "resnext101_imagenet_1000_no_top.h5", CLASSIFICATION, "91fe0126320e49f6ee607a0719828c7e"
            )
        },
    ),
    "seresnet18": EncoderInfo(
        SE_RESNET_RAW,
        11275969,
        {
            "imagenet": PublishedWeights(
                "seresnet18_imagenet_1000_no_top.h5", CLASSIFICATION, "a46e5cd4114ac946ecdc58741e8d92ea"
            )
        },
    ),
    "seresnet34": EncoderInfo(
        SE_RESNET_RAW,
        21463669,
        {
            "imagenet": PublishedWeights(
                "seresnet34_imagenet_1000_no_top.h5", CLASSIFICATION, "3348fd049f1f9ad307c070ff2b6ec4cb"
            )
        },
    ),
    "seresnet50": EncoderInfo(
        SE_RESNET,
        26092144,
        {
            "imagenet": PublishedWeights(
                "seresnet50_imagenet_1000_no_top.h5", CLASSIFICATION, "043777781b0d5ca756474d60bf115ef1"
            )
        },
    ),
    "seresnet101": EncoderInfo(
        SE_RESNET,
        47383216,
        {
            "imagenet": PublishedWeights(
                "seresnet101_imagenet_1000_no_top.h5", CLASSIFICATION, "1c373b0c196918713da86951d1239007"
            )
        },
    ),
    "seresnet152": EncoderInfo(
        SE_RESNET,
        64924272,
        {
            "imagenet": PublishedWeights(
                "seresnet152_imagenet_1000_no_top.h5", CLASSIFICATION, "f58d4c1a511c7445ab9a2c2b83ee4e7b"
            )
        },
    ),
    "seresnext50": EncoderInfo(
        SE_RESNEXT,
        25579120,
        {
            "imagenet": PublishedWeights(
                "seresnext50_imagenet_1000_no_top.h5", CLASSIFICATION, "b0f23d2e1cd406d67335fb92d85cc279"
            )
        },
    ),
    "seresnext101": EncoderInfo(
        SE_RESNEXT,
        47044272,
        {
            "imagenet": PublishedWeights(
                "seresnext101_imagenet_1000_no_top.h5", CLASSIFICATION, "e48708cbe40071cc3356016c37f6c9c7"
            )
        },
    ),
    "senet154": EncoderInfo(
        SENET,
        113287536,
        {
            "imagenet": PublishedWeights(
                "senet154_imagenet_1000_no_top.h5", CLASSIFICATION, "d854ff2cd7e6a87b05a8124cd283e0f2"
            )
        },
    ),
    "densenet121": EncoderInfo(
        DENSENET,
        7037504,
        {
            "imagenet": PublishedWeights(
                "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
                DENSENET_URL,
                "30ee3e1110167f948a6b9946edeeb738",
            )
        },
    ),
    "densenet169": EncoderInfo(
        DENSENET,
        12642880,
        {
            "imagenet": PublishedWeights(
                "densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5",
                DENSENET_URL,
                "b8c4d4c20dd625c148057b9ff1c1176b",
            )
        },
    ),
    "densenet201": EncoderInfo(
        DENSENET,
        18321984,
        {
            "imagenet": PublishedWeights(
                "densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5",
                DENSENET_URL,
                "c13680b51ded0fb44dff2d8f86ac8bb1",
            )
        },
    ),
    "inceptionv3": EncoderInfo(
        INCEPTION,
        21802784,
        {
            "imagenet": PublishedWeights(
                "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
                CHOLLET_05,
                "bcbd6486424b2319ff4ef7d526e38f63",
            )
        },
    ),
    "inceptionresnetv2": EncoderInfo(
        INCEPTION_RESNET,
        54336736,
        {
            "imagenet": PublishedWeights(
                "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
                CHOLLET_07,
                "d19885ff4a710c122648d3b5c3b684e4",
            )
        },
    ),
    "mobilenet": EncoderInfo(
        MOBILENET, 3228864, {"imagenet": PublishedWeights("mobilenet_1_0_224_tf_no_top.h5", CHOLLET_06, None)}
    ),
    "mobilenetv2": EncoderInfo(
        MOBILENET_V2,
        2257984,
        {
            "imagenet": PublishedWeights(
                "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", MOBILENET_V2_KERAS, None
            )
        },
    ),
    "vgg16": EncoderInfo(
        VGG,
        14714688,
        {
            "imagenet": PublishedWeights(
                "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", CHOLLET_01, "6d6bbae143d832006294945121d1f1fc"
            )
        },
    ),
    "vgg19": EncoderInfo(
        VGG,
        20024384,
        {
            "imagenet": PublishedWeights(
                "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", CHOLLET_01, "253f8cb515780f3b799900260a226db6"
            )
        },
    ),
}
