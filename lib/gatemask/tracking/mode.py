"""The mode of W&B: what the experiment says, unless the environment variable WANDB_MODE says otherwise."""

from __future__ import annotations

import os

from gatemask.config import Experiment
from gatemask.errors import GatemaskError

# Values of the W&B client, and what they mean here. Two are old names.
MODES = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "shared": "shared",
    "run": "online",
    "dryrun": "offline",
}


def tracking_mode(exp: Experiment) -> str:
    """Return "online", "offline", "shared" or "disabled".

    Raises:
        GatemaskError: WANDB_MODE has a value that the client does not know.
    """
    return environment_mode() or exp.tracking.wandb


def environment_mode() -> str | None:
    """Return the mode that WANDB_MODE names; None if it is not set.

    Raises:
        GatemaskError: WANDB_MODE has a value that the client does not know.
    """
    named = os.environ.get("WANDB_MODE", "").strip()
    if not named:
        return None
    if (mode := MODES.get(named)) is None:
        raise GatemaskError(
            "WANDB_MODE has a value that W&B does not know.",
            where="environment variable WANDB_MODE",
            received=named,
            expected="online, offline or disabled",
            do=f"Run export WANDB_MODE={_likely(named)} or unset WANDB_MODE; 'tracking: {{wandb: offline}}' in the "
            "experiment sets the mode as well.",
        )
    return mode


def _likely(named: str) -> str:
    word = named.lower()
    if word in MODES:
        return MODES[word]
    return "disabled" if word in ("0", "no", "none", "off", "false", "disable", "never") else "offline"
