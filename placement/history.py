"""What clients have shown of themselves: the signals that selection goes by.

Owns the last known loss, weight and time of each client, and the utility of each round, since this
coordinator started; one that starts again knows nothing and explores anew.  Filled by course.py
from what gateways report, read by selection.py.

What there is to go by: the mean loss that a trainer reports with its update as the metric `loss`
(not the loss of every sample, which no client sends), its weight, and the seconds from the
round's start until the coordinator heard that its update was accepted, download, training and
upload included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

LOSS: Final = "loss"  # the metric that counts


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The last that was seen of a client.

    Attributes:
        round: in which.
        weight: of its update, say its number of examples.
        loss: as it reported it; None: it reported none.
        time_s: from the round's start until its update was accepted.
    """

    round: int
    weight: float
    loss: float | None
    time_s: float

    @property
    def utility(self) -> float:
        """Weight times loss: Oort's |B|·√(mean of squared losses) as far as a mean tells it.

        By Jensen's inequality never more than that, and equal where all samples have one loss.
        Without a loss it is the weight.
        """
        return self.weight * (abs(self.loss) if self.loss is not None else 1.0)


@dataclass
class History:
    """All that was seen, by client and by round."""

    clients: dict[str, Seen] = field(default_factory=dict)
    utilities: dict[int, float] = field(default_factory=dict)

    def accepted(
        self,
        round: int,  # noqa: A002 (the field's word)
        elapsed_s: float,
        rows: Iterable[tuple[float, Mapping[str, float], str]],
    ) -> None:
        """A gateway took updates: weight, figures and client key of each.

        Told again, as after a restart, changes nothing but a loss that was not known.
        """
        for weight, metrics, key in rows:
            loss = metrics.get(LOSS)
            loss = loss if loss is not None and math.isfinite(loss) else None
            before = self.clients.get(key)
            if before is not None and before.round == round:
                if before.loss is None and loss is not None:
                    self.clients[key] = replace(before, loss=loss)
                continue
            seen = Seen(round=round, weight=weight, loss=loss, time_s=elapsed_s)
            self.clients[key] = seen
            self.utilities[round] = self.utilities.get(round, 0.0) + seen.utility
