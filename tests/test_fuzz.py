"""Damaged and hostile input of every kind: no exception but GatemaskError, no hang, no silent change of a result.

The inputs come from a seed, so a failure can be repeated: the message holds the seed. Two variables extend the search:
GATEMASK_FUZZ multiplies the number of inputs (default 1), GATEMASK_FUZZ_SEED chooses others (default 0).
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gatemask.config import (
    Rle,
    RleLabels,
    load_competition,
    load_dashboard,
    load_ensemble,
    load_experiment,
    load_run_config,
)
from gatemask.data import tfrecord
from gatemask.data.fold_files import read_fold_file
from gatemask.data.ids import DEFAULT
from gatemask.data.image_files import ImageFile
from gatemask.data.labels import read_labels
from gatemask.data.records import read_records
from gatemask.data.split import read_folds
from gatemask.errors import GatemaskError
from gatemask.files import sha256, write_json, write_yaml
from gatemask.masks import rle
from gatemask.masks.rule import Rule
from gatemask.masks.rule_files import load_rules, save_rule
from gatemask.oof.store import read_gates, write_gates
from gatemask.project import Project
from gatemask.results.data import RecordsResult
from gatemask.results.ensemble import ShippedEnsemble
from gatemask.stage import Stage, Stamp, write_stamp
from gatemask.training import state
from gatemask.yaml12 import parse_yaml
from tests.conftest import ROOT
from tests.fold_results import mask_settings

pytestmark = pytest.mark.integration

TIMES = int(os.environ.get("GATEMASK_FUZZ", "1"))
SEED = int(os.environ.get("GATEMASK_FUZZ_SEED", "0"))
HANG_S = 2.0  # of the processor's time, so that a busy machine changes nothing


class HangError(BaseException):
    """An input that keeps the processor busy; no `except Exception` catches it."""


@contextmanager
def no_hang() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError(f"more than {HANG_S} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fuzz(count: int, attempt: Callable[[random.Random], object]) -> None:
    """Call `attempt` with many seeds. It may raise a GatemaskError; anything else fails, with the seed.

    Args:
        count: Number of seeds, before GATEMASK_FUZZ.
        attempt: Makes an input from a generator, reads it, and checks what was read.
    """
    accepted = 0
    for number in range(count * TIMES):
        seed = f"{SEED}/{number}"
        try:
            with no_hang():
                attempt(random.Random(seed))
            accepted += 1
        except GatemaskError as error:
            assert error.what
            assert str(error).isprintable() or "\n" in str(error), f"seed {seed}"
        except BaseException as error:
            error.add_note(f"fuzz seed {seed}")
            raise
    assert accepted, "nothing was accepted: the fuzz tests nothing"


# --- damage ------------------------------------------------------------------------------------------------

WORDS = [
    *("yes", "on", "no", "off", "true", "False", "null", "~", "''", '""', "0123", "8:30", "1_000", "0x1F", "0o17"),
    *(".inf", "-.inf", ".nan", "inf", "nan", "1e999", "-1", "0", "1e-3", "1e400", "9" * 30, "9" * 5000, "-0", "1.5"),
    *("2001-13-45", "2001-01-01 25:00:00", "!!bool abc", "!!int x", "!!float x", "!!timestamp 1", "!!set {a}"),
    *("!!python/object:os.system x", "!!binary ====", "&a [*a]", "*a", "&a", "<<: *a", "{<<: 5}", "[", "]", "{", "}"),
    *("?", ":", "- ", "|", ">", "%YAML 9.9", "---", "...", "#", "@", "`", "!", "[[[[[[[[[[", "\t", "\x00", "\ud800"),
    *("[/bold]", "é", "\u2028", "\u00a0", "\ufeff", "０１", "-9223372036854775808", "18446744073709551616", "0,001"),
    *(
        "1 2",
        "1 -2 3",
        "5 1 2 3",
        "a" * 3000,
        "../../x",
        "/dev/zero",
        ".",
        "\\",
        '"',
        "'",
        ";",
        ",",
        "\r",
        "NaN",
        "None",
    ),
]
KEYS = [
    "extends",
    "quick",
    "name",
    "loss",
    "runtime",
    "augment",
    "tta",
    "weights",
    "rule",
    "model",
    "format",
    "x",
    "<<",
]


def damaged_text(rng: random.Random, text: str) -> str:
    """Return a text with one to three changes: words replaced, lines moved, parts lost or doubled."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        lines = text.split("\n")
        line = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind <= 2:  # a word becomes another
            words = [n for n, c in enumerate(lines[line]) if c in " :,[{"] or [0]
            start = rng.choice(words) + 1
            end = next((n for n in range(start + 1, len(lines[line])) if lines[line][n] in ",]}:"), len(lines[line]))
            lines[line] = f"{lines[line][:start]} {rng.choice(WORDS)}{lines[line][end:]}"
        elif kind == 3:
            lines.insert(line, f"{rng.choice(KEYS)}: {rng.choice(WORDS)}")
        elif kind == 4:
            lines[line] = lines[rng.randrange(len(lines))]
        elif kind == 5:
            del lines[line]
        elif kind == 6:
            cut = rng.randrange(len(lines[line]) + 1)
            lines[line] = lines[line][:cut] + rng.choice(WORDS) + lines[line][cut:]
        else:
            lines = "\n".join(lines)[: rng.randrange(len(text) + 1)].split("\n")
        text = "\n".join(lines)
    return text


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with flipped bits, a hole, a doubled part, zeros or an early end."""
    kind, start = rng.randrange(6), rng.randrange(len(data))
    length = rng.randrange(1, 40)
    if kind <= 1:
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 8])):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 2:
        return data[:start] + data[start + length :]
    if kind == 3:
        return data[:start] + data[start : start + length] + data[start:]
    if kind == 4:
        return data[:start] + bytes(length) + data[start + length :]
    return data[:start]


def damaged(rng: random.Random, text: str) -> bytes:
    """Return a damaged text file."""
    if rng.random() < 0.3:
        return damaged_bytes(rng, text.encode())
    return damaged_text(rng, text).encode("utf-8", "surrogatepass")


# --- YAML --------------------------------------------------------------------------------------------------

SHIPPED = sorted((ROOT / "experiments").glob("*/*.yaml"))
Loader = Callable[..., Any]


def loader_of(path: Path) -> Loader:
    if path.stem == "competition":
        return lambda file, **options: load_competition(file.parent, **options)
    if path.stem == "ensemble":
        return lambda file, **options: load_ensemble(file.parent, **options)
    if path.stem == "dashboard":
        return lambda file, **_: load_dashboard(file.parent)
    return load_experiment


def require_as_written(written: Any, loaded: Any, place: str = "") -> None:
    """Fail if a value of a YAML was lost or became another: a word a number, true a 1, one key two."""
    if isinstance(written, dict) and isinstance(loaded, dict):
        for key, value in written.items():
            assert key in loaded, f"{place}.{key} was lost"
            require_as_written(value, loaded[key], f"{place}.{key}")
    elif not isinstance(written, dict | list) and not isinstance(loaded, dict | list):
        same_kind = isinstance(written, bool) == isinstance(loaded, bool) and isinstance(written, str) == isinstance(
            loaded, str
        )
        assert written == loaded, f"{place}: {written!r} became {loaded!r}"
        assert same_kind, f"{place}: {written!r} became {loaded!r}"


def test_yaml(tmp_path: Path) -> None:
    names = {path.parent.name for path in SHIPPED}
    folders = {name: shutil.copytree(ROOT / "experiments" / name, tmp_path / name) for name in names}
    sources = [path for path in SHIPPED if path.stem != "base"]

    def attempt(rng: random.Random) -> None:
        source = rng.choice(sources)
        text = damaged_text(rng, source.read_text())
        file = folders[source.parent.name] / source.name
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            quick = rng.random() < 0.3
            loaded = loader_of(source)(file, quick=quick)
        finally:
            shutil.copy(source, file)
        again = type(loaded).model_validate(loaded.model_dump(mode="json"))
        assert again == loaded
        if not quick:
            written = parse_yaml(text, file).value
            written.pop("extends", None)
            require_as_written(written, loaded.model_dump(mode="json"))

    fuzz(600, attempt)


def test_overrides() -> None:
    source = ROOT / "experiments" / "siim-acr" / "winner_512.yaml"
    plain = load_experiment(source).model_dump(mode="json")
    places = [(), *((key,) for key in plain), *((key, inner) for key in plain for inner in _keys(plain[key]))]

    def attempt(rng: random.Random) -> None:
        chosen = {rng.choice(places): rng.choice(WORDS) for _ in range(rng.choice([1, 2, 3]))}
        overrides = [f"{'.'.join(place)}={word}" for place, word in chosen.items()]
        loaded = load_experiment(source, overrides=overrides)
        rng.shuffle(overrides)
        assert load_experiment(source, overrides=overrides) == loaded, "the order matters"
        changed = {place[0] for place in chosen if place}
        after = loaded.model_dump(mode="json")
        assert {key: after[key] for key in after if key not in changed} == {
            key: plain[key] for key in plain if key not in changed
        }

    fuzz(400, attempt)


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []


def test_yaml_of_a_run_and_of_a_rule(tmp_path: Path) -> None:
    rule = Rule(0.5, 0.7, 0.4, 100)
    config = write_yaml(tmp_path / "config.yaml", mask_settings()).read_text()
    text = save_rule(rule, tmp_path / "rule.yaml").read_text()

    def read_config(rng: random.Random) -> None:
        (tmp_path / "config.yaml").write_bytes(damaged(rng, config))
        load_run_config(tmp_path)

    def read_rule(rng: random.Random) -> None:
        (tmp_path / "rule.yaml").write_bytes(damaged(rng, text))
        [again] = load_rules(tmp_path / "rule.yaml", ["lesion"])
        assert load_rules(save_rule(again, tmp_path / "rule.yaml"), ["lesion"]) == [again]

    fuzz(200, read_config)
    fuzz(300, read_rule)


def test_ensemble_yaml(tmp_path: Path) -> None:
    member = {"experiment": "u", "fold": 0, "size": 64, "records": 64, "sha256": "0" * 64, "weight": 0.5}
    models = {name: {"name": name, "encoder": "resnet18"} for name in ("gate", "unet")}
    whole = {
        "competition": {
            "name": "c",
            "image": {"size": [64, 64], "channels": 1},
            "test_images": "*.png",
            "classes": ["lesion"],
            "submission": {"rle": {"empty": "-1"}},
        },
        "rule": {"gate": 0.5, "upper": 0.7, "lower": 0.4, "min_area": 100},
        "gate": [{**member, "name": "g-fold0", "task": "gate", "model": models["gate"]}],
        "mask": [{**member, "name": "u-fold0", "task": "mask", "model": models["unet"], "tta": [{"hflip": True}]}],
    }
    path = tmp_path / "ensemble.yaml"
    text = write_yaml(path, whole).read_text()
    ShippedEnsemble.load(path)

    def attempt(rng: random.Random) -> None:
        path.write_bytes(damaged(rng, text))
        loaded = ShippedEnsemble.load(path)
        assert ShippedEnsemble.load(loaded.save(path)) == loaded

    fuzz(400, attempt)


# --- tables ------------------------------------------------------------------------------------------------


def pixels(text: str, height: int, width: int, dialect: Rle) -> set[tuple[int, int]] | None:
    """Decode slowly, with Python's own numbers; None for what is malformed."""
    if text.strip() in ("", dialect.empty.strip()):
        return set()
    words = text.split()
    if not all(word.isascii() and word.removeprefix("-").isdigit() and len(word) < 100 for word in words):
        return None
    numbers = [int(word) for word in words]
    if len(numbers) % 2:
        return None
    found: list[int] = []
    position = 0
    for index in range(0, len(numbers), 2):
        start, length = numbers[index : index + 2]
        if dialect.offsets == "absolute":
            first = start - dialect.base
        else:
            first = position + start - (dialect.base if index == 0 else 0)
            if index and start < 0:
                return None
        if length < 1 or first < 0 or first + length > height * width:
            return None
        found += range(first, first + length)
        position = first + length
    if len(set(found)) < len(found):
        return None
    by_column = dialect.order == "column"
    return {(n % height, n // height) if by_column else (n // width, n % width) for n in found}


def test_rle_cells() -> None:
    blanks = [" "] * 20 + ["  ", "\t", "\u00a0", "\u2003", "\n", ",", ""]

    def attempt(rng: random.Random) -> None:
        height, width = rng.choice([(4, 6), (1, 9), (8, 8)])
        offsets, order = rng.choice(["absolute", "relative"]), rng.choice(["column", "row"])
        dialect = Rle(offsets=offsets, order=order, base=rng.choice([0, 1]), empty=rng.choice(["", "-1", "1 0"]))
        words = [str(rng.randrange(-1, 9)) for _ in range(rng.choice([2, 2, 4, 4, 6, 3]))]
        if rng.random() < 0.3:
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        text = "".join(word + rng.choice(blanks) for word in words)
        expected = pixels(text, height, width, dialect)
        try:
            mask = rle.decode(text, (height, width), dialect)
        except GatemaskError:
            assert expected is None, f"{text!r} in {dialect} was rejected"
            raise
        assert expected == {(int(y), int(x)) for y, x in np.argwhere(mask)}, f"{text!r} in {dialect}"
        _, lengths = rle.parse(text, (height, width), dialect)
        assert int(lengths.sum()) == mask.sum()
        assert (rle.decode(rle.encode(mask, dialect), (height, width), dialect) == mask).all()

    fuzz(2000, attempt)


def rows_of(data: bytes, columns: list[str]) -> list[list[str]] | None:
    """Return some columns of a CSV as Python reads it, or None if it does not."""
    try:
        rows = [
            row
            for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), ""), strict=True, skipinitialspace=True)
            if any(row)
        ]
        places = [[cell.strip() for cell in rows[0]].index(name) for name in columns]
        return [[row[place].strip() for place in places] for row in rows[1:]]
    except (csv.Error, UnicodeDecodeError, IndexError, ValueError):
        return None


def test_label_tables(tmp_path: Path) -> None:
    cells = ["1 2", "", "3 4 9 2", "20 1", "5 5", "1 1 3 1", "", "30 6"]
    text = "ImageId,EncodedPixels\n" + "".join(f"image{n},{cell}\n" for n, cell in enumerate(cells))
    labels = RleLabels(format="rle", file="labels.csv")
    ids = [f"image{n}" for n in range(len(cells))]
    images = [ImageFile(tmp_path / name, name, name, DEFAULT) for name in ids]

    def attempt(rng: random.Random) -> None:
        data = damaged(rng, text)
        (tmp_path / "labels.csv").write_bytes(data)
        parsed = read_labels(labels, tmp_path, images, (6, 6))
        truth: dict[str, set[tuple[int, int]]] = {}
        for image_id, cell in rows_of(data, ["ImageId", "EncodedPixels"]) or []:
            truth[image_id] = truth.get(image_id, set()) | (pixels(cell, 6, 6, labels.rle) or set())
        for image_id in set(ids) & set(parsed.masks) & set(truth):
            mask = rle.decode("".join(one.rle for one in parsed.masks[image_id]), (6, 6))
            assert truth[image_id] == {(int(y), int(x)) for y, x in np.argwhere(mask)}, image_id

    fuzz(500, attempt)


def test_fold_files(tmp_path: Path) -> None:
    project = Project(tmp_path, "comp")
    project.folds.parent.mkdir()
    text = "image_id,fold,group,stratum\n" + "".join(f"image{n},{n % 3},group{n},{n % 2}\n" for n in range(12))

    def attempt(rng: random.Random) -> None:
        data = damaged(rng, text)
        project.folds.write_bytes(data)
        frame = read_folds(project)
        found = dict(zip(frame["image_id"], frame["fold"], strict=True))
        written = rows_of(data, ["image_id", "fold"])
        assert written is not None
        assert found == {image_id: int(fold) for image_id, fold in written}

    def foreign(rng: random.Random) -> None:
        project.folds.write_bytes(damaged(rng, text))
        read_fold_file(project.folds)

    fuzz(250, attempt)
    fuzz(250, foreign)


def test_gate_probabilities(tmp_path: Path) -> None:
    path = write_gates(tmp_path / "oof.csv", [f"image{n}" for n in range(9)], np.linspace(0, 1, 9))
    text = path.read_text()

    def attempt(rng: random.Random) -> None:
        data = damaged(rng, text)
        path.write_bytes(data)
        found = read_gates([path])
        written = rows_of(data, ["image_id", "probability"])
        assert all(0 <= value <= 1 for value in found.values())
        if written is not None and len({image_id for image_id, _ in written}) == len(written):
            assert list(found.values()) == [float(value) for _, value in written]

    fuzz(500, attempt)


# --- files of gatemask -------------------------------------------------------------------------------------


def test_records(tmp_path: Path) -> None:
    examples = [
        {"image_id": f"image{n}".encode(), "image": bytes([n]) * 50, "mask": bytes([n]) * 20, "label": n % 2}
        for n in range(4)
    ]
    shard, index = tmp_path / "00000.tfrec", tmp_path / "index.json"
    tfrecord.write(shard, examples)
    write_json(index, {"made_from": {}, "outputs": {shard.name: sha256(shard)}, "seconds": 1.0})
    sound = {path: path.read_bytes() for path in (shard, index)}
    ids = [f"image{n}" for n in range(4)]
    original = [example.load() for example in read_records(tmp_path, ids)]

    def attempt(rng: random.Random) -> None:
        path = rng.choice([shard, index])
        path.write_bytes(damaged_bytes(rng, sound[path]))
        try:
            assert [example.load() for example in read_records(tmp_path, ids)] == original
        finally:
            path.write_bytes(sound[path])

    def without_hash(rng: random.Random) -> None:
        write_json(index, {"outputs": {shard.name: None}})
        shard.write_bytes(damaged_bytes(rng, sound[shard]))
        try:
            read_records(tmp_path, ids)
        finally:
            for path, data in sound.items():
                path.write_bytes(data)

    fuzz(300, attempt)
    fuzz(300, without_hash)


def test_stamps(tmp_path: Path) -> None:
    output, stamp = tmp_path / "output.bin", tmp_path / "result.json"
    output.write_bytes(b"content")
    stage = Stage("test", stamp, {"inputs": "abc", "numbers": [1, 2.5]}, RecordsResult)
    fields = {"count": 12, "shards": 3, "size": 64}
    result = RecordsResult.model_construct(**fields)
    made = {"made_from": dict(stage.made_from), "outputs": {output.name: sha256(output)}, "seconds": 1.0}
    text = write_stamp(stamp, {**made, **_valid_fields(RecordsResult), "size": 64}).read_text()
    sound = stage.current()
    assert sound is not None, result

    def attempt(rng: random.Random) -> None:
        data = damaged(rng, text) if rng.random() < 0.8 else rng.choice(WORDS).encode("utf-8", "surrogatepass")
        stamp.write_bytes(data)
        Stamp.load(stamp)
        if (found := stage.current()) is not None:
            written = json.loads(data)
            assert "hash" not in written or found == sound, "an edited stamp was believed"
            assert written["made_from"] == dict(stage.made_from)
            assert {key: value for key, value in found.as_dict().items() if key in written and key != "current"} == {
                key: value for key, value in written.items() if key in found.as_dict() and key != "current"
            }

    fuzz(600, attempt)


def _valid_fields(model: Any) -> dict[str, Any]:
    values = {int: 3, float: 1.5, str: "text", bool: True}
    required = {name: field for name, field in model.model_fields.items() if field.is_required()}
    return {name: values.get(field.annotation, []) for name, field in required.items()}


def test_states(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=size).astype(np.float32) for size in ((3, 4), (5,), ())]
    optimizer = SimpleNamespace(variables=arrays[2:])
    model: Any = SimpleNamespace(variables=arrays[:2], metrics_variables=[], optimizer=optimizer)
    sound = tmp_path / "sound"
    sound.mkdir()
    state.save_state(sound, model, state.Progress(batch=4, epoch=2, rows=({"auc": 0.25}, {"auc": 0.5})))
    loaded = state.load_state(sound)
    assert loaded is not None
    file = next(sound.glob("at-*.h5"))
    data = file.read_bytes()

    def attempt(rng: random.Random) -> None:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / file.name).write_bytes(damaged_bytes(rng, data))
        found = state.load_state(folder)
        if found is None:
            return
        assert found[1] == loaded[1], "another progress"
        for name, values in loaded[0].items():
            for before, after in zip(values, found[0][name], strict=True):
                np.testing.assert_array_equal(before, after)

    fuzz(300, attempt)
