"""What was found and why, and the choices that the files leave open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gatemask.errors import GatemaskError


@dataclass(frozen=True)
class Finding:
    """A fact about the files.

    Args:
        topic: What it is about, such as "images".
        found: The fact.
        why: Evidence.
    """

    topic: str
    found: str
    why: str


@dataclass(frozen=True)
class Question:
    """A choice that the files leave open.

    Args:
        topic: What it is about, such as "metric".
        text: The question.
        options: Meaning by answer.
        guess: The most plausible answer.
        why: Evidence for it.
    """

    topic: str
    text: str
    options: Mapping[str, str]
    guess: str
    why: str


Ask = Callable[[Question], str]


@dataclass
class Decisions:
    """Collects findings, and answers questions: by the guess, by asking, or not at all.

    Args:
        accept: Whether guesses are accepted.
        ask: Function that asks the user; None without a terminal.
        findings: Facts, in the order in which they were found.
        open: Unanswered questions. Work continues with the guess, so that all of them can be listed at the end.
    """

    accept: bool
    ask: Ask | None = None
    findings: list[Finding] = field(default_factory=list)
    open: list[Question] = field(default_factory=list)

    def note(self, topic: str, found: str, why: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(topic, found, why))

    def choose(self, question: Question) -> str:
        """Return the answer to a question, and add it to the findings."""
        if self.accept:
            answer, why = question.guess, f"guess: {question.why}"
        elif self.ask is not None:
            answer = self.ask(question)
            why = question.why if answer == question.guess else "your answer"
        else:
            self.open.append(question)
            answer, why = question.guess, f"open: {question.why}"
        self.note(question.topic, question.options.get(answer, answer), why)
        return answer

    def require_answers(self) -> None:
        """Raise if a question is open."""
        if not self.open:
            return
        questions = [
            f"{number}. {question.text} Guess: {question.guess} ({question.why}); "
            f"other answers: {', '.join(name for name in question.options if name != question.guess) or '-'}"
            for number, question in enumerate(self.open, 1)
        ]
        raise GatemaskError(
            "The files leave something open, and there is no terminal to ask.",
            received="\n".join(questions),
            do="Run the command in a terminal, or accept all guesses with --yes and correct competition.yaml.",
        )
