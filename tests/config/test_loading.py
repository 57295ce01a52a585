"""YAML loading: inheritance, overrides, and errors that name the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatemask.config import load_competition, load_ensemble, load_experiment
from gatemask.errors import GatemaskError

GATE = """task: gate
model: {name: gate, encoder: efficientnetb0}
input: {size: 64}
loss: {bce: 1}
epochs: 3
"""
MASK = GATE.replace("task: gate", "task: mask").replace("name: gate", "name: unet")


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "exp.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_name_defaults_to_the_file_stem(write) -> None:
    exp = load_experiment(write(GATE, "gate_b0.yaml"))
    assert (exp.name, exp.monitor, exp.optimizer.name) == ("gate_b0", "auc", "adam")


def test_extends_merges_keys_but_replaces_loss_and_renamed_sections(write) -> None:
    write(GATE + "schedule: {name: warmup_hold_decay, peak: 0.1, warmup: 3}\nlabel_smoothing: 0.2\n", "base.yaml")
    exp = load_experiment(
        write("extends: base.yaml\nloss: {focal: 2}\nschedule: {name: cosine}\nmodel: {dropout: 0.5}\n")
    )
    assert exp.loss == {"focal": 2}
    assert (exp.schedule.name, exp.schedule.warmup) == ("cosine", 0)
    assert (exp.model.dropout, exp.model.encoder, exp.label_smoothing) == (0.5, "efficientnetb0", 0.2)


def test_circular_extends_is_rejected(write) -> None:
    write("extends: b.yaml\n", "a.yaml")
    with pytest.raises(GatemaskError, match="circle"):
        load_experiment(write("extends: a.yaml\n", "b.yaml"))


def test_overrides_take_precedence_over_quick(write) -> None:
    path = write(GATE + "quick: {epochs: 1, input: {size: 32}}\n")
    exp = load_experiment(path, quick=True, overrides=["epochs=2", "schedule.peak=1e-4"])
    assert (exp.epochs, exp.input.size, exp.schedule.peak) == (2, 32, 1e-4)
    assert load_experiment(path).epochs == 3


def test_settings_exclude_tracking_and_quick(write) -> None:
    plain = load_experiment(write(GATE)).settings
    tracked = load_experiment(write(GATE + "tracking: {wandb: disabled}\nquick: {epochs: 1}\n")).settings
    assert plain == tracked
    assert plain != load_experiment(write(GATE), overrides=["seed=1"]).settings


BAD = {
    "an unknown key": (GATE + "epoch: 3\n", ["Unknown key 'epoch'", "line 6", "'epochs'"]),
    "an unknown key inside": (GATE + "optimizer: {nam: adam}\n", ["optimizer.nam", "line 6", "'name'"]),
    "an unknown model": (GATE.replace("efficientnetb0", "efficientnetb9"), ["efficientnetb9", "line 2", "netb0"]),
    "an unknown loss": (GATE.replace("bce", "bcee"), ["bcee", "line 4", "'bce'"]),
    "an unknown augmentation": (GATE + "augment: [vflop]\n", ["vflop", "line 6", "vflip"]),
    "two augmentations in one step": (GATE + "augment: [{hflip: 0.5, vflip: 0.5}]\n", ["one key", "line 6"]),
    "mixing for masks": (MASK + "augment: [mixup]\n", ["mixup", "gates"]),
    "weights for another encoder": (
        GATE.replace("efficientnetb0}", "efficientnetb0, weights: efficientnet-b3_noisy-student_notop.h5}"),
        ["another encoder", "efficientnetb3", "efficientnetb0"],
    ),
    "noisy-student weights for a ResNet": (
        GATE.replace("efficientnetb0}", "resnet18, weights: noisy-student}"),
        ["noisy-student", "resnet18"],
    ),
    "a gate with a loss of shapes": (GATE.replace("bce: 1", "lovasz: 1"), ["lovasz", "gate"]),
    "an option of another loss": (MASK.replace("bce: 1", "bce: {gamma: 2}"), ["bce", "gamma"]),
    "deep supervision of a U-Net": (MASK.replace("b0}", "b0, deep_supervision: true}"), ["unetpp"]),
    "layers never unfrozen": (MASK + "freeze: {epochs: 3}\n", ["freeze", "unfrozen"]),
    "a floor above the peak": (MASK + "schedule: {peak: 1.0e-3, floor: 1.0e-2}\n", ["floor", "peak"]),
    "random views without augmentation": (MASK + "tta: [{random: 3}]\n", ["random", "augment"]),
    "two clips": (MASK + "optimizer: {clipnorm: 1, clipvalue: 1}\n", ["clipnorm", "clipvalue"]),
    "momentum for Adam": (MASK + "optimizer: {momentum: 0.9}\n", ["momentum", "sgd"]),
    "a value of the wrong kind": (GATE.replace("epochs: 3", "epochs: many"), ["epochs", "line 5", "many"]),
    "too small a value": (GATE.replace("epochs: 3", "epochs: 0"), ["epochs", "line 5", "0"]),
    "a size not divisible by 32": (GATE.replace("64", "100"), ["input.size", "line 3", "100", "32"]),
    "a missing key": (GATE.replace("epochs: 3", ""), ["Missing key: 'epochs'"]),
    "a key given twice": (GATE + "epochs: 4\n", ["Repeated key: 'epochs'", "lines 5 and 6"]),
    "broken YAML": (GATE + "  - : [\n", ["Not valid YAML", "line"]),
    "a list": ("- a\n- b\n", ["must be a mapping"]),
    "a gate with a mask loss": (GATE.replace("bce", "dice"), ["'dice' is a loss for masks"]),
    "a gate with a U-Net": (GATE.replace("name: gate,", "name: unet,"), ["gate", "unet"]),
    "a gate that monitors Dice": (GATE + "monitor: dice\n", ["monitor"]),
    "a zoom that shrinks": (GATE + "augment: [{affine: {zoom: [1.2, 0.8]}}]\n", ["zoom", "line 6"]),
    "a negative seed": (GATE + "seed: -1\n", ["seed", "line 6", "-1"]),
    "two bases": ("extends: [a.yaml, b.yaml]\n", ["'extends' takes one file", "line 1"]),
    "a custom tag": ("task: !include x\n", ["Not valid YAML", "line 1"]),
    "a missing base": ("extends: nowhere.yaml\n", ["No such file", "nowhere.yaml"]),
}


@pytest.mark.parametrize("what", BAD)
def test_invalid_experiments_are_rejected_with_file_and_line(write, what: str) -> None:
    text, words = BAD[what]
    with pytest.raises(GatemaskError) as caught:
        load_experiment(write(text))
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "exp.yaml" in str(caught.value) or "nowhere.yaml" in str(caught.value)


@pytest.mark.parametrize("override", ["epochs", "=3", "epochs=none", "optimizer.nam=sgd"])
def test_invalid_overrides_are_rejected_by_name(write, override: str) -> None:
    with pytest.raises(GatemaskError, match=override.split("=")[0] or "key=value"):
        load_experiment(write(GATE), overrides=[override])


COMPETITION = """title: T
raw: here
image: {size: [8, 8]}
train: {images: "*.png"}
labels: {format: png, masks: "m/{id}.png"}
folds: {holdout: true}
"""


def test_competition_name_defaults_to_its_folder(write, tmp_path: Path) -> None:
    write(COMPETITION.replace("T", "Tiles"), "competition.yaml")
    folder = tmp_path.rename(tmp_path.with_name("tiles"))
    assert load_competition(folder).name == "tiles"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (COMPETITION.replace("masks:", "mask:"), ["labels.mask", "'masks'", "line 5"]),
        (COMPETITION.replace("format: png", "format: pngs"), ["labels", "line 5"]),
        (COMPETITION.replace("{holdout: true}", "{k: 4}"), ["'test' names the test images"]),
        (COMPETITION + "extra: {file: meta.csv}\n", ["'file' and 'columns' go together"]),
        (COMPETITION + "extra: {dicom: [Modality, Modality]}\n", ["named twice"]),
        (COMPETITION + "extra: {dicom: [group]}\n", ["'group' is a column of every manifest"]),
        (COMPETITION.replace("true}", "true, stratify: [view]}"), ["folds.stratify names 'view'"]),
        (COMPETITION.replace("image: {", "image: {window: [40, 0], "), ["image.window must", "not [40, 0]", "line 3"]),
        (COMPETITION + "folds_: {k: 1}\n", ["folds_", "'folds'"]),
    ],
)
def test_invalid_competitions_are_rejected(write, tmp_path: Path, text: str, words: list[str]) -> None:
    write("name: c\n" + text, "competition.yaml")
    offset = 1  # the added name moves every line down by one
    with pytest.raises(GatemaskError) as caught:
        load_competition(tmp_path)
    for word in words:
        word = f"line {int(word[5:]) + offset}" if word.startswith("line ") else word
        assert word in str(caught.value), str(caught.value)


def test_ensemble_requires_experiments(write, tmp_path: Path) -> None:
    write("gate: {experiments: []}\nmask: {experiments: [u]}\n", "ensemble.yaml")
    with pytest.raises(GatemaskError, match=r"gate\.experiments"):
        load_ensemble(tmp_path)


@pytest.mark.parametrize(
    ("gate", "mask", "words"),
    [
        ("{experiments: [g]}", "{experiments: [u, v], weights: [1]}", ["1 'weights' for 2 experiments", "line 2"]),
        ("{experiments: [g]}", "{experiments: [u, v], weights: [0, 0.0]}", ["all 'weights' are 0"]),
        ("{experiments: [g]}", "{experiments: [u, v], weights: [1, -1]}", ["mask.weights.1", "greater than or equal"]),
        ("{experiments: [g]}", "{experiments: [u, v], weights: [1, .inf]}", ["mask.weights.1", "finite"]),
        ("{experiments: [g]}", "{experiments: [u, v], weights: tunde}", ["mask.weights", "tunde"]),
        ("{experiments: [g, h], weights: tuned}", "{experiments: [u]}", ["gate.weights", "only mask weights"]),
        ("{experiments: [g, h], weights: [1, 2, 3]}", "{experiments: [u]}", ["3 'weights' for 2", "line 1"]),
    ],
)
def test_invalid_weights_are_rejected(write, tmp_path: Path, gate: str, mask: str, words: list[str]) -> None:
    write(f"gate: {gate}\nmask: {mask}\n", "ensemble.yaml")
    with pytest.raises(GatemaskError) as caught:
        load_ensemble(tmp_path)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_weights_default_to_equal(write, tmp_path: Path) -> None:
    write("gate: {experiments: [g, h], weights: [1, 0]}\nmask: {experiments: [u], weights: tuned}\n", "ensemble.yaml")
    assert load_ensemble(tmp_path).gate.weights == [1, 0]
    assert load_ensemble(tmp_path).mask.weights == "tuned"
    write("gate: {experiments: [g]}\nmask: {experiments: [u]}\n", "ensemble.yaml")
    assert load_ensemble(tmp_path).mask.weights == "equal"
