"""Kaggle's machines and their limits, as machines.yaml lists them: the only copy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from gatemask.config.base import Count, Positive, Strict
from gatemask.errors import GatemaskError, nearest
from gatemask.yaml12 import parse_yaml

MACHINES_FILE = Path(__file__).with_name("machines.yaml")

Precision = Literal["float32", "bfloat16", "float16"]


class Machine(Strict):
    """A kind of machine.

    Args:
        name: Name in competition.yaml; except for "none" also `machine_shape` in kernel-metadata.json.
        title: Name for people.
        kind: "tpu", "gpu" or "cpu".
        devices: Number of devices.
        memory_gb: Memory of one device, in GB.
        teraflops: Peak arithmetic of one device by precision, in 10^12 operations per second. A precision that is
            missing is not supported by the hardware.
        bandwidth_gb_s: Peak memory bandwidth of one device, in GB per second.
        link_gb_s: Bandwidth between two devices, in GB per second; None of a single device.
        cores: Number of cores of the host; None where unknown.
        ram_gb: Memory of the host, in GB; None where unknown.
        hours: Session limit, in hours.
        at_once: Number of sessions of one account that may run at once.
        quota: Row of `kaggle quota` that counts its hours, if any.
        hours_a_week: Free hours per week; None where they are not limited.
        for_competitions: Whether only some competitions offer it.
    """

    name: str
    title: str
    kind: Literal["tpu", "gpu", "cpu"]
    devices: Count
    memory_gb: Positive
    teraflops: dict[Precision, Positive]
    bandwidth_gb_s: Positive
    link_gb_s: Positive | None = None
    cores: Count | None = None
    ram_gb: Positive | None = None
    hours: Positive
    at_once: Count
    quota: Literal["TPU", "GPU"] | None = None
    hours_a_week: Count | None = None
    for_competitions: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Machine:
        if "float32" not in self.teraflops:
            raise ValueError(f"{self.name} has no teraflops in float32")
        if (self.quota is None) != (self.hours_a_week is None):
            raise ValueError(f"{self.name}: 'quota' and 'hours_a_week' go together")
        if (self.devices > 1) != (self.link_gb_s is not None):
            raise ValueError(f"{self.name}: several devices have a 'link_gb_s', a single one has none")
        return self

    def supports(self, precision: str) -> bool:
        """Return whether the hardware computes in this precision."""
        return precision in self.teraflops

    def peak_teraflops(self, precision: str) -> float:
        """Return the peak of one device; that of float32 for a precision that the hardware lacks."""
        return next((peak for name, peak in self.teraflops.items() if name == precision), self.teraflops["float32"])

    @property
    def trains_folds_side_by_side(self) -> bool:
        """Whether each of several devices can be given to a process of its own."""
        return self.kind == "gpu" and self.devices > 1


class MachineTable(Strict):
    """Contents of machines.yaml.

    Args:
        machines: Machines by name; the first of a kind is its default.
        retired: Machine that Kaggle runs instead of a retired one, by the retired name.
    """

    machines: dict[str, Machine] = Field(min_length=1)
    retired: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: dict[str, dict[str, dict[str, object]]]) -> dict[str, object]:
        machines = {name: {"name": name, **fields} for name, fields in values["machines"].items()}
        return {**values, "machines": machines}

    @model_validator(mode="after")
    def _successors_exist(self) -> MachineTable:
        if unknown := set(self.retired.values()) - set(self.machines):
            raise ValueError(f"'{min(unknown)}' succeeds a retired machine, but is not in the table")
        return self


@cache
def machine_table() -> MachineTable:
    """Return the contents of machines.yaml.

    Raises:
        GatemaskError: The file was changed and is not valid any more.
    """
    parsed = parse_yaml(MACHINES_FILE.read_text(encoding="utf-8"), MACHINES_FILE)
    try:
        return MachineTable.model_validate(parsed.value)
    except ValidationError as error:
        complaints = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise GatemaskError(
            "The table of Kaggle's machines is not valid.",
            where=MACHINES_FILE,
            received="; ".join(complaints),
            do="Undo the change, or install gatemask again.",
        ) from None


def machines() -> Mapping[str, Machine]:
    """Return Kaggle's machines by name; the first of a kind is its default."""
    return machine_table().machines


def machine(name: str) -> Machine:
    """Return a machine by name.

    Raises:
        GatemaskError: Kaggle has no such machine, as in records of a version that knew others.
    """
    if name in machines():
        return machines()[name]
    close = nearest(name, machines())
    raise GatemaskError(
        "Unknown machine.",
        received=name,
        expected=", ".join(machines()),
        do=f"Did you mean {close}?" if close else None,
    )


def _known_name(name: str) -> str:
    table = machine_table()
    if (successor := table.retired.get(name)) is not None:
        raise ValueError(f"Kaggle has retired {name} and runs {successor} instead: write {successor}")
    if name not in table.machines:
        raise PydanticCustomError("literal_error", "{expected}", {"expected": _listed(table.machines)})
    return name


def _known_name_without_tpu(name: str) -> str:
    if machine(_known_name(name)).kind == "tpu":
        raise ValueError(f"submissions predict with TensorFlow, which does not run on Kaggle's TPUs: not on {name}")
    return name


def _listed(names: Mapping[str, object]) -> str:
    *others, last = (f"'{name}'" for name in names)
    return f"{', '.join(others)} or {last}"


class _Choices:
    """Lists the names in the JSON schema; the table is read only when a schema is made.

    Args:
        kinds: Kinds of the machines.
    """

    def __init__(self, *kinds: str) -> None:
        self._kinds = kinds

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        names = [name for name, known in machines().items() if known.kind in self._kinds]
        return {**handler(core), "enum": names}


MachineName = Annotated[str, AfterValidator(_known_name), _Choices("tpu", "gpu", "cpu")]
SubmissionMachineName = Annotated[str, AfterValidator(_known_name_without_tpu), _Choices("gpu", "cpu")]
