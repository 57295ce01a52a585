"""W&B as a mirror of the local run. Every call is guarded: whatever goes wrong there, the training goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gatemask.config import Experiment
from gatemask.console import say


class Mirror:
    """One fold's run on W&B, offline unless the experiment says otherwise or WANDB_MODE does.

    A resumed training goes on in the same run; one of other settings or data gets a run of its own.

    Args:
        exp: its `tracking:` names mode and project.
        comp: the competition, which names the project by default.
        fold: number of the fold.
        folder: of the run; W&B's own files go to `folder/wandb`.
        run_id: what the run is made from, as a fingerprint.
    """

    def __init__(self, exp: Experiment, comp: str, fold: int, folder: Path, run_id: str) -> None:
        self._run: Any = None
        self._id = run_id
        mode: Any = os.environ.get("WANDB_MODE", exp.tracking.wandb)
        if mode == "disabled":
            return
        for name in ("CACHE", "DATA", "CONFIG"):  # else below the home folder
            os.environ.setdefault(f"WANDB_{name}_DIR", str(folder / "wandb"))
        try:
            (folder / "wandb").mkdir(parents=True, exist_ok=True)
            if mode == "online" and not _ends_in_time():
                say("This W&B client cannot be told to give up: the run is kept locally, for gatemask sync.")
                mode = "offline"
            self._run = self._start(exp, comp, fold, folder, mode)
        except Exception as error:  # no network, no key, a full disk: training matters more
            say(f"W&B cannot be reached ({type(error).__name__}: {error}); the run is kept locally.")
            if mode == "online":
                self._fall_back(exp, comp, fold, folder)

    def _start(self, exp: Experiment, comp: str, fold: int, folder: Path, mode: Any) -> Any:
        import wandb

        # The client's own limits are longer, up to days; the environment may set others.
        names = ("init_timeout", "finish_timeout")
        limits = {name: 60.0 for name in names if f"WANDB_{name.upper()}" not in os.environ}
        wanted: dict[str, Any] = {**limits, "x_service_wait": 120, "x_transaction_log_flush_interval": 2}
        wanted |= {"console": "off", "disable_git": True, "silent": True}
        # The client of Kaggle's image is older, and refuses settings that it does not know.
        known = wandb.Settings.model_fields
        settings = wandb.Settings(**{name: value for name, value in wanted.items() if name in known})
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

            wandb.teardown()  # without it the same id cannot be started again
            self._run = self._start(exp, comp, fold, folder, "offline")
        except Exception as error:
            say(f"W&B offline failed too ({type(error).__name__}: {error}).")

    def log(self, row: dict[str, Any]) -> None:
        """One epoch's row, at the step of its number: one that is trained again after a kill is not counted twice.

        Sessions offline do not know of each other's rows: there, `gatemask sync` sees to it. `commit` writes the row
        at once; given a step, the client would else keep it back until the next one.
        """
        self._guarded(lambda run: run.log(row, step=row["epoch"], commit=True), "log")

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the run; numbers of `summary` go beside the last row, not into a row of their own."""
        numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
        self._guarded(lambda run: run.summary.update(numbers), "summary")
        self._guarded(lambda run: run.finish(), "finish")

    def _guarded(self, call: Callable[[Any], object], what: str) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            say(f"W&B {what} failed ({type(error).__name__}: {error}); the run is kept locally.")
            self._run = None


def _ends_in_time() -> bool:
    """Whether the client knows a limit for `finish`; one that does not tries for days where a server is gone."""
    import wandb

    return "finish_timeout" in wandb.Settings.model_fields
