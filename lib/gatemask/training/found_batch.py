"""Keep the batch that `batch: {per_device: auto}` found: all folds of an experiment train with the same one.

runs/<comp>/<experiment>/batch.json   written by the first fold, read by the others, sent to Kaggle and fetched
"""

from __future__ import annotations

from pathlib import Path

from gatemask.files import write_json
from gatemask.project import Project
from gatemask.results.training import FoundBatch
from gatemask.stage import load_document

BATCH_FILE = "batch.json"


def batch_path(project: Project, experiment: str) -> Path:
    """Return the file that holds the batch of an experiment."""
    return project.runs / experiment / BATCH_FILE


def load_found_batch(path: Path) -> FoundBatch:
    """Read a batch.json.

    Raises:
        GatemaskError: The file is damaged.
    """
    return load_document(FoundBatch, path, do=f"Restore {path} from a backup, or delete it to find the batch again.")


def read_found_batch(project: Project, experiment: str, settings: str) -> FoundBatch | None:
    """Return the batch of an experiment; None if none was found yet for these settings.

    Args:
        project: Project.
        experiment: Name of the experiment.
        settings: Fingerprint of the settings that decide the training.

    Raises:
        GatemaskError: The file is damaged.
    """
    path = batch_path(project, experiment)
    if not path.exists():
        return None
    found = load_found_batch(path)
    return found if found.settings == settings else None


def write_found_batch(project: Project, experiment: str, found: FoundBatch) -> Path:
    """Write the batch of an experiment."""
    return write_json(batch_path(project, experiment), found.model_dump(mode="json"))
