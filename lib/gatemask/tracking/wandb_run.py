"""Mirror a local run to W&B. Every call is guarded: whatever goes wrong there, the training continues.

Calls are made in a thread of their own. The training waits for none of them but the first and the last, and for these
no longer than their limits.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from gatemask.config import Experiment
from gatemask.console import say
from gatemask.optional import is_installed
from gatemask.secrets.guard import refuse_secrets
from gatemask.tracking.guarded import GuardedCalls, call_guarded, kill_children
from gatemask.tracking.mode import tracking_mode

LOG_S = 30.0  # limit of a call that sends a row
MARGIN_S = 60.0  # between the client's own limit of a call, and ours
TEARDOWN_S = 10.0  # after its process was killed
CLIENT_S = 60.0  # limits given to the client; its own are up to several days


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
        self._calls = GuardedCalls()
        self._id = run_id
        self.is_online = False
        mode = tracking_mode(exp)
        if mode == "disabled":
            return
        if not is_installed("wandb"):
            (folder / "wandb").mkdir(parents=True, exist_ok=True)  # marks a run that `gatemask sync` uploads
            _say_once(
                "wandb is not installed: runs are kept locally. `pip install wandb` lets gatemask sync upload them."
            )
            return
        for name in ("CACHE", "DATA", "CONFIG"):  # by default below the home folder
            os.environ.setdefault(f"WANDB_{name}_DIR", str(folder / "wandb"))
        begun: list[tuple[Any, bool]] = []  # what begins after its limit is not used
        start = partial(self._begin, exp, comp, fold, folder, mode, begun)
        if (error := call_guarded("W&B", start, _limit_s("init"))) is None:
            ((self._run, self.is_online),) = begun
            return
        say(f"W&B cannot be reached ({error}); the run is kept locally.")  # training matters more
        _end_service_if_it_hangs(error)
        if mode == "online":
            begun = []
            start = partial(self._begin_offline, exp, comp, fold, folder, begun)
            if (error := call_guarded("W&B offline", start, _limit_s("init"))) is None:
                ((self._run, _),) = begun
            else:
                say(f"{error}.")
                _end_service_if_it_hangs(error)

    def _begin(self, exp: Experiment, comp: str, fold: int, folder: Path, mode: Any, begun: list[Any]) -> None:
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        if mode == "online" and not supports_finish_timeout():
            say("This W&B client has no time limit for its last upload: the run is kept locally for gatemask sync.")
            mode = "offline"
        if mode == "online":  # offline runs are searched by `gatemask sync`
            names = [exp.name, comp, exp.tracking.project, exp.settings]
            refuse_secrets({"the run": json.dumps(names, default=str).encode()}, Path.cwd())
        begun.append((self._start(exp, comp, fold, folder, mode), mode == "online"))

    def _begin_offline(self, exp: Experiment, comp: str, fold: int, folder: Path, begun: list[Any]) -> None:
        import wandb

        wandb.teardown()  # otherwise the same id cannot be started again
        begun.append((self._start(exp, comp, fold, folder, "offline"), False))

    def _start(self, exp: Experiment, comp: str, fold: int, folder: Path, mode: Any) -> Any:
        import wandb

        names = ("init_timeout", "finish_timeout")  # the environment may set others
        options: dict[str, object] = {name: CLIENT_S for name in names if f"WANDB_{name.upper()}" not in os.environ}
        if mode == "offline":  # no server limits it, only the speed of this machine
            options["init_timeout"] = CLIENT_S
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

    def log(self, row: Mapping[str, float]) -> None:
        """Log the row of an epoch, at the step of its number: an epoch that is trained again is not counted twice.

        Offline sessions do not know each other's rows; there, `gatemask sync` takes care of it. `commit` writes the
        row at once; given a step, the client would otherwise hold it back until the next one.
        """
        if self._run is not None:
            run, values = self._run, dict(row)
            self._calls.add("W&B log", lambda: run.log(values, step=values["epoch"], commit=True), LOG_S)
            self._drop_if_failed()

    def log_missing(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log those finished epochs that the server of an online run lacks: an earlier session was killed too soon.

        They must arrive before later ones; W&B does not accept them afterwards.

        Args:
            rows: Rows of all finished epochs.
        """
        if self._run is not None and self.is_online:
            first = int(getattr(self._run, "starting_step", 0))  # the client asked the server for it
            for row in rows:
                if row["epoch"] >= first:
                    self.log(row)

    def send(self, what: str, work: Callable[[Any], object], limit_s: float) -> None:
        """Call a function with the client's run, after all calls before it.

        Args:
            what: Name for messages.
            work: The function.
            limit_s: Time limit, in seconds from its beginning.
        """
        if self._run is not None:
            run = self._run
            self._calls.add(what, lambda: work(run), limit_s)
            self._drop_if_failed()

    def finish(self, summary: Mapping[str, float | None]) -> None:
        """Close the run. The numbers of `summary` are added to the run's summary, not logged as a row."""
        if self._run is not None:
            run, numbers = self._run, {name: value for name, value in summary.items() if value is not None}
            self._calls.add("W&B summary", lambda: run.summary.update(numbers), LOG_S)
            self._calls.add("W&B finish", run.finish, _limit_s("finish"))
            self._calls.wait()
            self._drop_if_failed()

    def _drop_if_failed(self) -> None:
        if self._calls.failure is not None:
            say(f"{self._calls.failure}; the run is kept locally.")
            self._run, self.is_online = None, False
            _end_service_if_it_hangs(self._calls.failure)


def finish_client() -> None:
    """Let the client write what it holds; its separate process would otherwise change files later."""
    if (wandb := sys.modules.get("wandb")) is not None and (
        error := call_guarded("W&B", wandb.teardown, _limit_s("finish"))
    ):
        _end_service_if_it_hangs(error)


@cache
def _say_once(text: str) -> None:
    say(text)


def _end_service_if_it_hangs(failure: str) -> None:
    """Kill the client's separate process: the end of this one would wait for it. The next run starts a new one."""
    if "did not return" not in failure:
        return
    kill_children("wandb-core")
    if (wandb := sys.modules.get("wandb")) is not None:
        call_guarded("W&B", wandb.teardown, TEARDOWN_S)


def _limit_s(call: str) -> float:
    """Return our limit for a call that the client itself should end earlier."""
    try:
        return float(os.environ.get(f"WANDB_{call.upper()}_TIMEOUT", CLIENT_S)) + MARGIN_S
    except ValueError:
        return CLIENT_S + MARGIN_S


def supports_finish_timeout() -> bool:
    """Return whether the W&B client can limit the time of `finish`. Others retry for days without a server."""
    import wandb

    return "finish_timeout" in wandb.Settings.model_fields
