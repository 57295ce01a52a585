"""What was read and computed, so that nothing is read or computed twice.

    runs/<comp>/.runs/facts.json          facts of each YAML, run and score, with the signatures of their files
    runs/<comp>/.runs/scores/<key>.npy    a score and its bootstrap resamples
    runs/<comp>/.runs/tables/<key>.npz    threshold tables of the ensemble's mask networks

All of it can be deleted at any time: it is made again from the runs. A damaged file counts as deleted.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from gatemask.console import say
from gatemask.errors import GatemaskError
from gatemask.files import locked, sha256, write_bytes, write_with
from gatemask.project import Project
from gatemask.results.rules import Frozen
from gatemask.results.runs import Gain, RunScore
from gatemask.results.tuning import Kind, Verdict
from gatemask.runs.scan import signature

if TYPE_CHECKING:
    import numpy as np

VERSION = 1  # of the facts: other versions are not read
SAVE_S = 5.0  # a killed command loses at most what it found out in this time
KEPT_SCORES = 1000  # scores of earlier calls, which may be asked for again
FOLDER = ".runs"


class Settings(Frozen):
    """Settings of an experiment.

    Args:
        task: Task.
        epochs: Number of epochs.
        monitor: Metric that chooses the epochs.
        values: All settings by dotted key, as JSON: most commands need none of them.
    """

    task: Kind
    epochs: int
    monitor: str
    values: str


class YamlFacts(Frozen):
    """Facts of an experiment's YAML.

    Args:
        signature: Signature of the YAML and of all that it extends.
        extends: Files that it extends.
        name: Name of the experiment.
        settings: Settings; None if the YAML is invalid.
        parent: Name of the file that it extends.
        changed: Values of changed keys: the parent's, then its own.
        made_from: What a run would be made from now, as far as the YAML decides.
        records: Height and width of its records.
        problem: Why the YAML is invalid.
    """

    signature: str
    extends: tuple[str, ...] = ()
    name: str
    settings: Settings | None = None
    parent: str | None = None
    changed: dict[str, tuple[JsonValue, JsonValue]] = Field(default_factory=dict)
    made_from: dict[str, str] = Field(default_factory=dict)
    records: tuple[int, int] | None = None
    problem: str | None = None


class FoldFacts(Frozen):
    """Facts of a run.

    Args:
        signature: Signature of its files.
        finished: Whether it has a valid stamp.
        settings: Hash of its config.yaml.
        made_from: What it was made from: settings, split and records.
        digests: First digits of the hashes of its predictions, as its stamp has them.
        epochs: Number of epochs trained.
        seconds: Duration of its training, in seconds.
        score: Best validation score, in `monitor`.
        monitor: Metric that chose the epochs.
        images_per_s: Training images per second.
        commit: Commit it was trained from.
        kernel: Kaggle kernel that trained it.
        problems: What is wrong with its files.
    """

    signature: str
    finished: bool = False
    settings: str | None = None
    made_from: dict[str, str] = Field(default_factory=dict)
    digests: dict[str, str] = Field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    score: float | None = None
    monitor: str | None = None
    images_per_s: float | None = None
    commit: str | None = None
    kernel: str | None = None
    problems: tuple[str, ...] = ()


class Spent(Frozen):
    """What the sessions of one experiment on Kaggle cost.

    Args:
        quota_hours: Hours of accelerator quota.
        active: Folds of a session that has not been fetched.
    """

    quota_hours: float = 0.0
    active: tuple[int, ...] = ()


class Submitted(Frozen):
    """Best submission with an experiment.

    Args:
        public: Public score.
        id: Id of the submission.
        experiments: Experiments of its members.
    """

    public: float
    id: str
    experiments: tuple[str, ...]


class KaggleFacts(Frozen):
    """What the records of kernels and submissions say.

    Args:
        signature: Signature of the records.
        spent: Costs by experiment.
        submitted: Best submission by experiment.
        problems: Damaged records.
    """

    signature: str = "-"
    spent: dict[str, Spent] = Field(default_factory=dict)
    submitted: dict[str, Submitted] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()


class SplitFacts(Frozen):
    """Facts of the fold file.

    Args:
        signature: Signature of the file.
        sha256: Its hash.
        folds: All folds.
        problem: Why it cannot be read.
    """

    signature: str = "-"
    sha256: str = ""
    folds: tuple[int, ...] = ()
    problem: str | None = None


class ScoreFacts(Frozen):
    """Which score belongs to an experiment on some folds, or why there is none.

    Args:
        signature: Signature of the runs that were scored: their files are those that were hashed.
        key: Fingerprint of all that decides the score.
        problem: Why it cannot be computed.
    """

    signature: str
    key: str
    problem: str | None = None


class Difference(Frozen):
    """Paired comparison of two scores."""

    difference: float
    ci95: tuple[float, float]
    verdict: Verdict


class SelectedWeights(Frozen):
    """Weights of the ensemble's members that `gatemask oof-tune` selected.

    Args:
        signature: Signature of what they were selected from.
        gate, mask: Weights; None where they were not selected.
    """

    signature: str = "-"
    gate: tuple[float, ...] | None = None
    mask: tuple[float, ...] | None = None


class FileHash(Frozen):
    signature: str
    sha256: str


class Facts(BaseModel):
    """Contents of facts.json."""

    model_config = ConfigDict(extra="ignore")

    version: int = VERSION
    hashes: dict[str, FileHash] = Field(default_factory=dict)
    settings: dict[str, Settings] = Field(default_factory=dict)
    yamls: dict[str, YamlFacts] = Field(default_factory=dict)
    folds: dict[str, FoldFacts] = Field(default_factory=dict)
    kaggle: KaggleFacts = KaggleFacts()
    split: SplitFacts = SplitFacts()
    records: dict[str, FileHash] = Field(default_factory=dict)
    selected: SelectedWeights = SelectedWeights()
    seconds: dict[str, float | None] = Field(default_factory=dict)
    scores: dict[str, RunScore] = Field(default_factory=dict)
    scored: dict[str, ScoreFacts] = Field(default_factory=dict)
    differences: dict[str, Difference] = Field(default_factory=dict)
    gains: dict[str, Gain | None] = Field(default_factory=dict)


class RunCache:
    """The facts of one competition, read once and saved when they have changed.

    Args:
        project: Project and competition.
    """

    def __init__(self, project: Project) -> None:
        self.folder = project.runs / FOLDER
        self._root = project.root
        self.facts = self._load()
        self._changed = False
        self._used: set[str] = set()
        self._saved = time.monotonic()

    def changed(self) -> None:
        """Note that a fact was added; from time to time, write all of them."""
        self._changed = True
        if time.monotonic() - self._saved > SAVE_S:
            self.save()

    def save(self) -> None:
        """Write the facts if any was added and there are runs. A disk that cannot be written costs only time."""
        self._saved = time.monotonic()
        if not self._changed or not self.folder.parent.is_dir():
            return
        with suppress(OSError, GatemaskError):
            write_bytes(self.folder / "facts.json", self.facts.model_dump_json(exclude_defaults=True).encode())
            self._changed = False

    def hash_of(self, path: Path) -> str | None:
        """Return the SHA-256 of a file, which is read again only after a change; None if it does not exist."""
        if not path.is_file():
            return None
        key, signed = str(path.relative_to(self._root)), signature([path])
        known = self.facts.hashes.get(key)
        if known is None or known.signature != signed:
            known = self.facts.hashes[key] = FileHash(signature=signed, sha256=sha256(path))
            self.changed()
        return known.sha256

    def resamples(self, key: str) -> np.ndarray | None:
        """Return a score followed by its bootstrap resamples, float (1 + times,); None if they are not kept."""
        import numpy as np

        try:
            values: np.ndarray = np.load(self._score_file(key), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return values if values.dtype == np.float64 and values.ndim == 1 and len(values) > 1 else None

    def keep_resamples(self, key: str, values: np.ndarray) -> None:
        """Keep a score followed by its bootstrap resamples, float (1 + times,)."""
        import numpy as np

        with suppress(OSError, GatemaskError):
            write_with(self._score_file(key), lambda temporary: np.save(temporary, values))

    def table_file(self, key: str) -> Path:
        """Return where threshold tables are kept."""
        return self.folder / "tables" / f"{key}.npz"

    def use(self, key: str) -> None:
        """Note that a score is asked for."""
        self._used.add(key)

    def forget_old_scores(self) -> None:
        """Delete scores that this process did not ask for, once they are by far the larger part."""
        facts, used = self.facts, self._used
        if len(facts.scores) <= 3 * len(used) + KEPT_SCORES:
            return
        facts.scores = {key: score for key, score in facts.scores.items() if key in used}
        facts.scored = {name: scored for name, scored in facts.scored.items() if scored.key in used}
        facts.differences = {pair: known for pair, known in facts.differences.items() if set(pair.split("-")) <= used}
        self.changed()
        with suppress(OSError, GatemaskError), locked(self.folder / ".scores.lock", "busy", wait_s=0):
            for path in (self.folder / "scores").glob("[!.]*.npy"):
                if path.stem not in used and not path.name.startswith("joined-"):
                    path.unlink()

    def _score_file(self, key: str) -> Path:
        return self.folder / "scores" / f"{key}.npy"

    def _load(self) -> Facts:
        path = self.folder / "facts.json"
        try:
            facts = Facts.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Facts()
        except (OSError, ValidationError):
            say(f"{path} cannot be read and is made again.")
            return Facts()
        return facts if facts.version == VERSION else Facts()
