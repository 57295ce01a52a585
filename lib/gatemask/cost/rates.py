"""Rates of the stages per image: from rates.yaml, the user's file, and the stamps of the user's own stages."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from gatemask.config import Competition
from gatemask.config.base import Positive, Strict
from gatemask.errors import GatemaskError
from gatemask.files import read_json_object
from gatemask.parallel import cores
from gatemask.project import Project
from gatemask.yaml12 import parse_yaml

RATES_FILE = Path(__file__).with_name("rates.yaml")
LEAST = 500  # images; below, the start of a stage counts more than its images
# Stamps whose duration replaces a rate: file below data/<comp>/, and its field with the number of images.
STAMPS = {"manifest": ("manifest.json", "images"), "records": ("index.json", "count")}


class Rate(Strict):
    """Cost of a stage per image; rates.yaml describes the fields."""

    core_ms: float = Field(0.0, ge=0)
    megapixel: bool = False
    power: Positive = 1.0
    at: Positive = 1.0
    memory_kb: float = Field(0.0, ge=0)
    measured: str
    instead: str

    def core_hours(self, images: float, megapixels: float) -> float:
        """Return the processor time for a number of images, in hours.

        Args:
            images: Number of images.
            megapixels: Size of a raw image.
        """
        size = megapixels if self.megapixel else 1.0
        return images * self.core_ms * size * (images / self.at) ** (self.power - 1) / 3.6e6

    def memory_gb(self, images: float) -> float:
        """Return the memory that grows with the images, in GB."""
        return images * self.memory_kb / 1e6


class FileRates(Strict):
    """Bytes per pixel of files; rates.yaml describes the fields."""

    raw: Positive
    record: Positive
    map: Positive
    measured: str


class Rates(Strict):
    """Contents of rates.yaml."""

    stages: dict[str, Rate]
    files: FileRates


def load_rates(file: Path | None = None) -> Rates:
    """Return the rates.

    Args:
        file: YAML whose numbers replace those of rates.yaml; stages and keys as there. Default: none.

    Raises:
        GatemaskError: The file names an unknown stage or key, or a value is not valid.
    """
    values = _read(RATES_FILE)
    if file is not None:
        own = _read(file)
        for section, entries in own.items():
            known = values.get(section)
            if not isinstance(known, dict) or not isinstance(entries, dict):
                raise _fault(file, str(section), f"{', '.join(values)}, each with keys as in {RATES_FILE.name}")
            for name, value in entries.items():
                replaced = known.get(name)
                if replaced is None:
                    raise _fault(file, f"{section}.{name}", ", ".join(map(str, known)))
                if isinstance(replaced, dict) and isinstance(value, dict):
                    known[name] = {**replaced, "measured": str(file), **value}
                else:
                    known |= {name: value, "measured": str(file)}
    try:
        return Rates.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise _fault(file or RATES_FILE, f"{'.'.join(map(str, first['loc']))}: {first['msg']}", None) from None


def with_own_rates(rates: Rates, project: Project, comp: Competition, megapixels: float) -> Rates:
    """Replace rates by those of the competition's own stages on this machine, where they had enough images.

    Args:
        rates: Rates to replace.
        project, comp: Competition.
        megapixels: Size of a raw image.
    """
    stages = dict(rates.stages)
    for name, (stamp, field) in STAMPS.items():
        path = (project.records(comp.records.size) if name == "records" else project.data) / stamp
        if not path.exists():
            continue
        fields = read_json_object(path)
        count, seconds = fields.get(field), fields.get("seconds")
        if isinstance(count, int) and isinstance(seconds, int | float) and count >= LEAST and seconds > 0:
            # In processor time, as if all cores were at work.
            core_ms = seconds * cores() * 1000 / count / (megapixels if stages[name].megapixel else 1.0)
            where = f"{project.relative(path)}: {count} images in {seconds:.0f} s on {cores()} cores"
            stages[name] = stages[name].model_copy(update={"core_ms": core_ms, "measured": where})
    return rates.model_copy(update={"stages": stages})


def _read(file: Path) -> dict[str, dict[str, object]]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise GatemaskError("The rates cannot be read.", where=file, received=error.strerror) from None
    values = parse_yaml(text, file).value
    if not isinstance(values, dict):
        raise _fault(file, type(values).__name__, "the sections stages and files")
    return values


def _fault(file: Path, received: str, expected: str | None) -> GatemaskError:
    return GatemaskError("The table of rates is not valid.", where=file, received=received, expected=expected)
