"""`gatemask plan COMP`: hours, storage, transfer and cost of a whole competition for many more images.

Each stage takes its processor time per image, shared by the cores of the machine; networks take the roofline estimate
of `gatemask plan EXP`. A stage stops where its memory exceeds that of the machine, or where it takes longer than a week
on one machine. Expect the right order of magnitude.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatemask.config import Competition, Ensemble, Experiment
from gatemask.config.base import both_sides
from gatemask.config.machines import machine
from gatemask.console import say, table
from gatemask.cost.devices import Device, devices_of, seconds_per_image, this_machine
from gatemask.cost.memory import NetworkSize, keep_network_size, read_network_size
from gatemask.cost.plan import ImageCounts, crops_per_input, network_size, plan_session
from gatemask.cost.rates import Rates, with_own_rates
from gatemask.errors import GatemaskError
from gatemask.parallel import cores
from gatemask.project import Project
from gatemask.results.cost import ScalePlan, ScaleRow, StageLimit

NUMBERS = (12_000, 1_000_000, 100_000_000)
HERE = "local"
NEAR = "near duplicates"  # stages of rates.yaml that are computed or left out here
WEEK_H = 168.0
POSITIVES = 0.3  # share of images with a mask, where no manifest tells
SAMPLE = 10_000  # images of which an epoch is drawn to learn its share of all images
TABLE_BYTES = 4_100  # of an image in the threshold tables: two counts of 8 bytes for each of 256 levels
LOOKED_AT = 200  # raw files whose size is taken


@dataclass(frozen=True)
class Prices:
    """Prices of the user; None where none is given.

    Args:
        hour: Price of an hour of the machine.
        gb_month: Price of storing a GB for a month.
    """

    hour: float | None = None
    gb_month: float | None = None


class Host(NamedTuple):
    """A machine as the stages see it.

    Args:
        name: Its name for people.
        cores: Number of cores.
        ram_gb: Memory, in GB.
    """

    name: str
    cores: int
    ram_gb: float


@dataclass(frozen=True)
class Scale:
    """What a competition costs for any number of images.

    Args:
        project, comp, ensemble: Competition, and the experiments of its ensemble.
        experiments: These experiments.
        on: Name of a machine of machines.yaml, or "local".
        rates: Rates of the stages.
    """

    project: Project
    comp: Competition
    ensemble: Ensemble
    experiments: Sequence[Experiment]
    on: str
    rates: Rates

    def plan(
        self, numbers: Sequence[int] = NUMBERS, prices: Prices | None = None, mb_per_s: float | None = None
    ) -> ScalePlan:
        """Estimate hours, storage, transfer and cost for each number of images.

        Args:
            numbers: Numbers of training images; as many test images are predicted.
            prices: Prices of the user. Default: no cost is shown.
            mb_per_s: Speed of the network to the remote, in MB per second. Default: no hours of transfer are shown.
        """
        host, device = self._host(), self._device("float32")
        rates, megapixels = self.rates, self._megapixels()
        if self.on == HERE:
            rates = with_own_rates(rates, self.project, self.comp, megapixels)
        sizes = {exp.name: self._network(exp) for exp in self.experiments}
        hours = {number: self._hours(number, rates, host, sizes) for number in numbers}
        per_image = self._bytes_per_image(rates)
        rows = [self._row(number, hours[number], per_image, prices or Prices(), mb_per_s) for number in numbers]
        limits = self._limits(rates, host, hours[max(numbers)], max(numbers))
        return ScalePlan(
            competition=self.project.label,
            machine=host.name if self.on == HERE else device.name,
            cores=host.cores,
            ram_gb=round(host.ram_gb, 1),
            experiments=tuple(exp.name for exp in self.experiments),
            rows=tuple(rows),
            limits=tuple(limits),
            rates={name: rate.measured for name, rate in rates.stages.items()} | {"files": rates.files.measured},
        )

    def _hours(self, number: int, rates: Rates, host: Host, sizes: Mapping[str, NetworkSize]) -> dict[str, float]:
        megapixels = self._megapixels()
        hours = {name: rate.core_hours(number, megapixels) / host.cores for name, rate in rates.stages.items()}
        if self.comp.groups.duplicates != "near":
            hours[NEAR] = 0.0
        training, predicting = 0.0, 0.0
        for exp in self.experiments:
            device, size = self._device(exp.runtime.precision), sizes[exp.name]
            counts = self._counts(exp, number)
            session = plan_session(device, exp, size, counts)
            together = (session.hours_all_folds, session.hours_side_by_side)
            training += min(value for value in together if value is not None)
            views, shipped = 1 + sum(view.random or 1 for view in exp.tta), counts.folds
            passing = self._positives() if exp.task == "mask" else 1.0
            image_s = seconds_per_image(
                device, size.work, exp.runtime.precision, views * shipped * crops_per_input(exp)
            )
            predicting += number * passing * image_s / device.count / 3600
        hours["training"] += training
        hours["prediction"] += predicting
        return hours

    def _row(
        self,
        number: int,
        hours: Mapping[str, float],
        per_image: Mapping[str, float],
        prices: Prices,
        mb_per_s: float | None,
    ) -> ScaleRow:
        storage = {name: number * size / 1e9 for name, size in per_image.items()}
        # Raw files and records reach the machine, records and predictions leave it.
        transfer = storage["raw"] + 2 * storage["records"] + storage["predictions"]
        fields: dict[str, object] = {
            "images": number,
            "hours": dict(hours),
            "total_hours": sum(hours.values()),
            "storage_gb": storage,
            "total_gb": sum(storage.values()),
            "transfer_gb": transfer,
        }
        if mb_per_s is not None:
            fields["transfer_hours"] = transfer * 1000 / mb_per_s / 3600
        if prices.hour is not None:
            fields["cost_hours"] = prices.hour * sum(hours.values())
        if prices.gb_month is not None:
            fields["cost_month"] = prices.gb_month * sum(storage.values())
        return ScaleRow.model_validate(fields)

    def _limits(self, rates: Rates, host: Host, hours: Mapping[str, float], number: int) -> list[StageLimit]:
        """Return where each stage stops, the first to stop first."""
        limits = []
        for name, rate in rates.stages.items():
            if not hours[name]:  # it does not run
                continue
            by_time = number * (WEEK_H / hours[name]) ** (1 / rate.power) if hours[name] else math.inf
            by_memory = host.ram_gb * 1e6 / rate.memory_kb if rate.memory_kb else math.inf
            images, why = min((by_time, "more than a week"), (by_memory, f"more than {host.ram_gb:.0f} GB of memory"))
            if math.isfinite(images):
                limits.append(StageLimit(stage=name, images=int(images), why=why, instead=rate.instead))
        return sorted(limits, key=lambda limit: limit.images)

    def _counts(self, exp: Experiment, number: int) -> ImageCounts:
        from gatemask.input.sampling import sample_epoch

        folds = self.comp.folds.k
        train = number - number // folds
        labels = np.arange(SAMPLE) < SAMPLE * self._positives()
        free = exp.sampling.model_copy(update={"epoch": None})
        drawn = []
        for epoch in (0, exp.epochs - 1):
            count = len(sample_epoch(labels.astype(int), free, epoch, exp.epochs, np.random.default_rng(0)))
            drawn.append(min(round(train * count / SAMPLE), exp.sampling.epoch or number))
        return ImageCounts(folds, train, number // folds, *drawn)

    def _network(self, exp: Experiment) -> NetworkSize:
        size = read_network_size(self.project, self.comp, exp)
        if size is None:
            size = network_size(exp, self.comp)
            keep_network_size(self.project, self.comp, exp, size)
        return size

    def _device(self, precision: str) -> Device:
        return this_machine() if self.on == HERE else devices_of(machine(self.on), precision)

    def _host(self) -> Host:
        if self.on == HERE:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            return Host("this machine", cores(), memory / 1e9)
        chosen = machine(self.on)
        if chosen.cores is None or chosen.ram_gb is None:
            raise GatemaskError(
                "The cores and the memory of this machine's host are not known.",
                where="--on",
                received=self.on,
                expected="a machine whose 'cores' and 'ram_gb' machines.yaml lists",
            )
        return Host(chosen.title, chosen.cores, chosen.ram_gb)

    def _positives(self) -> float:
        if not (self.project.data / "manifest.csv").exists():
            return POSITIVES
        from gatemask.data.split import read_manifest

        return float(read_manifest(self.project, "train")["label"].mean())

    def _megapixels(self) -> float:
        size = self.comp.image.size
        height, width = self.comp.records.shape if size == "mixed" else size
        return height * width / 1e6

    def _bytes_per_image(self, rates: Rates) -> dict[str, float]:
        height, width = self.comp.records.shape
        masks = [exp for exp in self.experiments if exp.task == "mask"]
        return {
            "raw": _mean_size(self._raw_files()) or self._megapixels() * 1e6 * rates.files.raw,
            "records": self._record_bytes() or height * width * rates.files.record,
            "predictions": sum(self._map_bytes(exp, rates) for exp in masks),
        }

    def _map_bytes(self, exp: Experiment, rates: Rates) -> float:
        """Return the bytes of an image's maps by one experiment, and of its row of the threshold tables."""
        from gatemask.results.training import FoldResult

        stamps = sorted((self.project.runs / exp.name).glob("fold*/result.json"))
        made = [stamp for stamp in stamps if stamp.with_name("oof.h5").exists()]
        if images := sum(FoldResult.load(stamp).validation_images for stamp in made):
            maps = sum(stamp.with_name("oof.h5").stat().st_size for stamp in made) / images
        else:
            maps = math.prod(both_sides(exp.input.size)) * self.comp.outputs * rates.files.map
        return maps + TABLE_BYTES

    def _raw_files(self) -> list[Path]:
        from gatemask.data.raw_folder import raw_folder

        raw = raw_folder(self.project, self.comp)
        found: list[Path] = []
        for folder, _, names in os.walk(raw):
            paths = [Path(folder) / name for name in sorted(names)]
            found += [path for path in paths if path.suffix.lower() not in (".csv", ".json", ".txt", "")]
            if len(found) >= LOOKED_AT:
                break
        return found[:LOOKED_AT]

    def _record_bytes(self) -> float | None:
        from gatemask.results.data import RecordsResult

        index = self.project.records(self.comp.records.size) / "index.json"
        if not index.exists():
            return None
        made = RecordsResult.load(index)
        return made.bytes / max(1, made.images or made.count)


def print_scale(plan: ScalePlan) -> None:
    """Print a plan as tables, and the stage that stops first."""
    say(f"{plan.competition} on {plan.machine}: {plan.cores} cores, {plan.ram_gb:g} GB; {', '.join(plan.experiments)}")
    numbers = [f"{row.images:,}" for row in plan.rows]
    stages = list(plan.rows[0].hours)
    rows: list[list[object]] = [[stage, *(_short(row.hours[stage]) for row in plan.rows)] for stage in stages]
    rows.append(["total", *(_short(row.total_hours) for row in plan.rows)])
    table("Hours", ["stage", *(f"{number} images" for number in numbers)], rows)
    kinds = list(plan.rows[0].storage_gb)
    rows = [[kind, *(_short(row.storage_gb[kind]) for row in plan.rows)] for kind in kinds]
    rows.append(["storage", *(_short(row.total_gb) for row in plan.rows)])
    rows.append(["transfer", *(_short(row.transfer_gb) for row in plan.rows)])
    table("GB", ["files", *(f"{number} images" for number in numbers)], rows)
    others = {
        "hours of transfer": [row.transfer_hours for row in plan.rows],
        "price of the hours": [row.cost_hours for row in plan.rows],
        "price of the storage per month": [row.cost_month for row in plan.rows],
    }
    for name, values in others.items():
        if all(value is not None for value in values):
            say(
                f"{name}: "
                + ", ".join(f"{_short(value or 0.0)} ({n})" for value, n in zip(values, numbers, strict=True))
            )
    if plan.limits:
        first = plan.limits[0]
        say(f"stops first: {first.stage}, at about {_rounded(first.images)} images ({first.why})")
        say(f"instead:     {first.instead}")
        for limit in plan.limits[1:]:
            say(f"then:        {limit.stage}, at about {_rounded(limit.images)} images ({limit.why})")
    if plan.rows[0].cost_hours is None:
        say("Cost: give your prices with --hour-price and --gb-month-price.")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _rounded(images: int) -> str:
    digits = max(0, len(str(images)) - 2)
    return f"{round(images, -digits):,}"


def _mean_size(paths: Sequence[Path]) -> float | None:
    return float(np.mean([path.stat().st_size for path in paths])) if paths else None
