"""The plan of a competition: sums of rates, limits in their order, rates of the user's own runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gatemask.builders.step_memory import StepValues
from gatemask.config import load_competition, load_ensemble, load_experiment
from gatemask.cost import scale as scales
from gatemask.cost.devices import Device, ForwardPass
from gatemask.cost.memory import NetworkSize, keep_network_size
from gatemask.cost.rates import load_rates
from gatemask.cost.scale import Host, Prices, Scale, print_scale
from gatemask.errors import GatemaskError
from gatemask.files import write_text
from gatemask.project import Project
from gatemask.stage import write_stamp
from tests.conftest import ROOT


@pytest.fixture
def scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scale:
    """The phantoms, with networks of known size, on a machine of 4 cores and 16 GB."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    project = Project(tmp_path, "phantom")
    comp, ensemble = load_competition(project.experiments), load_ensemble(project.experiments)
    names = [*ensemble.gate.experiments, *ensemble.mask.experiments]
    experiments = [load_experiment(project.experiment_file(name)) for name in names]
    size = NetworkSize(1_000_000, StepValues(*range(1, 1 + len(StepValues.__annotations__))), ForwardPass(10**9, 10**6))
    for exp in experiments:
        keep_network_size(project, comp, exp, size)
    monkeypatch.setattr(scales, "this_machine", lambda: Device("CPU", 1, 16, 1.0, 50))
    monkeypatch.setattr(Scale, "_host", lambda self: Host("this machine", 4, 16.0))
    return Scale(project, comp, ensemble, experiments, "local", load_rates())


def test_hours_follow_from_the_rates(scale: Scale) -> None:
    plan = scale.plan([12_000, 1_000_000, 100_000_000])
    for row in plan.rows:
        rates = scale.rates.stages
        core_hours = row.images / 1000 / 3600 / 4
        assert row.hours["threshold tables"] == pytest.approx(rates["threshold tables"].core_ms * core_hours)
        assert row.hours["records"] == pytest.approx(rates["records"].core_ms * core_hours * 0.256**2)
        assert row.hours["near duplicates"] == 0, "the phantoms do not look for them"
        assert row.total_hours == pytest.approx(sum(row.hours.values()))
        assert row.total_gb == pytest.approx(sum(row.storage_gb.values()))
        assert row.cost_hours is row.cost_month is row.transfer_hours is None, "there are no prices in gatemask"
    first, second, third = plan.rows
    assert first.hours["training"] < second.hours["training"] < third.hours["training"]
    assert set(plan.rates) == {*scale.rates.stages, "files"}


def test_prices_and_network(scale: Scale) -> None:
    (row,) = scale.plan([1_000_000], Prices(2.0, 0.1), mb_per_s=100).rows
    assert row.cost_hours == pytest.approx(2 * row.total_hours)
    assert row.cost_month == pytest.approx(0.1 * row.total_gb)
    assert row.transfer_hours == pytest.approx(row.transfer_gb * 10 / 3600)


def test_the_stage_that_stops_first(scale: Scale, capsys: pytest.CaptureFixture[str]) -> None:
    near = scale.comp.model_copy(update={"groups": scale.comp.groups.model_copy(update={"duplicates": "near"})})
    plan = Scale(scale.project, near, scale.ensemble, scale.experiments, "local", scale.rates).plan()
    assert [limit.images for limit in plan.limits] == sorted(limit.images for limit in plan.limits)
    names = [limit.stage for limit in plan.limits]
    assert "near duplicates" in names
    search = next(limit for limit in plan.limits if limit.stage == "exact search")
    kilobytes = scale.rates.stages["exact search"].memory_kb
    assert search.images == pytest.approx(16e6 / kilobytes, rel=1e-6)
    assert search.why == "more than 16 GB of memory"
    print_scale(plan)
    printed = capsys.readouterr().err
    assert f"stops first: {names[0]}" in printed
    assert plan.limits[0].instead in " ".join(printed.split())
    assert "--hour-price" in printed


def test_own_runs_replace_rates(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatemask.cost.rates.cores", lambda: 2)
    folder = scale.project.records(64)
    fields = {"made_from": {}, "outputs": {}, "seconds": 10.0, "count": 1000, "positives": 1, "size": 64}
    write_stamp(folder / "index.json", {**fields, "bytes": 5_000_000, "shards": 1})
    plan = scale.plan([1000])
    assert plan.rates["records"] == "data/phantom/records-64/index.json: 1000 images in 10 s on 2 cores"
    assert plan.rows[0].hours["records"] == pytest.approx(20 / 3600 / 4), "20 s of two cores, shared by four"
    assert plan.rows[0].storage_gb["records"] == pytest.approx(0.005)
    write_stamp(folder / "index.json", {**fields, "count": 100, "bytes": 5_000_000, "shards": 1})
    assert plan.rates["records"] != scale.plan([1000]).rates["records"], "too few images"


def test_rates_of_a_file(tmp_path: Path) -> None:
    file = write_text(tmp_path / "rates.yaml", "stages: {records: {core_ms: 21}}\nfiles: {record: 0.12}\n")
    rates = load_rates(file)
    assert (rates.stages["records"].core_ms, rates.stages["records"].measured) == (21, str(file))
    assert rates.stages["records"].megapixel
    assert rates.files.record == 0.12
    for text, message in (
        ("stages: {record: {core_ms: 1}}", "stages.record"),
        ("stages: {records: {core: 1}}", "core"),
        ("stages: {records: {core_ms: -1}}", "core_ms"),
        ("stage: {}", "stage"),
    ):
        with pytest.raises(GatemaskError, match="rates is not valid") as raised:
            load_rates(write_text(tmp_path / "rates.yaml", text))
        assert message in str(raised.value)


def test_every_rate_says_where_it_was_measured_and_what_replaces_its_stage() -> None:
    rates = load_rates()
    assert all(rate.measured and rate.instead for rate in rates.stages.values())
    assert json.dumps(rates.model_dump())
