"""The table of stages: `gatemask loop`, the commands and docs/reference/files.md are made from it.

To add a stage, write its module and add it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatemask.remote.address import remote_url

if TYPE_CHECKING:
    from gatemask.config import Competition, Ensemble, Experiment, Phantom
    from gatemask.pieces.piece import Place
    from gatemask.project import Project
    from gatemask.results.training import TrainingResult
    from gatemask.stage import StageResult
    from gatemask.training.time_budget import TimeBudget


@dataclass(frozen=True)
class Inputs:
    """Arguments that stages take by name.

    Args:
        project: Folders of the competition.
        comp: Contents of competition.yaml.
        ensemble: Contents of ensemble.yaml.
        data: Raw folder, if it is not the one in competition.yaml.
        exp: Experiment to train.
        folds: Folds to train. Default: all.
        budget: Time limit of the session.
        place: Place that runs pieces of work. Default: this machine, where each stage divides its work itself.
        training_place: Place that trains. Default: this machine.
    """

    project: Project
    comp: Competition
    ensemble: Ensemble | None = None
    data: Path | None = None
    exp: Experiment | None = None
    folds: Sequence[int] | None = None
    budget: TimeBudget | None = None
    place: Place | None = None
    training_place: Place | None = None

    @property
    def raw(self) -> Path:
        from gatemask.data.raw_folder import default_raw

        return default_raw(self.project, self.comp)

    @property
    def phantom(self) -> Phantom | None:
        return self.comp.phantom


@dataclass(frozen=True)
class StageEntry:
    """A stage, or another command that writes files.

    Args:
        command: Command line without `gatemask`, such as "folds make".
        files: Description of each file it writes, by path.
        name: Name in the loop. Default: None, for a command that is not part of it.
        function: "module:function" below gatemask, imported when it is called.
        takes: Names of the function's arguments in Inputs. A stage that takes `exp` runs once per experiment.
        reads: What it reads of the files that other stages write, in the form of `fetch_inputs`.
        headline: Makes the text for the loop's table from the result.
        summary: Help text of a command with no options beyond the common ones; the command line registers it.
        printer: "module:function" that prints the result. Default: None, to print all fields.
    """

    command: str
    files: Mapping[str, str]
    name: str | None = None
    function: str | None = None
    takes: tuple[str, ...] = ("project", "comp")
    reads: tuple[str, ...] = ()
    headline: Callable[[Any], str] = field(default=lambda result: "")
    summary: str | None = None
    printer: str | None = None

    def run(self, inputs: Inputs) -> StageResult | TrainingResult:
        """Fetch what the stage reads from the remote, if there is one; import the function and call it."""
        assert self.function is not None, self.command
        self.fetch(inputs)
        arguments = [getattr(inputs, argument) for argument in self.takes]
        result: StageResult | TrainingResult = resolve(self.function)(*arguments)
        return result

    def fetch(self, inputs: Inputs) -> None:
        """Copy what the stage reads from the remote; nothing without a remote."""
        if remote_url() is not None:
            from gatemask.remote.work import fetch

            fetch(inputs.project.root, (name for pattern in self.reads for name in _filled_in(pattern, inputs)))


def fetch_inputs(name: str, inputs: Inputs) -> None:
    """Copy what a stage reads from the remote, for commands that call its function themselves.

    Args:
        name: Name of the stage in the loop.
        inputs: Its arguments.
    """
    next(entry for entry in TABLE if entry.name == name).fetch(inputs)


def _filled_in(pattern: str, inputs: Inputs) -> list[str]:
    """Return a pattern of `reads` with the names of these inputs; several where it names all members."""
    from gatemask.data.raw_folder import default_raw

    project, comp = inputs.project, inputs.comp
    if pattern == RAW:
        raw = default_raw(project, comp)
        return [f"{project.relative(raw)}/"] if raw.is_relative_to(project.data) else []
    size = comp.records.size
    if inputs.exp is not None and inputs.exp.input.records is not None:
        size = inputs.exp.input.records
    text = pattern.replace("<comp>", project.label).replace("<records>", project.records(size).name)
    if inputs.exp is not None:
        text = text.replace("<experiment>", inputs.exp.name)
    if "<source>" in text:
        sources = [] if inputs.exp is None else inputs.exp.data.extra
        return [text.replace("<source>", part.source) for part in sources]
    if "<member>" not in text or inputs.ensemble is None:
        return [text]
    members = [*inputs.ensemble.gate.experiments, *inputs.ensemble.mask.experiments]
    return [text.replace("<member>", member) for member in members]


def resolve(path: str) -> Callable[..., Any]:
    """Import a function named as "module:function" below gatemask."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(import_module(f"gatemask.{module}"), name)
    return function


def _training_headline(result: Any) -> str:
    folds = list(result.folds.values())
    return " ".join([folds[0].monitor, *(f"{fold.score:.3f}" for fold in folds)])


def _tuning_headline(result: Any) -> str:
    from gatemask.config import metric_title

    return f"cross-fitted {metric_title(result.metric)} {result.cross_fitted:.4f}"


def _rehearsal_headline(result: Any) -> str:
    score = result.submission_score
    return str(result.isolation) if score is None else f"submission {score:.4f}"


# Patterns of `reads`: `a/b/` is all that is below, `a/b/*` only the files there, `a/b/*/*` one more level.
RAW = "<raw>"  # the raw folder, if it is below data/<comp>/
TABLES = ("data/<comp>/*", "folds/<comp>.csv")
FOLDS = ("runs/<comp>/<member>/*/*",)
CHOSEN = ("runs/<comp>/tuned/*", "runs/<comp>/ensemble/*")
COMPETITION, ENSEMBLE = ("project", "comp"), ("project", "comp", "ensemble")
TABLE = [
    StageEntry(
        "data phantom",
        {"data/<comp>/raw/": "phantoms: DICOM files, labels, sample submission, true masks of the test images"},
        name="phantoms",
        function="data.phantom:make_phantoms",
        takes=("raw", "phantom"),
        headline=lambda result: f"{result.images} images",
    ),
    StageEntry(
        "data download",
        {"data/<comp>/download.json": "files fetched; `download-files.json` lists them by name and size"},
    ),
    StageEntry(
        "data prepare",
        {
            "data/<comp>/manifest.csv": "one row per image: image_id, path, split, group, label, mask_area, height, "
            "width, sha256, phash, classes (if there are several), and the columns of `extra`",
            "data/<comp>/masks.csv": "true masks: image_id, class, rle (absolute, base 0, column-major), or objects",
            "data/<comp>/duplicates.csv": "exact and near copies: image_id, split, other_id, other_split, kind",
            "data/<comp>/problems.csv": "files that were left out, and why",
        },
        name="manifest",
        function="data.manifest:prepare",
        takes=("project", "comp", "data"),
        reads=(RAW, "data/<comp>/*"),
        headline=lambda result: f"{result.images} images",
    ),
    StageEntry(
        "folds make",
        {"folds/<comp>.csv": "image_id, fold, group, stratum; fold -1 is the hold-out; keep it in git"},
        name="folds",
        function="data.folds:make_folds",
        reads=TABLES,
        headline=lambda result: f"{result.folds} folds",
        summary="Split the training images into stratified, grouped folds: folds/COMP.csv.",
    ),
    StageEntry("folds audit", {"runs/audit/<name>.png": "leak, positives and mask areas of each fold"}),
    StageEntry(
        "records make",
        {
            "data/<comp>/records-<px>/*.tfrec": "image_id, image (JPEG or PNG), mask (PNG), label, origin of "
            "a tile; `index.json` has counts, hashes and settings"
        },
        name="records",
        function="data.records:make_records",
        takes=(*COMPETITION, "place"),
        reads=(RAW, *TABLES),
        headline=lambda result: f"{result.count} records",
        summary="Write images and masks at training size. Resumes where it stopped.",
    ),
    StageEntry("augment show", {"runs/<comp>/<experiment>/augment.png": "images before and after augmentation"}),
    StageEntry("plan", {"runs/<comp>/<experiment>/network.json": "size of the network, by which `push` judges memory"}),
    StageEntry(
        "sources make",
        {
            "data/<comp>/sources/<source>/": "manifest.csv, masks.csv and records-<px>/ of extra training images, as "
            "of a competition; copies.csv lists their copies of the competition's images"
        },
        takes=COMPETITION,
    ),
    StageEntry(
        "pseudo",
        {
            "data/<comp>/sources/<source>/": "images/ with the tables of the images; fold<k>/records-<px>/ with the "
            "labels of fold k's networks, whose confidences are in images.csv; pseudo.json, written last"
        },
    ),
    StageEntry(
        "train",
        {
            "runs/<comp>/<experiment>/fold<k>/": "config.yaml, environment.json, metrics.jsonl, best.weights.h5, "
            "result.json; masks: oof.h5, tables.npz and, for views kept apart, oof-views.h5; gates: oof.csv; "
            "kept/ where several epochs are kept; state/ while it runs; tensorboard/ with tracking.tensorboard",
            "runs/<comp>/<experiment>/batch.json": "the batch that `batch: {per_device: auto}` found, for all folds",
            "runs/<comp>/<experiment>/logs/fold<k>.log": "what the process of a fold printed, where folds are "
            "trained side by side",
        },
        name="train",
        function="training.train:train",
        takes=("project", "comp", "exp", "folds", "budget", "training_place"),
        reads=(*TABLES, "data/<comp>/<records>/*", "data/<comp>/sources/<source>/", "runs/<comp>/<experiment>/*"),
        headline=_training_headline,
    ),
    StageEntry(
        "search",
        {
            "runs/<comp>/search/<experiment>/": "study.log (Optuna's journal of the trials), history.png, slice.png, "
            "importance.png: [search](../how_to/search.md)",
            "experiments/<comp>/trials/<experiment>-t<number>.yaml": "a trial, as an experiment; `-q<number>` with "
            "--quick",
        },
    ),
    StageEntry(
        "push, fetch, ...",
        {
            "runs/<comp>/kaggle/, runs/.kaggle/": "kernels and datasets on Kaggle, and their logs: "
            "[training on Kaggle](../how_to/kaggle.md)"
        },
    ),
    StageEntry(
        "runs",
        {
            "runs/<comp>/.runs/": "facts and scores that `gatemask runs` has read and computed; can be deleted",
            "runs/<comp>/notes.json": "tags and notes on experiments",
        },
    ),
    StageEntry("sync", {"runs/<comp>/wandb-synced.json": "runs and results that are on W&B, with all of their parts"}),
    StageEntry(
        "oof-tune",
        {
            "runs/<comp>/tuned/": "tables.npz (pixels and hits per image at 256 levels), scores.npz (cross-fitted "
            "score of each image), study.log (Optuna's journal), rule.yaml, figures"
        },
        name="oof-tune",
        function="tuning.tune:tune",
        takes=(*ENSEMBLE, "place"),
        reads=(*TABLES, *FOLDS),
        headline=_tuning_headline,
        summary="Tune gate and mask thresholds on out-of-fold predictions.",
        printer="tuning.printing:print_tuned",
    ),
    StageEntry(
        "ensemble",
        {
            "runs/<comp>/ensemble/": "ensemble.yaml, all that inference needs: members with hashes, weights and "
            "reasons, rule, score; scores.npz; selection.png; costs.json"
        },
        name="ensemble",
        function="ensemble.select:select_members",
        takes=ENSEMBLE,
        reads=(*TABLES, *FOLDS, *CHOSEN),
        headline=lambda result: f"{len(result.members)} members",
        summary="Select the trained folds to ship.",
        printer="ensemble.select:print_ensemble",
    ),
    StageEntry(
        "package",
        {"dist/<comp>/dataset/, dist/<comp>/kernel/": "upload for Kaggle, with SHA256SUMS"},
        name="package",
        function="kaggle.submit.package:write_package",
        takes=ENSEMBLE,
        reads=(RAW, *TABLES, *FOLDS, *CHOSEN),
        headline=lambda result: f"{result.megabytes} MB",
    ),
    StageEntry(
        "rehearse",
        {
            "runs/<comp>/rehearsal/": "stand-in for /kaggle with hidden ids, log, inference.json below kaggle/working, "
            "submission.csv for the visible ids"
        },
        name="rehearse",
        function="kaggle.submit.rehearse:rehearse_submission",
        takes=ENSEMBLE,
        reads=(RAW, *TABLES, *CHOSEN, "dist/<comp>/"),
        headline=_rehearsal_headline,
    ),
    StageEntry(
        "predict",
        {
            "runs/<comp>/predicted/": "submission.csv of a test set that was predicted in shards, inference.json; "
            "shard-<k>-of-<n>.json while it runs"
        },
    ),
    StageEntry("sky", {"dist/<comp>/sky/<experiment>-fold<k>.yaml": "SkyPilot task that trains a fold"}),
    StageEntry(
        "rehearse --train", {"runs/<comp>/rehearsal-train/<experiment>/": "training kernel, stand-in for /kaggle, log"}
    ),
    StageEntry(
        "submit",
        {
            "runs/<comp>/submissions/<id>.json, <id>.log, <id>.csv, <id>.npz": "a submission from package to scores, "
            "its kernel's log, its file for the visible test set, image scores: [submitting](../how_to/submitting.md)"
        },
    ),
    StageEntry(
        "leaderboard", {"runs/<comp>/leaderboard/leaderboard.png": "local scores against public and private scores"}
    ),
    StageEntry(
        "finalists", {"runs/<comp>/finalists/": "candidates, best pairs, figure: [finalists](../how_to/finalists.md)"}
    ),
    StageEntry(
        "campaign, fetch, train, ...",
        {
            "runs/<comp>/notified/<hash>.json": "an event whose message was sent: "
            "[notifications](../how_to/kaggle.md#7-notifications)"
        },
    ),
    StageEntry(
        "report",
        {
            "runs/<comp>/report/report.html": "one page that opens without a network, below 8 MB: "
            "[the report](../how_to/report.md)"
        },
        name="report",
        function="report.page:write_report",
        takes=ENSEMBLE,
        reads=(RAW, *TABLES, "runs/<comp>/", "dist/<comp>/*"),
        headline=lambda result: str(result.report),
        summary="Write one HTML page from whatever is on disk, from the first epoch on.",
        printer="report.page:print_report",
    ),
    StageEntry(
        "train, ...",
        {
            "data/.compiled/": "what JAX has compiled: [compilation](../explanation/training_speed.md#compilation); "
            "can be deleted"
        },
    ),
    StageEntry(
        "any command", {"runs/.logs/": "tracebacks of unexpected errors, which end a command with exit code 70"}
    ),
    StageEntry("loop", {"runs/<comp>/summary.json": "most important numbers of the competition"}),
]
LOOP = [entry for entry in TABLE if entry.name is not None]

_HEAD = """# Files

`<comp>` is a competition, with `-quick` after `--quick`; `<px>` is a size in pixels, `<k>` a fold. `gatemask files
--write docs/reference/files.md` writes this page from the table of stages in `lib/gatemask/stages.py`.

| file | written by | contents |
|---|---|---|
"""
_TAIL = """
Each stage ends by writing a JSON stamp with the hashes of its inputs and outputs. A stage whose stamp matches does
nothing; one that was killed, or whose disk was full, has no stamp and runs again. The stamp holds its own hash, too: an
edited stamp is not believed, and its stage runs again or says what to do. Stamps of earlier versions have none and are
accepted. A lock file next to the stamp names
the process that works on the stage; a second one waits for ten seconds and is then refused. Probability maps are uint8:
0 to 255 for 0 to 1.

The decision rule, how it is tuned, and what the scores mean: [tuning](../how_to/tuning.md). In `summary.json`,
`cross_fitted`, `in_sample` and `all_empty` come from `oof-tune`; `submission_score` is the score of the rehearsed
submission where labels of the test images are available. All use the competition's metric.
"""


def files_page() -> str:
    """Return docs/reference/files.md."""
    rows = [
        f"| {', '.join(f'`{part}`' for part in path.split(', '))} | `{entry.command}` | {contents} |"
        for entry in TABLE
        for path, contents in entry.files.items()
    ]
    return _HEAD + "\n".join(rows) + "\n" + _TAIL
