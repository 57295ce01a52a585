"""`gatemask runs`: all experiments of a competition with their scores, costs and changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gatemask.config import Competition, Ensemble
from gatemask.errors import GatemaskError
from gatemask.files import is_locked
from gatemask.project import Project
from gatemask.results.runs import AgainstBest, ExperimentRun, Gain, RunList, RunScore
from gatemask.results.tuning import Kind
from gatemask.runs.beside import Beside
from gatemask.runs.cache import KaggleFacts, RunCache, SplitFacts
from gatemask.runs.costs import inference_seconds
from gatemask.runs.facts import Found, gather, read_split
from gatemask.runs.gains import Gains
from gatemask.runs.kaggle_facts import is_alone, read_kaggle_facts
from gatemask.runs.notes import Notes, read_notes
from gatemask.runs.outdated import outdated_notes
from gatemask.runs.scores import Scorer, Wanted
from gatemask.tracking.run_folder import fold_lock


def list_runs(project: Project, comp: Competition, ensemble: Ensemble | None, *, gains: bool = False) -> RunList:
    """Return all experiments of a competition, the best of each task first.

    Missing scores are computed and kept. A damaged run costs only its own row.

    Args:
        project: Project and competition.
        comp: Contents of competition.yaml.
        ensemble: Contents of ensemble.yaml; None if there is none.
        gains: Whether to compute what each experiment would add to the ensemble. Default: only gains that are known
            are shown.
    """
    return Listing(project, comp, ensemble).run_list(gains)


class Listing:
    """The experiments of a competition, and how they are scored.

    Args:
        project: Project and competition.
        comp: Contents of competition.yaml.
        ensemble: Contents of ensemble.yaml; None if there is none.
    """

    def __init__(self, project: Project, comp: Competition, ensemble: Ensemble | None) -> None:
        self.project, self.comp, self.cache = project, comp, RunCache(project)
        try:
            self.found = gather(project, self.cache)
            self.split: SplitFacts = read_split(project, self.cache)
            self.kaggle: KaggleFacts = read_kaggle_facts(project, self.cache)
            self.beside = Beside(project, comp, ensemble, self.split, self.found, self.cache)
            self.scorer = Scorer(project, comp, self.beside, self.split, self.found, self.cache)
        finally:
            self.cache.save()

    def run_list(self, gains: bool = False) -> RunList:
        """Return the rows, sorted."""
        problems = [*self.kaggle.problems, *([self.split.problem] if self.split.problem else [])]
        notes: dict[str, Notes] = {}
        try:
            notes = read_notes(self.project)
        except GatemaskError as error:
            problems.append(f"{error.details['where']}: {error.short()}")
        try:
            scores = self.scores(self.found)
            best = {task: best_of(scores[task]) for task in scores}
            differences = self._differences(scores, best)
            gained = Gains(self.project, self.comp, self.beside, self.scorer, self.found, self.cache)
            if gains:
                gained.compute_all(self.found)
            seconds = inference_seconds(self.project, self.comp, self.beside.ensemble, self.found, self.cache)
            rows = [
                self._row(
                    found,
                    scores,
                    differences.get(name),
                    gained.known(name),
                    seconds.get(name),
                    notes.get(name, Notes()),
                )
                for name, found in self.found.items()
            ]
            self.cache.forget_old_scores()
        finally:
            self.cache.save()
        return RunList(
            competition=self.project.label,
            metric=self.comp.metric,
            experiments=tuple(sorted(rows, key=rank_key)),
            problems=tuple(problems),
        )

    def scores(self, names: Iterable[str]) -> dict[Kind, dict[str, RunScore | str]]:
        """Return the score of each experiment, or why it has none, by task."""
        wanted = {name: (name, folds) for name in names if (folds := self.scorer.folds_of(name))}
        self.scorer.score_all(wanted.values())
        found: dict[Kind, dict[str, RunScore | str]] = {"mask": {}, "gate": {}}
        for name, item in wanted.items():
            found[self.scorer.task(name)][name] = self.scorer.score(item)
        return found

    def _differences(
        self, scores: Mapping[Kind, Mapping[str, RunScore | str]], best: Mapping[Kind, str | None]
    ) -> dict[str, AgainstBest]:
        pairs: dict[str, tuple[Wanted, Wanted]] = {}
        for task, name_of_best in best.items():
            for name, score in scores[task].items():
                if name_of_best is not None and name != name_of_best and isinstance(score, RunScore):
                    folds = self.scorer.folds_of(name_of_best)
                    common = tuple(fold for fold in score.folds if fold in folds)
                    if common:
                        pairs[name] = (name_of_best, common), (name, common)
        self.scorer.score_all(item for pair in pairs.values() for item in pair)
        found = {}
        for name, (first, second) in pairs.items():
            if (difference := self.scorer.difference(first, second)) is not None:
                found[name] = AgainstBest(best=first[0], **dict(difference))
        return found

    def _row(
        self,
        found: Found,
        scores: Mapping[Kind, Mapping[str, RunScore | str]],
        against_best: AgainstBest | None,
        gain: Gain | None,
        inference_s: float | None,
        notes: Notes,
    ) -> ExperimentRun:
        name, task, settings = found.name, self.scorer.task(found.name), found.settings
        folds, yaml = found.folds, found.yaml
        done = tuple(fold for fold, facts in folds.items() if facts.finished)
        score = scores[task].get(name)
        spent, submitted = self.kaggle.spent.get(name), self.kaggle.submitted.get(name)
        speeds = [facts.images_per_s for facts in folds.values() if facts.images_per_s is not None]
        problems = [
            *found.problems,
            *(problem for facts in folds.values() for problem in facts.problems),
            *outdated_notes(found, self.split, self.cache),
            *([score] if isinstance(score, str) else []),
        ]
        return ExperimentRun(
            name=name,
            task=task,
            parent=yaml.parent if yaml else None,
            changed=yaml.changed if yaml else {},
            state=self._state(found, done, spent.active if spent else ()),
            folds_done=done,
            folds=len(self.split.folds),
            epochs_done={fold: facts.epochs for fold, facts in folds.items()},
            epochs=settings.epochs if settings else 0,
            score=score if isinstance(score, RunScore) else None,
            against_best=against_best,
            gain=gain,
            monitor=settings.monitor if settings else "",
            fold_scores={
                fold: facts.score for fold, facts in folds.items() if facts.finished and facts.score is not None
            },
            hours=sum(facts.seconds for facts in folds.values()) / 3600,
            quota_hours=spent.quota_hours if spent else 0.0,
            images_per_s=sum(speeds) / len(speeds) if speeds else None,
            inference_s=inference_s,
            commits=tuple(dict.fromkeys(facts.commit for facts in folds.values() if facts.commit)),
            leaderboard=submitted.public if submitted else None,
            submission=submitted.id if submitted else None,
            alone=submitted is not None and is_alone(name, submitted, self._names_of(task)),
            tags=notes.tags,
            note=notes.note,
            problems=tuple(dict.fromkeys(problems)),
        )

    def _names_of(self, task: Kind) -> list[str]:
        return [name for name in self.found if self.scorer.task(name) == task]

    def _state(self, found: Found, done: tuple[int, ...], active: tuple[int, ...]) -> str:
        begun = [fold for fold in found.folds if fold not in done]
        trains_here = any(is_locked(fold_lock(self.project.fold(found.name, fold))) for fold in begun)
        if trains_here or set(active) - set(done):
            return "training"
        if done and set(self.split.folds) <= set(done):
            return "finished"
        return "unfinished" if done or begun else "not started"


def best_of(scores: Mapping[str, RunScore | str | None]) -> str | None:
    """Return the experiment with the best score, among those with the most finished folds; None without scores.

    Scores on fewer folds are scores of other images.

    Args:
        scores: Score of each experiment of a task.
    """
    known = [(len(score.folds), score.value, name) for name, score in scores.items() if isinstance(score, RunScore)]
    return max(known, key=lambda item: (item[0], item[1], [-ord(letter) for letter in item[2]]))[2] if known else None


def rank_key(run: ExperimentRun) -> tuple[bool, bool, float, bool, float, str]:
    """Return the key that sorts mask networks before gates, and the best first.

    Experiments are ranked by their difference from the best on the same images, since scores on fewer folds are scores
    of other images.
    """
    is_best = run.score is not None and run.against_best is None
    difference = run.against_best.difference if run.against_best else 0.0
    return (
        run.task == "gate",
        run.score is None,
        -difference,
        not is_best,
        -(run.score.value if run.score else 0.0),
        run.name,
    )
