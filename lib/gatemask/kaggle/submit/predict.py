"""`gatemask predict`: predict a test set with the package, here or on a cluster, in any number of shards.

    runs/<comp>/predicted/submission.csv   the submission; an archive of masks is called submission.zip
    runs/<comp>/predicted/inference.json   as the kernel writes it
    runs/<comp>/predicted/shard-*.json     masks of a shard, and its log; removed at the end
    runs/<comp>/predicted/result.json      written last

Unlike the rehearsal, it has no sandbox and no limit of images: it serves test sets that are visible, of any size.
"""

from __future__ import annotations

from pathlib import Path

from gatemask.config import Competition
from gatemask.data.raw_folder import raw_folder
from gatemask.errors import GatemaskError
from gatemask.inference.shards import Source, predict_in_shards, shard_piece
from gatemask.kaggle.submit.package import require_package
from gatemask.pieces.devices import visible_gpus
from gatemask.pieces.local import Local
from gatemask.pieces.piece import Place
from gatemask.project import Project
from gatemask.results.submission import PredictionResult
from gatemask.stage import Stage


def predict_package(
    project: Project, comp: Competition, data: Path | None = None, shards: int | None = None, place: Place | None = None
) -> PredictionResult:
    """Predict the test set with the packaged ensemble.

    Args:
        project: Project with the package.
        comp: Competition.
        data: Folder with the test images. Default: the raw folder of the competition.
        shards: Number of shards. Default: one per GPU, or as many as the place runs at once.
        place: Place that predicts. Default: this machine.

    Raises:
        GatemaskError: Nothing is packaged, there is nothing to predict, or a shard failed.
    """
    package = require_package(project, comp)
    source = Source.open(project.dist / "dataset", (data or raw_folder(project, comp)).resolve())
    if not source.test_set.ids:
        raise GatemaskError("The visible test set has no images to predict.", where=source.competition)
    folder = project.runs / "predicted"
    made_from = {"package": package, "images": source.made_from()}
    stage = Stage("predict", folder / "result.json", made_from, PredictionResult)

    def predict() -> tuple[PredictionResult, list[Path]]:
        images = range(len(source.test_set.ids))
        whole = shard_piece(source, folder, made_from["images"], images, (0, 1))
        usual = len(visible_gpus()) if place is None else place.slots(whole)
        count = min(shards or max(1, usual), len(images))
        report = predict_in_shards(source, folder, count, place or Local())
        submission = folder / comp.submission.file_name
        result = PredictionResult(
            images=report.images,
            rows=report.rows,
            passed=report.passed,
            empty=report.empty,
            shards=count,
            device=report.device,
            precision=report.precision,
            images_per_second=round(report.images / max(report.seconds, 1e-6), 2),
            submission=str(submission),
        )
        return result, [submission]

    return stage.run(predict, lambda: _remove_shards(folder))


def _remove_shards(folder: Path) -> None:
    for pattern in ("shard-*", ".shard-*.lock"):
        for path in folder.glob(pattern):
            path.unlink()
