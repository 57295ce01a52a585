"""Private scores of candidates, given their public scores.

A candidate's score on test images is modeled as its score on simulated images plus a common offset, which all
candidates share (other images, folds that are averaged), plus a lasting difference of its own (a local score that is
too good, a network that transfers better). The public score has one more difference of its own, which does not last: a
submission that was tuned on the leaderboard, or chosen by it. All three are normal with mean 0.

Draws are then conditioned on the public scores by linear regression of private on public scores: each simulated private
score moves by as much as the regression predicts from the distance between observed and simulated public scores. This
is the regression adjustment of approximate Bayesian computation (Beaumont, Zhang and Balding, Genetics 162, 2002),
without its rejection step: with many candidates, no draw would come close.

The prevalence of the test set has a prior on a grid. Each of its values is weighed by the likelihood of the public
scores under a normal distribution with the moments of the draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gatemask.finalists.simulation import Draws

OFFSET = 0.03  # standard deviation of the common offset, in units of the score
PRIOR_SCORES = 2.0  # number of public scores that the prior of the candidates' own differences is worth
LASTING = 0.5  # share of their variance that lasts; the other half affects the public score alone
LOG_ODDS = 0.4  # standard deviation of the prevalence's log-odds, where no range is given
GRID = 9  # values of the prevalence
FLOOR = 1e-12  # variance that keeps matrices regular where candidates are equal


@dataclass(frozen=True)
class Prior:
    """Prior of the prevalence in the test set.

    Args:
        prevalences: Values, ascending, float (values,).
        shares: Probability of each.
    """

    prevalences: np.ndarray
    shares: np.ndarray

    @classmethod
    def around(cls, local: float) -> Prior:
        """Return a normal distribution of the log-odds around those of the training images, cut at two deviations."""
        if local in (0.0, 1.0):
            return cls(np.array([local]), np.ones(1))
        deviations = np.linspace(-2, 2, GRID)
        log_odds = np.log(local / (1 - local)) + LOG_ODDS * deviations
        density = np.exp(-(deviations**2) / 2)
        return cls(1 / (1 + np.exp(-log_odds)), density / density.sum())

    @classmethod
    def between(cls, low: float, high: float) -> Prior:
        """Return a uniform distribution."""
        values = np.linspace(low, high, GRID if high > low else 1)
        return cls(values, np.full(len(values), 1 / len(values)))


@dataclass(frozen=True)
class Posterior:
    """Private scores and prevalence, given the public scores.

    Args:
        private: Private scores, float (draws, candidates).
        prevalences: Prevalence of each draw, float (draws,).
        lasting: Standard deviation of a candidate's lasting difference.
        public_only: Standard deviation of the difference that only its public score has.
    """

    private: np.ndarray
    prevalences: np.ndarray
    lasting: float
    public_only: float


def condition(draws: Draws, public: np.ndarray, prior: Prior, seed: int) -> Posterior:
    """Condition simulated private scores on observed public scores.

    Args:
        draws: Simulated test sets.
        public: Public score of each candidate, float (candidates,); NaN where there is none.
        prior: Prior of the prevalence.
        seed: Seed of the offsets and differences.
    """
    seen = np.flatnonzero(np.isfinite(public))
    variance = own_variance(draws, public, prior)
    lasting, public_only = variance * LASTING, variance * (1 - LASTING)
    shares = _prevalence_shares(draws, public, prior, variance)
    rng = np.random.default_rng(seed)
    index = np.sort(_systematic(shares, len(draws), rng))
    private = np.empty((len(draws), len(public)))
    for value in np.unique(index).tolist():
        rows = index == value
        prevalence = float(prior.prevalences[value])
        count, candidates = int(rows.sum()), len(public)
        common = rng.normal(0, OFFSET, (count, 1)) + rng.normal(0, np.sqrt(lasting), (count, candidates))
        alone = rng.normal(0, np.sqrt(public_only), (count, len(seen)))
        simulated = draws.scores("private", prevalence, rows) + common
        if len(seen):
            distance = public[seen] - draws.scores("public", prevalence, rows)[:, seen] - common[:, seen] - alone
            simulated += distance @ _coefficients(draws, prevalence, seen, lasting, public_only)
        private[rows] = simulated
    return Posterior(private, prior.prevalences[index], float(np.sqrt(lasting)), float(np.sqrt(public_only)))


def own_variance(draws: Draws, public: np.ndarray, prior: Prior) -> float:
    """Return the variance of a candidate's own differences between its public score and simulated ones.

    The method of moments of DerSimonian and Laird (Controlled Clinical Trials 7, 1986) for correlated errors: what the
    public scores scatter around the simulated ones, apart from their common offset, beyond what simulation explains.
    Few scores say little about it, so a prior counts as much as two of them: the variance by which the local scores of
    two candidates would differ with other training images.
    """
    seen = np.flatnonzero(np.isfinite(public))
    excess, expected = 0.0, FLOOR
    for prevalence, share in zip(prior.prevalences.tolist(), prior.shares.tolist(), strict=True):
        local = draws.scores("population", prevalence)
        expected += share * _variance_of_differences(np.cov(local, rowvar=False))
        if len(seen) > 1:
            simulated = draws.scores("public", prevalence)[:, seen]
            residual = public[seen] - simulated.mean(axis=0)
            explained = (len(seen) - 1) * _variance_of_differences(np.cov(simulated, rowvar=False))
            excess += share * (((residual - residual.mean()) ** 2).sum() - explained)
    degrees = max(0, len(seen) - 1)
    return (PRIOR_SCORES * expected + max(0.0, excess)) / (PRIOR_SCORES + degrees)


def _variance_of_differences(covariance: np.ndarray) -> float:
    """Return the mean variance of candidates around their common mean."""
    count = len(covariance)
    return float((np.trace(covariance) - covariance.sum() / count) / (count - 1))


def _coefficients(draws: Draws, prevalence: float, seen: np.ndarray, lasting: float, public_only: float) -> np.ndarray:
    """Return the coefficients of private scores on public ones, float (public scores, candidates)."""
    public, private = draws.scores("public", prevalence)[:, seen], draws.scores("private", prevalence)
    covariance = np.cov(np.hstack([public, private]), rowvar=False) + OFFSET**2
    count = len(seen)
    within = covariance[:count, :count] + (lasting + public_only + FLOOR) * np.eye(count)
    across = covariance[:count, count:]
    across[np.arange(count), seen] += lasting
    coefficients: np.ndarray = np.linalg.solve(within, across)
    return coefficients


def _prevalence_shares(draws: Draws, public: np.ndarray, prior: Prior, variance: float) -> np.ndarray:
    """Return the probability of each prevalence given the public scores, float (values,)."""
    seen = np.flatnonzero(np.isfinite(public))
    if not len(seen) or len(prior.shares) == 1:
        return prior.shares
    logs = []
    for prevalence in prior.prevalences.tolist():
        simulated = draws.scores("public", prevalence)[:, seen]
        covariance = np.atleast_2d(np.cov(simulated, rowvar=False)) + OFFSET**2 + (variance + FLOOR) * np.eye(len(seen))
        residual = public[seen] - simulated.mean(axis=0)
        logs.append(-0.5 * (np.linalg.slogdet(covariance)[1] + residual @ np.linalg.solve(covariance, residual)))
    shares = prior.shares * np.exp(np.array(logs) - max(logs))
    posterior: np.ndarray = shares / shares.sum()
    return posterior


def _systematic(shares: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw indices with these probabilities, evenly spread, int (count,)."""
    points = (np.arange(count) + rng.random()) / count
    return np.minimum(np.searchsorted(np.cumsum(shares), points), len(shares) - 1)
