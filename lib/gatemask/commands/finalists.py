"""Commands at the end of a competition, and messages about its events."""

from __future__ import annotations

from typing import Annotated

import typer

from gatemask.commands.apps import app
from gatemask.commands.options import Comp, Json, Quick, Set, load_competition_inputs, print_result
from gatemask.errors import GatemaskError


@app.command("finalists")
def finalists_command(
    comp: Comp,
    public_share: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of test images behind the public score.")
    ] = 0.3,
    prevalence: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE or LOW,HIGH",
            help="Share of positive test images. Default: estimated from the training images and the public scores.",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=100, max=1_000_000, help="Number of simulated test sets.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
    tuned: Annotated[bool, typer.Option("--tuned", help="Include the present rule, which was not submitted.")] = False,
    set_: Set = None,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Choose the two submissions whose better private score is expected to be highest."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.finalists.choose import FinalistOptions, choose_finalists, print_finalists

    opts = FinalistOptions(public_share, _parse_prevalence(prevalence), draws, seed, tuned)
    print_result(choose_finalists(project, config, opts), json_, show=print_finalists)


def _parse_prevalence(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = [float(part) for part in text.split(",")] * (1 if "," in text else 2)
        if 0 < low <= high < 1:
            return low, high
    except ValueError:
        pass
    raise GatemaskError(
        "--prevalence requires one share, or the lowest and the highest.",
        received=text,
        expected="numbers between 0 and 1, such as 0.2 or 0.15,0.3",
    )


@app.command("notify")
def notify_command(comp: Comp, set_: Set = None, quick: Quick = False, json_: Json = False) -> None:
    """Send a test message to notify.url, or to GATEMASK_NOTIFY_URL. Exits with 1 if it is not accepted."""
    project, config = load_competition_inputs(comp, quick, set_)
    from gatemask.notify import send_test

    result = send_test(project, config)
    print_result(result, json_)
    if not result.sent:
        raise typer.Exit(1)
