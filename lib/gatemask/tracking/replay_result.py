"""Send a result to W&B: python -m gatemask.tracking.replay_result FOLDER, which holds run.json and its files.

A process of its own, whose W&B client ends with it. It may be killed and repeated at any point: the run keeps its id, a
row at step 0 and an artifact that the server has are not stored again, and the mark that ends the run is written last,
by a second session, once the first has uploaded all files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gatemask.tracking.artifacts import ArtifactFiles, log_artifact
from gatemask.tracking.result_run import ResultRun

MARK = "gatemask"  # key of the summary that holds the fingerprint of what was sent
INCOMPLETE = ", inputs missing"


def replay_result(folder: Path) -> list[str]:
    """Send the run that a folder holds, and return the artifacts it was made from that W&B lacks."""
    run = ResultRun.model_validate_json((folder / "run.json").read_bytes())
    session = _begin(run, folder)
    missing = _use(session, run)
    _log(session, run)
    session.finish()
    session = _begin(run, folder)
    session.summary.update({MARK: run.fingerprint + (INCOMPLETE if missing else "")})
    session.finish()
    return missing


def _begin(run: ResultRun, folder: Path) -> Any:
    import wandb

    return wandb.init(
        project=run.project,
        name=run.name,
        group=run.group,
        job_type=run.job_type,
        id=run.id,
        resume="allow",
        dir=str(folder),
        config=run.config,
        settings=wandb.Settings(init_timeout=60, x_service_wait=120, console="off", disable_git=True, silent=True),
        reinit="create_new",
    )


def _use(session: Any, run: ResultRun) -> list[str]:
    """Declare the artifacts that the result was made from, and return those that W&B lacks."""
    import wandb

    missing = []
    for artifact in run.uses:
        try:
            session.use_artifact(f"{session.entity}/{artifact.project}/{artifact.name}:{artifact.alias}")
        except (ValueError, wandb.Error):
            missing.append(artifact.name)
    return missing


def _log(session: Any, run: ResultRun) -> None:
    import wandb

    for logged in run.logs:
        log_artifact(session, ArtifactFiles(logged.name, logged.type, {logged.file.name: logged.file}))
    figures = {f"figures/{name}": wandb.Image(str(path), caption=name) for name, path in run.figures.items()}
    tables = {
        f"tables/{name}": wandb.Table(columns=table.columns, data=table.rows) for name, table in run.tables.items()
    }
    if figures or tables:
        session.log({**figures, **tables}, step=0, commit=True)
    session.summary.update(run.summary)


if __name__ == "__main__":
    for artifact_name in replay_result(Path(sys.argv[1])):
        print(f"Missing: {artifact_name}")
    print("Sent")
