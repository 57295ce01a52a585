"""Mirror a local run to W&B. Every call is guarded: whatever goes wrong there, the training continues."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gatemask.config import Experiment
from gatemask.console import say
from gatemask.tracking.mode import tracking_mode


class WandbRun:
    """Run of one fold on W&B, offline unless the experiment or WANDB_MODE says otherwise.

    A resumed training continues the same run; a training with other settings or data gets a new one.

    Args:
        exp: Experiment; its `tracking:` section selects mode and project.
        comp: Competition, which names the default project.
        fold: Number of the fold.
        folder: Folder of the local run; W&B's own files go to its subfolder `wandb`.
        run_id: Fingerprint of everything the run is made from.
    """

    def __init__(self, exp: Experiment, comp: str, fold: int, folder: Path, run_id: str) -> None:
        self._run: Any = None
        self._id = run_id
        self.is_online = False
        mode = tracking_mode(exp)
        if mode == "disabled":
            return
        for name in ("CACHE", "DATA", "CONFIG"):  # by default below the home folder
            os.environ.setdefault(f"WANDB_{name}_DIR", str(folder / "wandb"))
        try:
            (folder / "wandb").mkdir(parents=True, exist_ok=True)
            if mode == "online" and not supports_finish_timeout():
                say("This W&B client has no time limit for its last upload: the run is kept locally for gatemask sync.")
                mode = "offline"
            self._run = self._start(exp, comp, fold, folder, mode)
            self.is_online = mode == "online"
        except Exception as error:  # no network, no key, a full disk: training matters more
            say(f"W&B cannot be reached ({type(error).__name__}: {error}); the run is kept locally.")
            if mode == "online":
                self._fall_back(exp, comp, fold, folder)

    def _start(self, exp: Experiment, comp: str, fold: int, folder: Path, mode: Any) -> Any:
        import wandb

        # The client's own limits are up to several days. The environment may set others.
        names = ("init_timeout", "finish_timeout")
        options: dict[str, object] = {name: 60.0 for name in names if f"WANDB_{name.upper()}" not in os.environ}
        options |= {"x_service_wait": 120, "x_transaction_log_flush_interval": 2}
        options |= {"console": "off", "disable_git": True, "silent": True}
        # Kaggle's image has an older client, which rejects settings that it does not know.
        supported = wandb.Settings.model_fields
        settings = wandb.Settings(**{name: value for name, value in options.items() if name in supported})
        run = wandb.init(
            project=exp.tracking.project or f"gatemask-{comp}",
            name=f"{exp.name}-fold{fold}",
            group=exp.name,
            job_type=exp.task,
            id=self._id,
            resume="allow",
            mode=mode,
            dir=str(folder),
            config={**exp.settings, "fold": fold},
            settings=settings,
            reinit="create_new",
        )
        run.define_metric("*", step_metric="epoch")
        return run

    def _fall_back(self, exp: Experiment, comp: str, fold: int, folder: Path) -> None:
        try:
            import wandb

            wandb.teardown()  # otherwise the same id cannot be started again
            self._run = self._start(exp, comp, fold, folder, "offline")
        except Exception as error:
            say(f"W&B offline failed too ({type(error).__name__}: {error}).")

    def log(self, row: Mapping[str, float]) -> None:
        """Log the row of an epoch, at the step of its number: an epoch that is trained again is not counted twice.

        Offline sessions do not know each other's rows; there, `gatemask sync` takes care of it. `commit` writes the
        row at once; given a step, the client would otherwise hold it back until the next one.
        """
        self._guarded(lambda run: run.log(dict(row), step=row["epoch"], commit=True), "log")

    def finish(self, summary: Mapping[str, float | None]) -> None:
        """Close the run. The numbers of `summary` are added to the run's summary, not logged as a row."""
        numbers = {name: value for name, value in summary.items() if value is not None}
        self._guarded(lambda run: run.summary.update(numbers), "summary")
        self._guarded(lambda run: run.finish(), "finish")

    def _guarded(self, call: Callable[[Any], object], what: str) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            say(f"W&B {what} failed ({type(error).__name__}: {error}); the run is kept locally.")
            self._run, self.is_online = None, False


def supports_finish_timeout() -> bool:
    """Return whether the W&B client can limit the time of `finish`. Others retry for days without a server."""
    import wandb

    return "finish_timeout" in wandb.Settings.model_fields
