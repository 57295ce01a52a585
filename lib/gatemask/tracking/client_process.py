"""Run a W&B client in a process of its own, which can be killed and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gatemask.tracking.wandb_server import Account

# They would change the run.
_REMOVED_VARIABLES = {
    *("WANDB_MODE", "WANDB_DISABLED", "WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_JOB_TYPE", "WANDB_TAGS"),
    *("WANDB_NOTES", "WANDB_RESUME", "WANDB_PROJECT"),
}


def run_client(
    account: Account, entity: str, command: Sequence[object], scratch: Path, lock: int, limit_s: float
) -> str:
    """Run `python -m COMMAND` with an online W&B client, and return its output without the API key.

    Args:
        account: Account that uploads.
        entity: Entity of the runs.
        command: Module and its arguments.
        scratch: Folder for the client's own files.
        lock: File number of a lock that the process holds, as it may outlive this one.
        limit_s: Time limit, in seconds; then the process is killed.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if name not in _REMOVED_VARIABLES},
        "WANDB_MODE": "online",
        "WANDB_API_KEY": account.key,
        "WANDB_BASE_URL": account.server,
        "WANDB_ENTITY": entity,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_X_DISABLE_STATS": "true",  # this machine did not train the run
        "WANDB_X_DISABLE_META": "true",
        **{f"WANDB_{name}_DIR": str(scratch) for name in ("CACHE", "DATA", "CONFIG")},
    }
    output = scratch / "output.txt"
    with output.open("w") as out:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", *map(str, command)],
            env=environment,
            cwd=scratch,
            stdin=lock,  # the client's own process closes all inherited files but stdin
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            out.write(f"no end after {limit_s:.0f} s\n")
        finally:
            if child.poll() is None:
                child.kill()  # its own process ends with it
                child.wait()
    return output.read_text(errors="replace").replace(account.key, "...")
