"""Which nodes answer: each is asked now and then, and one that is silent for too long is lost.

Owns when agents and gateways are asked and how long each has not answered.  Sends nothing and does
not decide what follows: attendance.py asks, loss.py does what a loss asks for.

    ask ─► an answer, or anything else that it says ─► ask …
     └───► nothing for `grace_s` ─► silent

Silence counts from a question.  Where this process itself did not look for that long (it was moving
a model, or the whole machine was stopped), questions are asked anew: nobody was heard, whoever
spoke.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MOST_S: Final = 5.0  # from one question to the next
START_S: Final = 30.0  # beside the grace, for a node that nobody has heard yet
PARTS: Final = ("agent", "gateway")  # of a node


class Presence:
    """Who was asked when.

    Args:
        nodes: their names.
        grace_s: a part of a node that does not answer for so long is lost, and the node with it.
        now: monotonic seconds.
    """

    def __init__(self, nodes: Iterable[str], grace_s: float, now: float) -> None:
        self.grace_s = grace_s
        self.every_s = min(MOST_S, grace_s / 4)
        self._unanswered = {(node, part): now + START_S for node in nodes for part in PARTS}
        self._asked_at = self._looked_at = now

    def heard(self, node: str, part: str) -> None:
        """It said something."""
        self._unanswered.pop((node, part), None)

    def ask(self, nodes: Iterable[str], now: float) -> bool:
        """Whether it is time to ask these nodes again; from now on they have not answered."""
        late = now - self._looked_at > self.grace_s
        self._looked_at = now
        if not late and now - self._asked_at < self.every_s:
            return False
        self._asked_at = now
        asked = {(node, part) for node in nodes for part in PARTS}
        self._unanswered = {
            who: max(now, since) if late else since
            for who in asked
            for since in [self._unanswered.get(who, now)]
        }
        return True

    def silent(self, now: float) -> list[str]:
        """Nodes of which some part has not answered in time."""
        return sorted({
            node for (node, _), since in self._unanswered.items() if now - since > self.grace_s
        })  # fmt: skip

    def quiet(self, now: float) -> set[str]:
        """Nodes of which some part has not answered the last question but one."""
        return {
            node for (node, _), since in self._unanswered.items() if now - since > self.every_s
        }

    @property
    def next_at(self) -> float:
        """When to look again (monotonic seconds)."""
        return self._asked_at + self.every_s
