"""How trainers and evaluator ended, and what follows from it: pure, no process and no clock.

Owns the sentences, saying once what happened to several clients in the same way, and whether the
run can go on.  Called by trainer.py.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lifl.errors import LiflError

EVALUATOR: Final = "the evaluator"
FIRST_WAITS: Final = "and the first round waits for every client"
_OURS: Final = Path(__file__).parent.resolve()
_FOLDERS: Final = tuple(
    {_OURS, *(path.resolve() for path in _OURS.iterdir() if path.is_dir())}
)  # of LIFL's own code, also where the package consists of links


@dataclass(frozen=True)
class Fate:
    """How one of them ended.

    Attributes:
        round: in which it was; 0 before its first.
        error: what was raised, on one line; empty where the function returned.
        trace: lines of the traceback, without LIFL's own.
        status: with which the process ended, where it did not say why; below 0 by a signal.
        is_silent: it ended with status 0 and without a word, which returning does not do.
        is_revoked: its key has no rights any more, which somebody wanted.
        is_said: the error is a whole sentence.
    """

    round: int = 0
    error: str = ""
    trace: tuple[str, ...] = ()
    status: int = 0
    is_said: bool = False
    is_silent: bool = False
    is_revoked: bool = False

    @classmethod
    def of(cls, error: BaseException, number: int) -> Fate:
        summary = traceback.TracebackException.from_exception(error)
        _without_our_frames(summary)
        trace = tuple("".join(summary.format()).rstrip().splitlines())
        is_revoked = isinstance(error, LiflError) and error.code in ("revoked", "not-enrolled")
        return cls(number, one_line(error), trace, is_revoked=is_revoked)

    @classmethod
    def from_words(cls, words: dict[str, Any]) -> Fate:
        return cls(**words | {"trace": tuple(words["trace"])})

    @property
    def is_early(self) -> bool:
        """It is known that this one has not had a round."""
        return not self.round and not self.status and not self.is_silent


def one_line(error: BaseException) -> str:
    """An error as the end of a sentence: one of LIFL's speaks for itself."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 500 else text[:500] + "..."
    if isinstance(error, LiflError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _without_our_frames(summary: traceback.TracebackException) -> None:
    """Only what the user wrote or called; everything where that is nothing."""
    at: traceback.TracebackException | None = summary
    seen: set[int] = set()
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        theirs = [frame for frame in at.stack if not _is_ours(frame.filename)]
        if theirs:
            at.stack = traceback.StackSummary.from_list(theirs)
        at = at.__cause__ or at.__context__


def _is_ours(filename: str) -> bool:
    return any(Path(filename).resolve().is_relative_to(folder) for folder in _FOLDERS)


@dataclass(frozen=True)
class News:
    """What has happened to some of them.

    Attributes:
        lines: of tracebacks, each with whose it is.
        warnings: what the run can do without.
        missed: the same of those who may not have had a round yet: the first one waits for them.
        fatal: why the run cannot go on.
    """

    lines: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    fatal: str | None = None


@dataclass
class Fates:
    """Who has ended, and who is left.

    Args:
        clients: how many there are.
        needed: without which no round begins.
        rounds: of the job.
    """

    clients: int
    needed: int
    rounds: int
    _new: dict[Fate, list[str]] = field(default_factory=dict)

    def add(self, who: str, fate: Fate) -> None:
        self._new.setdefault(fate, []).append(who)

    @property
    def has_news(self) -> bool:
        return bool(self._new)

    def too_few(self) -> str | None:
        """Why a run cannot begin with those that were started: the keys of others are revoked."""
        if not 0 < self.clients < self.needed:
            return None
        return f"{_clients(self.clients)} left, and a round needs {self.needed} (spec.clients.min)"

    def news(self) -> News:
        """What has happened since the last call."""
        lines: list[tuple[str, str]] = []
        warnings: list[str] = []
        missed: list[str] = []
        fatal: str | None = None
        for fate, names in self._new.items():
            who = _together(names)
            lines += [(who, line) for line in fate.trace]
            sentence = fate.error if fate.is_said else self._sentence(who, fate)
            if EVALUATOR in names:
                fatal = fatal or sentence
                continue
            self.clients -= len(names)
            if self.clients < self.needed:
                left = f"{_clients(self.clients)} left, and a round needs {self.needed}"
                fatal = fatal or (sentence if fate.error else f"{sentence}: {left}")
            elif fate.is_early and not fate.is_revoked:  # and others would do the same
                fatal = fatal or f"{sentence}, {FIRST_WAITS}"
            else:
                warnings.append(f"{sentence}; {_clients(self.clients)} left")
                if fate.status or fate.is_silent:  # nobody says in which round that was
                    missed.append(sentence)
        self._new = {}
        return News(tuple(lines), tuple(warnings), tuple(missed), fatal)

    def _sentence(self, who: str, fate: Fate) -> str:
        if fate.status < 0:
            was = "were" if who.endswith("clients") else "was"
            return f"{who} {was} killed by {signal.Signals(-fate.status).name}"
        if fate.status:
            return f"{who} ended with status {fate.status}"
        if fate.is_silent:
            return f"{who} ended with status 0 in the middle of its work, as os._exit(0) does"
        if fate.error and who == EVALUATOR:
            which = f"the model of round {fate.round}" if fate.round else "the initial model"
            return f"{who} failed on {which}: {fate.error}"
        if fate.error:
            where = f"in round {fate.round}" if fate.round else "before the first round"
            return f"{who} failed {where}: {fate.error}"
        plural = who.endswith("clients")
        what = f"the trainers of {who}" if plural else f"{who}'s trainer"
        where = f"after round {fate.round} of {self.rounds}" if fate.round else "before any round"
        return f"{what} returned {where}"


def _together(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} clients"


def _clients(number: int) -> str:
    return {0: "no client is", 1: "1 client is"}.get(number, f"{number} clients are")
