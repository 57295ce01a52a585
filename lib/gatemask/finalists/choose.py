"""`gatemask finalists`: choose the two submissions whose better private score is expected to be highest.

    runs/<comp>/finalists/finalists.png    private score of each candidate, and the best pairs
    runs/<comp>/finalists/result.json      written last

Kaggle counts the better of two chosen submissions. So the best pair need not consist of the two best submissions: a
different one may win where the best fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gatemask.config import Competition, metric_title
from gatemask.console import say, table
from gatemask.cost.kernel_time import count_test_images
from gatemask.errors import GatemaskError
from gatemask.files import fingerprint
from gatemask.finalists.candidates import Candidate, load_candidates
from gatemask.finalists.posterior import Posterior, Prior, condition
from gatemask.finalists.simulation import (
    Draws,
    PartSizes,
    best_shares,
    contains_best,
    expected_best,
    pairs_of,
    simulate,
)
from gatemask.kaggle.submit.leaderboard import submitted_records
from gatemask.project import Project
from gatemask.results.finalists import Alternative, FinalistCandidate, FinalistPair, FinalistsResult, PrevalenceEstimate
from gatemask.stage import Stage
from gatemask.tuning.members import training_images

METHOD = 1  # changes with the model, so that earlier results are made again
RUNNERS_UP = 4
SAME = 1e-12  # scores this close differ by rounding alone


@dataclass(frozen=True)
class FinalistOptions:
    """Options of `gatemask finalists`.

    Args:
        public_share: Share of test images behind the public score. Default: 0.3.
        prevalence: Lowest and highest share of positive images in the test set. Default: around that of the training
            images, weighed by the public scores.
        draws: Number of simulated test sets. Default: 4000.
        seed: Seed of the draws. Default: 0.
        tuned: Whether the present rule, which was not submitted, is a candidate. Default: False.
    """

    public_share: float = 0.3
    prevalence: tuple[float, float] | None = None
    draws: int = 4000
    seed: int = 0
    tuned: bool = False


@dataclass(frozen=True)
class Choice:
    """Two finalists, and what speaks for them.

    Args:
        posterior: Private scores given the public scores.
        pairs: All pairs, int (pairs, 2).
        expected: Expected score of the better one of each pair, float (pairs,).
    """

    posterior: Posterior
    pairs: np.ndarray
    expected: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Pairs, best first."""
        order: np.ndarray = np.argsort(-self.expected, kind="stable")
        return order

    @property
    def best(self) -> tuple[int, int]:
        """Indices of the chosen candidates."""
        first, second = self.pairs[self.order[0]].tolist()
        return first, second

    def better_scores(self, pair: Sequence[int]) -> np.ndarray:
        """Return the better private score of a pair in each draw, float (draws,)."""
        scores: np.ndarray = self.posterior.private[:, list(pair)].max(axis=1)
        return scores


def choose(draws: Draws, public: np.ndarray, prior: Prior, seed: int) -> Choice:
    """Choose the pair with the highest expected best private score.

    Args:
        draws: Simulated test sets.
        public: Public score of each candidate, float (candidates,); NaN where there is none.
        prior: Prior of the prevalence.
        seed: Seed of what is drawn besides.
    """
    posterior = condition(draws, public, prior, seed)
    pairs = pairs_of(len(public))
    return Choice(posterior, pairs, expected_best(posterior.private, pairs))


def simple_pairs(local: np.ndarray, public: np.ndarray) -> dict[str, tuple[int, int]]:
    """Return the pairs that simple ways of choosing take, by name.

    Args:
        local: Local score of each candidate, float (candidates,).
        public: Public score, float (candidates,); NaN where there is none. Two are needed for "two best public", one
            for "best local, best public".

    >>> simple_pairs(np.array([0.8, 0.9, 0.7]), np.array([0.9, 0.8, 0.85]))["two best public"]
    (0, 2)
    """
    by_local = np.argsort(-local, kind="stable").tolist()
    by_public = [index for index in np.argsort(-public, kind="stable").tolist() if np.isfinite(public[index])]
    pairs = {"two best local": (by_local[0], by_local[1])}
    if len(by_public) > 1:
        pairs["two best public"] = (by_public[0], by_public[1])
    if by_public:
        other = next(index for index in [*by_public, *by_local] if index != by_local[0])
        pairs["best local, best public"] = (by_local[0], other)
    return pairs


def choose_finalists(project: Project, comp: Competition, opts: FinalistOptions) -> FinalistsResult:
    """Choose two submissions for the private leaderboard.

    Args:
        project: Project with records of submissions.
        comp: Competition.
        opts: Options.

    Raises:
        GatemaskError: Fewer than two submissions can be scored out of fold, or the options do not fit the images.
    """
    records, _ = submitted_records(project)
    images = training_images(project)
    candidates, left_out = load_candidates(project, records, images.fold_of, opts.tuned)
    test_images = count_test_images(project, comp)
    groups = [images.group_of[i] for i in candidates[0].scores.ids.tolist()]
    made_from = {
        "scores": fingerprint([candidate.digest for candidate in candidates]),
        "board": [[c.id, c.record.public, c.record.private] if c.record else [c.id] for c in candidates],
        "groups": fingerprint(groups),
        "test_images": test_images,
        "options": fingerprint([METHOD, asdict(opts)]),
        "left_out": fingerprint([left.model_dump() for left in left_out]),
    }
    stage = Stage("finalists", project.runs / "finalists" / "result.json", made_from, FinalistsResult)

    def work() -> tuple[FinalistsResult, list[Path]]:
        result = _choose(comp, candidates, np.array(groups), test_images, opts)
        picture = project.runs / "finalists" / "finalists.png"
        _write_figure(picture, result, comp)
        return result.model_copy(update={"left_out": left_out, "picture": str(picture)}), [picture]

    return stage.run(work)


def _choose(
    comp: Competition, candidates: Sequence[Candidate], groups: np.ndarray, test_images: int, opts: FinalistOptions
) -> FinalistsResult:
    scores = [candidate.scores for candidate in candidates]
    positive, local = scores[0].positive, float(scores[0].positive.mean())
    prior = _prior(local, opts)
    public_images = max(1, round(test_images * opts.public_share))
    private_images = max(1, test_images - public_images)
    sizes = PartSizes(public_images / len(positive), private_images / len(positive))
    worth, weight = np.stack([each.worth for each in scores]), np.stack([each.weight for each in scores])
    draws = simulate(worth, weight, positive, groups, sizes, opts.draws, opts.seed)
    public = np.array([candidate.public for candidate in candidates], float)  # None becomes NaN
    choice = choose(draws, public, prior, opts.seed)
    local_scores = np.array([each.score for each in scores])
    seen = np.isfinite(public)
    low, mean, high = _spread(choice.posterior.prevalences)
    return FinalistsResult(
        metric=comp.metric,
        images=len(positive),
        groups=len(np.unique(groups)),
        public_images=public_images,
        private_images=private_images,
        draws=opts.draws,
        prevalence=PrevalenceEstimate(local=local, mean=mean, interval=(low, high)),
        offset=float((public - local_scores)[seen].mean()) if seen.any() else None,
        lasting=choice.posterior.lasting,
        public_only=choice.posterior.public_only,
        candidates=_candidate_rows(candidates, choice),
        pair=_pair(candidates, choice, choice.best),
        runners_up=[
            _pair(candidates, choice, choice.pairs[index].tolist()) for index in choice.order[1 : 1 + RUNNERS_UP]
        ],
        alternatives={
            name: _alternative(candidates, choice, pair) for name, pair in simple_pairs(local_scores, public).items()
        },
        left_out=[],
        picture="",
    )


def _prior(local: float, opts: FinalistOptions) -> Prior:
    if opts.prevalence is None:
        return Prior.around(local)
    low, high = opts.prevalence
    if local in (0.0, 1.0) and (low, high) != (local, local):
        raise GatemaskError(
            "The prevalence of the test set cannot be changed: all training images are of one kind.",
            where="--prevalence",
            received=f"{low:g} to {high:g}",
            expected=f"{local:g}, the share of positive training images",
            do="Leave out --prevalence.",
        )
    return Prior.between(low, high)


def _spread(values: np.ndarray) -> tuple[float, float, float]:
    low, high = np.quantile(values, [0.05, 0.95])
    return float(low), float(values.mean()), float(high)


def _candidate_rows(candidates: Sequence[Candidate], choice: Choice) -> list[FinalistCandidate]:
    private, best = choice.posterior.private, best_shares(choice.posterior.private)
    low, high = np.quantile(private, [0.05, 0.95], axis=0).tolist()
    rows = []
    labels = _labels(candidates)
    for index, candidate in enumerate(candidates):
        record = candidate.record
        rows.append(
            FinalistCandidate(
                id=candidate.id,
                label=labels[index],
                local=candidate.scores.score,
                public=candidate.public,
                private=record.private if record else None,
                expected=float(private[:, index].mean()),
                sd=float(private[:, index].std()),
                interval=(low[index], high[index]),
                best=float(best[index]),
            )
        )
    return sorted(rows, key=lambda row: -row.expected)


def _labels(candidates: Sequence[Candidate]) -> list[str]:
    """Return short names: versions of kernels where all are known and different, ids otherwise."""
    versions = [candidate.record.version for candidate in candidates if candidate.record]
    distinct = None not in versions and len(set(versions)) == len(versions)
    return [
        f"v{candidate.record.version}" if distinct and candidate.record else candidate.id[:6]
        for candidate in candidates
    ]


def _pair(candidates: Sequence[Candidate], choice: Choice, pair: Sequence[int]) -> FinalistPair:
    means = choice.posterior.private.mean(axis=0)
    first, second = sorted(pair, key=lambda index: -means[index])
    return FinalistPair(
        first=candidates[first].id,
        second=candidates[second].id,
        expected=float(choice.better_scores(pair).mean()),
        contains_best=contains_best(choice.posterior.private, pair),
    )


def _alternative(candidates: Sequence[Candidate], choice: Choice, pair: Sequence[int]) -> Alternative:
    gains = choice.better_scores(choice.best) - choice.better_scores(pair)
    return Alternative(
        **_pair(candidates, choice, pair).model_dump(),
        gain=float(gains.mean()),
        chosen_better=float((gains > SAME).mean()),
        chosen_worse=float((gains < -SAME).mean()),
    )


def _write_figure(path: Path, result: FinalistsResult, comp: Competition) -> Path:
    from gatemask.plots.finalists import CandidateScores, draw_finalists
    from gatemask.plots.style import save

    shown = [
        CandidateScores(
            row.label,
            row.local,
            row.public,
            row.private,
            row.expected,
            row.interval,
            row.best,
            row.id in (result.pair.first, result.pair.second),
        )
        for row in result.candidates
    ]
    return save(draw_finalists(shown, metric_title(comp.metric), comp.title), path)


def print_finalists(result: FinalistsResult) -> None:
    """Print the candidates, the chosen pair and what other ways of choosing would give."""
    labels = {row.id: row.label for row in result.candidates}
    title = f"Candidates, {metric_title(result.metric)} of {result.images} images in {result.groups} groups"
    known = any(row.private is not None for row in result.candidates)
    columns = ["submission", "local", "public", "expected", "sd", "best"] + (["private"] if known else [])
    table(title, columns, [_cells(row, known) for row in result.candidates])
    rows: list[list[object]] = [["chosen", *_pair_cells(result.pair, labels), ""]]
    rows += [["next", *_pair_cells(pair, labels), ""] for pair in result.runners_up[:2]]
    for name, pair in result.alternatives.items():
        rows.append([name, *_pair_cells(pair, labels), f"{pair.gain:+.4f}"])
    table("Pairs", ["", "submissions", "expected best", "holds best", "gain"], rows)
    low, high = result.prevalence.interval
    say(
        f"simulated: {result.public_images} public and {result.private_images} private images; "
        f"{result.prevalence.mean:.0%} positive ({low:.0%} to {high:.0%}), {result.prevalence.local:.0%} in training"
    )
    if result.offset is None:
        say("No public score is known, so local scores alone decide.")
    else:
        say(f"public minus local score: {result.offset:+.4f} on average")
    for left in result.left_out:
        say(f"left out: {left.id}: {left.reason}")
    say(f"Choose {labels[result.pair.first]} and {labels[result.pair.second]}.{_advice(result)}")
    say(result.picture)


def _advice(result: FinalistsResult) -> str:
    if "tuned" in (result.pair.first, result.pair.second):
        return " The present rule has to be submitted first."
    return ""


def _cells(row: FinalistCandidate, known: bool) -> list[object]:
    private: list[object] = ["-" if row.private is None else row.private] if known else []
    public = "-" if row.public is None else row.public
    return [row.label, row.local, public, row.expected, row.sd, f"{row.best:.0%}", *private]


def _pair_cells(pair: FinalistPair, labels: dict[str, str]) -> list[object]:
    return [f"{labels[pair.first]} and {labels[pair.second]}", pair.expected, f"{pair.contains_best:.0%}"]
