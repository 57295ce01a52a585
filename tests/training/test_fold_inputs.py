"""Settings of an experiment that depend on its competition."""

from __future__ import annotations

import pytest

from gatemask.config import Competition, Experiment
from gatemask.errors import GatemaskError
from gatemask.training.fold_inputs import class_weights
from tests.data.test_manifest import competition
from tests.fold_results import mask_settings


def tissue() -> Competition:
    return competition().model_copy(update={"classes": ("cell", "nucleus", "wall")})


def test_classes_without_a_weight_count_once() -> None:
    comp = tissue()
    exp = Experiment.model_validate({**mask_settings(), "class_weights": {"wall": 0.5, "cell": 2}})
    assert class_weights(comp, exp) == (2, 1, 0.5)
    assert class_weights(comp, Experiment.model_validate(mask_settings())) == ()


def test_weights_of_unknown_classes_are_rejected() -> None:
    exp = Experiment.model_validate({**mask_settings(), "class_weights": {"nuclei": 2}})
    with pytest.raises(GatemaskError, match="Unknown class 'nuclei'") as raised:
        class_weights(tissue(), exp)
    assert raised.value.details["expected"] == "cell, nucleus, wall"
