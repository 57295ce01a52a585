"""YAML loading: inheritance, overrides, and errors that name the place."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

from gatemask import config
from gatemask.config import LossPart, load_competition, load_ensemble, load_experiment
from gatemask.errors import GatemaskError
from gatemask.project import PRODUCTS, open_project
from gatemask.stages import TABLE
from tests.data.test_manifest import competition

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


def test_options_added_later_leave_settings_of_older_runs_unchanged(write) -> None:
    text = MASK.replace("bce: 1", "bce: 1, focal: {gamma: 1}")
    settings = load_experiment(write(text)).settings
    assert settings["loss"] == {"bce": 1, "focal": {"weight": 1.0, "gamma": 1, "alpha": None, "beta": None}}
    assert "class_weights" not in settings
    assert "weight_decay_on" not in settings["optimizer"]
    of_model = ["name", "encoder", "weights", "block", "filters", "dropout", "batchnorm_momentum"]
    assert list(settings["model"]) == [*of_model, "deep_supervision", "gate_head"]
    attentive = load_experiment(write(MASK.replace("b0}", "b0, attention: scse, output_stride: 2}"))).settings["model"]
    assert (attentive["attention"], attentive["output_stride"]) == ("scse", 2)
    topk = load_experiment(write(MASK + "class_weights: {cell: 2}\n"), overrides=["loss={topk: {share: 0.2}}"]).settings
    assert topk["loss"]["topk"]["share"] == 0.2
    assert topk["class_weights"] == {"cell": 2}
    steps = load_experiment(write(MASK + "augment: [hflip, noise]\ntta: [hflip, {rotate: 90}]\n")).settings
    first_steps = "hflip vflip turn affine zoom_to_mask elastic grid brightness_contrast gamma hue saturation blur"
    assert steps["augment"][0] == {
        **dict.fromkeys([*first_steps.split(), "coarse_dropout", "mixup", "cutmix"]),
        "hflip": 0.5,
    }
    assert steps["augment"][1]["noise"] == {"p": 0.2, "sigma": [2, 10]}
    assert steps["tta"][0] == {"hflip": True, "vflip": False, "scale": None, "random": None}
    assert steps["tta"][1]["rotate"] == 90
    assert steps["input"] == {"size": 64, "records": None}
    crop = load_experiment(write(MASK.replace("size: 64", "size: 64, crop: 32"))).settings["input"]
    assert crop == {"size": 64, "records": None, "crop": 32}


BAD = {
    "an unknown key": (GATE + "epoch: 3\n", ["Unknown key 'epoch'", "line 6", "'epochs'"]),
    "an unknown key inside": (GATE + "optimizer: {nam: adam}\n", ["optimizer.nam", "line 6", "'name'"]),
    "an unknown model": (GATE.replace("efficientnetb0", "efficientnetb9"), ["efficientnetb9", "line 2", "netb0"]),
    "an unknown loss": (GATE.replace("bce", "bcee"), ["bcee", "line 4", "'bce'"]),
    "an unknown augmentation": (GATE + "augment: [vflop]\n", ["vflop", "line 6", "vflip"]),
    "two augmentations in one step": (GATE + "augment: [{hflip: 0.5, vflip: 0.5}]\n", ["one key", "line 6"]),
    "a share above 1": (MASK + "augment: [{copy_paste: {hflip: 2}}]\n", ["hflip", "line 6"]),
    "weights for another encoder": (
        GATE.replace("efficientnetb0}", "efficientnetb0, weights: efficientnet-b3_noisy-student_notop.h5}"),
        ["another encoder", "efficientnetb3", "efficientnetb0"],
    ),
    "noisy-student weights for a ResNet": (
        GATE.replace("efficientnetb0}", "resnet18, weights: noisy-student}"),
        ["noisy-student", "resnet18"],
    ),
    "a gate with a loss of shapes": (GATE.replace("bce: 1", "lovasz: 1"), ["lovasz", "gate"]),
    "a gate that ranks pixels": (GATE.replace("bce: 1", "topk: 1"), ["topk", "bce or focal"]),
    "weights of classes for one probability": (GATE + "class_weights: {cell: 2}\n", ["class_weights", "per_class"]),
    "an option of another loss": (MASK.replace("bce: 1", "bce: {gamma: 2}"), ["bce", "gamma"]),
    "deep supervision of a gate": (GATE.replace("b0}", "b0, deep_supervision: true}"), ["deep_supervision", "unet"]),
    "attention of an FPN": (MASK.replace("unet,", "fpn, attention: scse,"), ["model.attention", "unetpp", "'fpn'"]),
    "a width of a U-Net": (MASK.replace("b0}", "b0, width: 64}"), ["model.width", "upernet", "'unet'"]),
    "an output stride of a SegFormer": (
        MASK.replace("unet,", "segformer, output_stride: 4,"),
        ["model.output_stride", "linknet", "'segformer'"],
    ),
    "an output stride of 8": (MASK.replace("b0}", "b0, output_stride: 8}"), ["output_stride", "2", "4", "8"]),
    "filters for blocks that are left out": (
        MASK.replace("b0}", "b0, output_stride: 4, filters: [64, 32, 16, 8, 8]}"),
        ["model.filters", "3 entries", "not 5", "output_stride is 4"],
    ),
    "too few filters": (MASK.replace("b0}", "b0, filters: [64, 32, 16, 8]}"), ["model.filters", "5 entries", "not 4"]),
    "filters of a LinkNet that stops early": (
        MASK.replace("unet,", "linknet, output_stride: 2, filters: [64, 32, 16, 8],"),
        ["model.filters", "linknet", "remove"],
    ),
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
    "noise that shrinks": (GATE + "augment: [{noise: {sigma: [9, 2]}}]\n", ["sigma", "line 6"]),
    "a quality above 100": (GATE + "augment: [{jpeg: {quality: [50, 101]}}]\n", ["quality", "line 6", "100"]),
    "qualities in the wrong order": (GATE + "augment: [{jpeg: {quality: [90, 50]}}]\n", ["quality", "smaller"]),
    "clips in the wrong order": (GATE + "augment: [{clahe: {clip: [3, 1]}}]\n", ["clip", "smaller"]),
    "a crop of the size of the input": (
        MASK.replace("size: 64", "size: 64, crop: 64"),
        ["input.crop must be smaller", "line 3", "64 x 64"],
    ),
    "a crop wider than the input": (
        MASK.replace("size: 64", "size: [96, 64], crop: [64, 96]"),
        ["input.crop must be smaller", "64 x 96"],
    ),
    "crops of a gate": (GATE.replace("size: 64", "size: 64, crop: 32"), ["input.crop", "mask networks"]),
    "a share of crops without crops": (
        MASK.replace("size: 64", "size: 64, crop_positives: 0.5"),
        ["crop_positives requires input.crop"],
    ),
    "tiles of oblong crops": (
        MASK.replace("size: 64", "size: 96, crop: [32, 64], predict: tiles"),
        ["predict: tiles", "square", "32 x 64"],
    ),
    "an oblique view": (MASK + "tta: [{rotate: 45}]\n", ["rotate", "line 6", "90"]),
    "a quarter turn of an oblong input": (
        MASK.replace("size: 64", "size: [64, 96]") + "tta: [{rotate: 90}]\n",
        ["rotate: 90", "square", "64 x 96"],
    ),
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


def test_a_renamed_section_says_which_options_it_does_not_inherit(write, capfd) -> None:
    write(MASK + "optimizer: {name: sgd, momentum: 0.9, clipnorm: 1.0}\n", "base.yaml")
    path = write("extends: base.yaml\noptimizer: {name: adamw}\n")
    assert load_experiment(path).optimizer.clipnorm is None
    shown = capfd.readouterr().err
    assert "optimizer 'adamw' inherits nothing: clipnorm" in shown
    assert "momentum" not in shown, "it belongs to sgd alone"


RECIPE = MASK + (
    "schedule: {name: warmup_hold_decay, peak: 0.1, warmup: 1}\n"
    "optimizer: {name: sgd, momentum: 0.9, clipnorm: 1.0, ema: 0.9, weight_decay: 0.1}\n"
)


@pytest.mark.parametrize(
    "overrides",
    [
        ["schedule.peak=1e-4", "schedule.name=cosine"],
        ["schedule.name=cosine", "schedule.peak=1e-4"],
        ["schedule={name: cosine}", "schedule.peak=1e-4"],
        ["schedule.peak=1e-4", "schedule={name: cosine, peak: 0.5}"],
        ["schedule.peak=1e-4", "schedule.peak=1e-4", "schedule.name=cosine"],
    ],
)
def test_the_order_of_overrides_does_not_matter(write, overrides: list[str]) -> None:
    schedule = load_experiment(write(RECIPE), overrides=overrides).schedule
    assert (schedule.name, schedule.peak, schedule.warmup) == ("cosine", 1e-4, 1)


def test_two_values_for_one_key_are_rejected(write) -> None:
    with pytest.raises(GatemaskError, match=r"'schedule\.peak' twice"):
        load_experiment(write(RECIPE), overrides=["schedule.peak=1e-4", "schedule.peak=1e-3"])


def test_overrides_change_only_what_they_name(write) -> None:
    text = RECIPE.replace("bce: 1", "bce: 1, dice: 2, focal: {weight: 3, gamma: 1}")
    loss = load_experiment(write(text), overrides=["loss.bce=3", "loss.focal=4", "loss.dice.weight=5"]).loss
    assert loss == {"bce": 3, "dice": LossPart(weight=5), "focal": LossPart(weight=4, gamma=1)}
    optimizer = load_experiment(write(text), overrides=["optimizer.name=adamw", "optimizer.momentum=null"]).optimizer
    assert (optimizer.name, optimizer.clipnorm, optimizer.ema, optimizer.weight_decay) == ("adamw", 1, 0.9, 0.1)
    with pytest.raises(GatemaskError, match=r"--set optimizer\.momentum=null"):
        load_experiment(write(text), overrides=["optimizer.name=adamw"])
    assert load_experiment(write(text), overrides=["loss={dice: 1}"]).loss == {"dice": 1}
    assert load_experiment(write(MASK), overrides=["loss.bce=3"]).settings["loss"] == {"bce": 3}


@pytest.mark.parametrize(
    ("text", "override"), [("tpu", "runtime.precision=bfloat16"), ("{precision: bfloat16}", "runtime=tpu")]
)
def test_a_word_for_a_section_merges_with_its_keys(write, text: str, override: str) -> None:
    runtime = load_experiment(write(MASK + f"runtime: {text}\n"), overrides=[override]).runtime
    assert (runtime.accelerator, runtime.precision) == ("tpu", "bfloat16")


def test_an_override_changes_one_of_two_sections_that_share_an_anchor(tmp_path: Path, write) -> None:
    text = COMPETITION.replace("{format: png, ", '{format: rle, file: x.csv, rle: &rle {base: 0, empty: "-1"}}  # ')
    write("name: c\n" + text + "submission: {rle: *rle}\n", "competition.yaml")
    loaded = load_competition(tmp_path, overrides=["labels.rle.base=1", 'labels.rle.empty=""'])
    assert (loaded.labels.rle.base, loaded.labels.rle.empty) == (1, "")  # type: ignore[union-attr]
    assert (loaded.submission.rle.base, loaded.submission.rle.empty) == (0, "-1")


def test_a_name_is_not_inherited(write) -> None:
    write("name: parent\n" + MASK, "parent.yaml")
    assert load_experiment(write("extends: parent.yaml\n", "child.yaml")).name == "child"


@pytest.mark.parametrize("other", ["exp2.yaml", "EXP2.yaml"])
def test_two_files_of_one_name_are_rejected(write, other: str) -> None:
    write(MASK, other)
    with pytest.raises(GatemaskError, match="Two experiments are called 'exp2'"):
        load_experiment(write("name: exp2\n" + MASK))
    write("name: exp2\n" + MASK, other)
    with pytest.raises(GatemaskError, match="would share a folder"):
        load_experiment(write("name: exp2\n" + MASK))


@pytest.mark.parametrize("name", sorted(PRODUCTS | {"Report", "TUNED", "a b", "ä", "x" * 101, "-x"}))
def test_names_of_other_products_are_rejected(write, name: str) -> None:
    with pytest.raises(GatemaskError, match=r"cannot (be called|name an experiment).*Rename its YAML"):
        load_experiment(write(MASK, f"{name}.yaml"))


def test_products_are_those_of_the_stages() -> None:
    files = [part for entry in TABLE for paths in entry.files for part in re.split(r",\s*", paths)]
    below = {part.split("/")[2] for part in files if part.startswith("runs/<comp>/")}
    # No experiment's name starts with a dot.
    assert {name for name in below if not name.startswith((".", "<"))} == PRODUCTS


WRONG_TYPES = {
    "true for a probability": ("augment: [{hflip: true}]", ["augment.0.hflip", "true", "not numbers"]),
    "yes for a probability": ("augment: [{hflip: yes}]", ["augment.0.hflip", "'yes'"]),
    "true in a range": ("augment: [{gamma: [true, 2]}]", ["augment.0.gamma.0", "true"]),
    "true for a share": ("sampling: {positives: true}", ["sampling.positives", "true"]),
    "true for a count": ("seed: true", ["seed", "true"]),
    "a number for true": ("tta_apart: 1", ["tta_apart", "1"]),
    "yes for true": ("checkpoints: {average: yes}", ["checkpoints.average", "Write true."]),
    "infinity": ("hours: .inf", ["hours", ".inf", "finite"]),
    "infinity by overflow": ("hours: 1e999", ["hours", "finite"]),
    "not a number": ("gate_loss: .nan", ["gate_loss", "finite"]),
    "infinity in a range": ("augment: [{affine: {zoom: [1, .inf]}}]", ["augment.0.affine.zoom.1", "finite"]),
    "infinity in a loss": ("gate_loss: -.inf", ["gate_loss", "-.inf"]),
    "sexagesimals": ("seed: 8:30", ["seed", "'8:30'"]),
    "underscores": ("seed: 1_000", ["seed", "Write 1000, without"]),
    "a quoted number": ('seed: "1"', ["seed", "Write 1, without quotes"]),
    "a float for a count": ("seed: 1e1", ["seed", "Write 10."]),
    "a decimal comma": ("hours: 8,5", ["hours", "Write 8.5, with a decimal point"]),
    "a decimal comma in braces": ("schedule: {peak: 0,001}", ["'schedule.001'", "decimal point: 0.001"]),
    "a number beyond 32 bits": ("seed: 4294967296", ["seed", "2147483647"]),
    "an unknown option of a loss": ("quick: {loss: {bce: {weigth: 2}}}", ["loss.bce.weigth", "Write 'weight'"]),
}


@pytest.mark.parametrize("what", WRONG_TYPES)
def test_values_of_another_type_are_rejected(write, what: str) -> None:
    text, words = WRONG_TYPES[what]
    with pytest.raises(GatemaskError) as caught:
        load_experiment(write(MASK + text + "\n"))
    for word in [*words, "exp.yaml, line 6"]:
        assert word in str(caught.value), str(caught.value)


QUICK = {
    "no mapping": ("quick: 5", ["'quick'", "line 6", "5"]),
    "a list": ("quick: [epochs]", ["'quick'", "line 6"]),
    "an unknown key": ("quick: {epoch: 1}", ["'epoch'", "line 6", "'epochs'"]),
    "an invalid value": ("quick: {epochs: 0}", ["'epochs'", "line 6"]),
    "a name": ("quick: {name: other}", ["'name' cannot be part of 'quick'", "line 6"]),
    "itself": ("quick: {quick: {epochs: 1}}", ["'quick' cannot be part of 'quick'", "line 6"]),
    "a contradiction": ("freeze: {epochs: 2}\nquick: {epochs: 1}", ["nothing would be unfrozen", "with 'quick'"]),
}


@pytest.mark.parametrize("what", QUICK)
@pytest.mark.parametrize("quick", [False, True])
def test_the_inside_of_quick_is_validated_with_the_file(write, what: str, quick: bool) -> None:
    text, words = QUICK[what]
    with pytest.raises(GatemaskError) as caught:
        load_experiment(write(MASK + text + "\n"), quick=quick)
    for word in words[: 1 if quick else None]:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("base", [".", "..", "/dev/null", "x" * 300, "exp.yaml/deeper"])
def test_extends_of_no_file_is_rejected(write, base: str) -> None:
    with pytest.raises(GatemaskError):
        load_experiment(write(f"extends: {base}\n"))


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
        (COMPETITION + "submission: {rle: {empty: -1}}\n", ["submission.rle.empty", "line 7", 'empty: "-1"']),
        (COMPETITION + "classes: [1, 2]\n", ["several classes need submission.class_column"]),
        (COMPETITION + "submission: {rle: {base: true}}\n", ["not true", "line 7"]),
        (COMPETITION.replace("[8, 8]", "[true, 8]"), ["image.size.0", "true", "line 3"]),
        (COMPETITION.replace("image: {", "image: {window: [true, 9], "), ["image.window must", "line 3"]),
        (COMPETITION.replace("image: {", "image: {window: [0, .inf], "), ["image.window must", "line 3"]),
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("My_Comp", ["lowercase letters, digits and hyphens", "my-comp", "Rename its folder"]),
        ("x-quick", ["the folders of 'x' with --quick", "Rename it"]),
        ("audit", ["runs/audit/", "Rename it"]),
        ("x-records-512", ["another competition's records on Kaggle", "'x-512'"]),
        ("x" * 101, ["100 characters"]),
    ],
)
def test_competition_names_that_collide_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    folder = tmp_path / "experiments" / name
    folder.mkdir(parents=True)
    (folder / "competition.yaml").write_text(COMPETITION)
    with pytest.raises(GatemaskError) as caught:
        load_competition(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    monkeypatch.setenv("GATEMASK_ROOT", str(tmp_path))
    (folder / "competition.yaml").write_text(COMPETITION + "name: fine\n")  # folders still carry the folder's name
    if name in ("x-quick", "audit"):
        with pytest.raises(GatemaskError, match="cannot be called"):
            open_project(name)


def test_ensemble_requires_experiments(write, tmp_path: Path) -> None:
    write("gate: {experiments: [g]}\nmask: {experiments: []}\n", "ensemble.yaml")
    with pytest.raises(GatemaskError, match=r"mask\.experiments"):
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


def test_channels_of_several_files_are_never_stored_as_jpeg() -> None:
    several = {"train": {"images": {"red": "{id}_r.png", "green": "{id}_g.png", "blue": "{id}_b.png"}}}
    image = {"size": [8, 8], "channels": 3}
    assert competition(image=image, **several).records.format == "png"
    stack = {"train": {"images": "{case}/{slice}.png", "id": "{case}_{slice}", "stack": {"by": "slice"}}}
    assert competition(image=image, **stack).records.format == "png"
    with pytest.raises(ValidationError, match=r"records\.format must be png"):
        competition(image=image, **several, records={"format": "jpeg"})


AUGMENT = (
    MASK + "augment: [hflip, {affine: {rotate: 7, zoom: [0.9, 1.1]}}, blur, {gamma: [0.8, 1.2]}, {gamma: [1, 2]}]\n"
)


def test_set_names_steps_of_a_list_by_key_or_number(write) -> None:
    overrides = ["augment.affine.rotate=12", "augment.hflip=0.3", "augment.4.gamma=[1, 3]"]
    steps = load_experiment(write(AUGMENT), overrides=overrides).augment
    assert steps[0].hflip == 0.3
    assert steps[1].affine is not None
    assert (steps[1].affine.rotate, steps[1].affine.zoom) == (12, (0.9, 1.1))
    assert steps[4].gamma == (1, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.afine.rotate=3", "Did you mean 'affine'"),
        ("augment.gamma=[1, 2]", "has several items called 'gamma'"),
        ("augment.blur.p=0.3", "'blur' has no options to set, because it is a bare word"),
        ("augment.7.p=0.3", "a number from 0 to 4"),
    ],
)
def test_set_rejects_steps_that_a_list_lacks(write, override: str, message: str) -> None:
    with pytest.raises(GatemaskError, match=re.escape(message)):
        load_experiment(write(AUGMENT), overrides=[override])


def test_a_name_that_is_imported_later_means_one_thing() -> None:
    for name in config.__all__:
        modules = [vars(import_module(f"gatemask.config.{module}")) for module in config._IMPORTED_LATER]
        assert len({id(values[name]) for values in modules if name in values}) <= 1, name
