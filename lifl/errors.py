"""Every error that LIFL raises, in one tree.

    LiflError                 code, sentence, context; `retryable` is a property of the type
    ├── TransientError        the same request may succeed later
    │   ├── Busy              no slot, no node, no client yet
    │   ├── Unreachable       a peer did not answer in time
    │   ├── ModelLost         the newest model went with its node
    │   └── NoSpace           a disk is full
    └── PermanentError        the same request will fail again
        ├── InvalidJob        a job file that cannot be run
        ├── InvalidUpdate     an update that cannot be part of its round
        ├── Late              the round is closed
        ├── Refused           identity or rights are missing
        └── Unsupported       this machine lacks what was asked for

A type is what a caller can do about it; a code, finer than the type, is what went wrong.  Every
code with its cause and its fix is in api/codes.py.  Called by every layer; imports nothing of
LIFL.
"""

from __future__ import annotations

from typing import ClassVar


class LiflError(Exception):
    """Base of all errors: a code, a sentence that names the value and the fix, and context.

    Args:
        sentence: what is wrong, with the offending value, and what to do next.
        code: one of api/codes.py; the type's own unless given.
        context: job, round, node and the like; shown in brackets after the sentence.
    """

    code: str = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, sentence: str, *, code: str | None = None, **context: object) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code or type(self).code
        self.context = context

    def __str__(self) -> str:
        where = ", ".join(f"{key} {value}" for key, value in self.context.items())
        return f"{self.sentence} [{where}]" if where else self.sentence


class TransientError(LiflError):
    code = "transient"
    retryable = True


class Busy(TransientError):
    code = "busy"


class Unreachable(TransientError):
    code = "unreachable"


class ModelLost(TransientError):
    code = "model-lost"


class NoSpace(TransientError):
    code = "disk-full"


class PermanentError(LiflError):
    code = "permanent"


class InvalidJob(PermanentError):
    code = "invalid-job"


class InvalidUpdate(PermanentError):
    code = "invalid-update"


class Late(PermanentError):
    code = "late"


class Refused(PermanentError):
    code = "refused"


class Unsupported(PermanentError):
    code = "unsupported"
