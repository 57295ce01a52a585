"""Conditions: a table of texts and decisions, and errors that name the nearest keys."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from gatemask.config import Experiment
from gatemask.config.flat import flatten_steps, schema_keys
from gatemask.errors import GatemaskError
from gatemask.runs.where import Where

ROW: dict[str, JsonValue] = {
    "name": "unet_b4",
    "epochs": 30,
    "score": 0.85,
    "gain": None,
    "model.encoder": "efficientnetb4",
    "tta_apart": False,
    "tags": ["baseline", "v2"],
    "note": "two words",
    "filters": [64, 32],
    "empty": [],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs>10", True),
        ("epochs > 30", False),
        ("epochs>=30 and epochs<=30", True),
        ("epochs=30", True),
        ("epochs==30.0", True),
        ("epochs!=30", False),
        ("epochs=3e1", True),
        ("score<0.9", True),
        ("model.encoder~b4", True),
        ("model.encoder~B4", True),
        ("model.encoder~.*", False),
        ("model.encoder=EfficientNetB4", True),
        ("epochs>10 and model.encoder~b4", True),
        ("epochs>100 or model.encoder~b4", True),
        ("epochs>100 or epochs>50 and name~unet", False),
        ("(epochs>100 or epochs>5) and name~unet", True),
        ("not epochs>10", False),
        ("not (epochs>100 and not name~x)", True),
        ("NOT epochs>10 OR name=unet_b4", True),
        ("gain=null", True),
        ("gain!=none", False),
        ("gain>-5", False),
        ("gain<5", False),
        ("tta_apart=false", True),
        ("tta_apart=yes", False),
        ("tta_apart=0", False),
        ("tags=v2", True),
        ("tags=v", False),
        ("tags~base", True),
        ("tags!=v2", False),
        ("note='two words'", True),
        ('note~"o w"', True),
        ("note=two", False),
        ("filters=32", True),
        ("filters=64,32", True),
        ("filters>50", True),
        ("empty=null", False),
        ("name<v", True),
        ("name>v", False),
        ("absent=null", True),
    ],
)
def test_decisions(text: str, expected: bool) -> None:
    assert Where(text, {*ROW, "absent"})(ROW) is expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch>10", ["Unknown key 'epoch'", "Write 'epochs' instead"]),
        ("encoder~b4", ["Unknown key 'encoder'", "model.encoder"]),
        ("zzz=1", ["Unknown key 'zzz'", "gatemask runs show"]),
        ("", ["cannot be read", "its end", "a key such as"]),
        ("epochs", ["its end", "an operator after 'epochs'"]),
        ("epochs>", ["a value after 'epochs' >"]),
        ("epochs>10 name~x", ["'and' or 'or' before 'name'"]),
        ("epochs>10 and", ["its end", "a key such as"]),
        ("(epochs>10", ["a closing parenthesis"]),
        ("epochs>10)", ["'and' or 'or' before ')'"]),
        ("epochs>'10", ["character 8"]),
        (">10", ["a key such as"]),
        ("__import__('os')", ["Unknown key '__import__'"]),
        ("(" * 60 + "epochs>1" + ")" * 60, ["at most 50 parentheses"]),
        ("not " * 60 + "epochs>1", ["at most 50 parentheses"]),
    ],
)
def test_mistakes(text: str, words: list[str]) -> None:
    with pytest.raises(GatemaskError) as raised:
        Where(text, ROW)
    for word in words:
        assert word in str(raised.value)


def test_keys_of_the_schema_and_of_steps() -> None:
    keys = schema_keys(Experiment)
    assert {"epochs", "model.encoder", "freeze.epochs", "augment.affine.rotate", "loss.dice", "optimizer.ema"} <= keys
    values = flatten_steps({"augment": [{"hflip": 0.5}, {"affine": {"rotate": 7}}], "tta": []})
    assert values == {"augment.hflip": 0.5, "augment.affine.rotate": 7, "tta": []}
