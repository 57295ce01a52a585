"""The table of Kaggle's machines: what a YAML accepts, and what the documentation says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatemask.config import Competition, Experiment, load_competition
from gatemask.config import machines as table
from gatemask.config.machines import machine, machines
from gatemask.errors import GatemaskError
from gatemask.kaggle.image.machines import machine_for
from tests.conftest import ROOT

PHANTOM = ROOT / "experiments" / "phantom"


def competition(**kaggle: str) -> Competition:
    return load_competition(PHANTOM, overrides=[f"kaggle.{key}={value}" for key, value in kaggle.items()])


def experiment(**runtime: object) -> Experiment:
    settings = {
        "name": "one",
        "task": "gate",
        "model": {"name": "gate", "encoder": "resnet18"},
        "input": {"size": 64},
        "loss": {"bce": 1},
        "epochs": 1,
        "runtime": runtime,
    }
    return Experiment.model_validate(settings)


def test_a_t4_machine_has_two_devices() -> None:
    assert (machine("NvidiaTeslaT4").devices, machine("NvidiaTeslaT4").memory_gb) == (2, 15)
    assert machine("NvidiaTeslaT4").trains_folds_side_by_side
    assert not machine("NvidiaTeslaT4").supports("bfloat16")
    assert machine("NvidiaTeslaT4").peak_teraflops("bfloat16") == machine("NvidiaTeslaT4").peak_teraflops("float32")
    assert not machine("TpuV5E8").trains_folds_side_by_side


@pytest.mark.parametrize("name", machines())
def test_every_machine_is_accepted_by_its_name(name: str) -> None:
    assert competition(accelerator=name).kaggle.accelerator == name
    if machine(name).kind == "tpu":
        with pytest.raises(GatemaskError, match="not on Tpu"):
            competition(inference=name)
    else:
        assert competition(inference=name).kaggle.inference == name


@pytest.mark.parametrize(
    ("name", "advice"),
    [("NvidiaTeslaT4x2", "NvidiaTeslaT4"), ("nvidiaL4", "NvidiaL4"), ("TpuV5", "TpuV5E8"), ("None", "none")],
)
@pytest.mark.parametrize("key", ["accelerator", "inference"])
def test_an_unknown_machine_is_rejected_with_the_known_ones(key: str, name: str, advice: str) -> None:
    with pytest.raises(GatemaskError) as caught:
        competition(**{key: name})
    text = str(caught.value)
    assert f"Invalid value for 'kaggle.{key}'" in text
    assert all(f"'{known}'" in text for known in machines())
    assert f"Did you mean '{advice}'?" in text


def test_a_retired_machine_is_rejected_with_its_successor() -> None:
    with pytest.raises(GatemaskError, match=r"retired NvidiaTeslaP100 .*: write NvidiaTeslaT4"):
        competition(accelerator="NvidiaTeslaP100")
    assert not set(table.machine_table().retired) & set(machines())


def test_an_unknown_name_in_a_record_is_reported() -> None:
    with pytest.raises(GatemaskError, match="Did you mean TpuV6E8"):
        machine("TpuV6E")


def test_the_first_machine_of_a_kind_is_its_default() -> None:
    comp = competition(accelerator="NvidiaL4")
    assert machine_for(comp, experiment()).name == "NvidiaL4"
    assert machine_for(comp, experiment(accelerator="gpu")).name == "NvidiaL4"
    assert machine_for(comp, experiment(accelerator="tpu")).name == "TpuV5E8"
    assert machine_for(comp, experiment(accelerator="cpu")).name == "none"
    assert machine_for(competition(), experiment(accelerator="gpu")).name == "NvidiaTeslaT4"


def test_folds_side_by_side_are_refused_on_a_tpu() -> None:
    with pytest.raises(GatemaskError, match=r"runtime\.folds of one"):
        machine_for(competition(accelerator="TpuV5E8"), experiment(folds="parallel"))
    assert machine_for(competition(accelerator="NvidiaTeslaT4"), experiment(folds="parallel")).devices == 2


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("devices: 2", "devices: two", "machines.NvidiaTeslaT4.devices"),
        ("    quota: GPU\n", "", "go together"),
        ("float32: 8.1, ", "", "no teraflops in float32"),
        ("title: 2 x T4", "titel: 2 x T4", "NvidiaTeslaT4.titel"),
        ("NvidiaTeslaP100: NvidiaTeslaT4", "NvidiaTeslaP100: NvidiaTeslaT5", "'NvidiaTeslaT5' succeeds"),
    ],
)
def test_a_faulty_table_is_reported(
    before: str, after: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = table.MACHINES_FILE.read_text()
    assert before in text
    faulty = tmp_path / "machines.yaml"
    faulty.write_text(text.replace(before, after, 1))
    monkeypatch.setattr(table, "MACHINES_FILE", faulty)
    table.machine_table.cache_clear()
    try:
        with pytest.raises(GatemaskError, match="table of Kaggle's machines is not valid") as caught:
            machines()
    finally:
        table.machine_table.cache_clear()
    assert complaint in str(caught.value)


def test_the_documentation_lists_the_table() -> None:
    rows = [line for line in (ROOT / "docs/how_to/kaggle.md").read_text().splitlines() if line.startswith("| `")]
    documented = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]
    for name, known in machines().items():
        memory = "" if known.kind == "cpu" else f"{known.memory_gb:g} GB"
        host = "" if known.cores is None else f"{known.cores} cores, {known.ram_gb:g} GB"
        week = "" if known.hours_a_week is None else f"{known.hours_a_week} h ({known.quota})"
        expected = (f"`{name}`", known.title, memory, host, f"{known.hours:g} h", str(known.at_once), week)
        assert expected in documented
