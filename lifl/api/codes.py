"""Every code of an error: what it means, where it comes from, what to do about it.

Owns the one table.  Whether trying again can help is a property of the code's type (errors.py).
Does not own sentences: whoever raises an error knows the value that is wrong.  Read by gateways
(what goes over the wire), by clients (which exception that is) and by scripts/docs_errors.py,
which makes docs/errors.md of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lifl.errors import (
    Busy,
    InvalidJob,
    InvalidUpdate,
    Late,
    LiflError,
    ModelLost,
    NoSpace,
    PermanentError,
    Refused,
    TransientError,
    Unreachable,
    Unsupported,
)


@dataclass(frozen=True)
class Code:
    """One row.

    Args:
        name: as it goes over the wire; never given another meaning.
        kind: the exception that a client raises.
        meaning: what is the matter.
        cause: how one comes to it.
        fix: what to do.
    """

    name: str
    kind: type[LiflError]
    meaning: str
    cause: str
    fix: str

    @property
    def retryable(self) -> bool:
        return self.kind.retryable


_ROWS = (
    # -- an update that cannot be part of its round
    Code("invalid-update", InvalidUpdate, "The update cannot be sent.",
         "A round was answered before one had begun, or a tensor has a name that cannot be sent.",
         "Take rounds from client.rounds() and send what round.model has."),
    Code("wrong-names", InvalidUpdate, "A tensor is missing, or is none of this model's.",
         "The update is of another model than the job's.",
         "Send exactly the names that round.model has."),
    Code("wrong-shape", InvalidUpdate, "A tensor has another shape than in the job's model.",
         "Another architecture, another number of classes, a batch axis too many.",
         "Send the shapes that round.model has."),
    Code("wrong-dtype", InvalidUpdate, "A tensor has another dtype than in the job's model.",
         "float64 from NumPy where the model is float32, or half precision left on.",
         "Cast before sending: value.astype(round.model[name].dtype)."),
    Code("wrong-layout", InvalidUpdate, "The update's layout is not the job's.",
         "Its digest differs: other tensors, shapes, dtypes, or another order of them.",
         "Take the layout from the gateway's welcome, in every connection anew."),
    Code("wrong-length", InvalidUpdate, "An upload has not the length that it must have.",
         "A truncated or padded payload, or a layout of another job.",
         "Send as many bytes as the layout has, no more and no fewer."),
    Code("oversized", InvalidUpdate, "More bytes came than were asked for.",
         "A chunk goes past the end of the update, or lies elsewhere than the next byte.",
         "Send chunks in order and end at the length that was announced."),
    Code("not-finite", InvalidUpdate, "The update holds NaN or infinity.",
         "Training diverged: a learning rate too high, a division by zero, a loss of NaN.",
         "Check the loss before sending, lower the rate; or allow it with "
         "spec.aggregation.nonFinite: accept."),
    Code("bad-weight", InvalidUpdate, "The weight is no number that can weigh an update.",
         "0 or fewer examples, NaN, or a magnitude that float32 does not hold.",
         "Send the number of examples; leave a round out that has none."),
    Code("bad-metrics", InvalidUpdate, "Metrics are not a map of names to numbers.",
         "A list, a nested map, text as a value, more than 64 entries.",
         "Send at most 64 numbers by name."),
    Code("duplicate-overlap", InvalidUpdate, "Some clients of this sum are in already, others not.",
         "A node forwards a sum after its clients were moved to another.",
         "Nothing: the clients' own updates count."),
    Code("malformed", InvalidUpdate, "A message cannot be read.",
         "Not msgpack, a field is missing or of another type, a header that is too long.",
         "Use the client library, or follow docs/protocol.md."),
    # -- too late
    Code("late", Late, "The round does not take updates any more.",
         "Its deadline has passed, or all that it waited for were in.",
         "Go on with the next round; a longer spec.deadlineS waits for slower clients."),
    Code("past-round", Late, "The update is for a round that is over.",
         "The client trained longer than the round lasted.",
         "Go on with the next round."),
    Code("fenced", Late, "A sum comes from a node that the job has given up.",
         "The node was cut off; its clients have gone elsewhere.",
         "Nothing: the node takes part again with the next round."),
    # -- who may do what
    Code("refused", Refused, "The other side does not accept this from you.",
         "A descriptor or a socket that is not one's own.",
         "The sentence says what was refused."),
    Code("not-enrolled", Refused, "This key is not known to the job.",
         "The key was never enrolled, or was revoked while its client was away, or the file is of "
         "another run.",
         "lifl keys list says which; have it enrolled (lifl keys enroll), or make a new one in "
         "place of a revoked one (lifl keys new)."),
    Code("revoked", Refused, "This key was known and is not any more.",
         "Somebody ran lifl keys revoke.",
         "Ask whoever runs the job; a new key has to be enrolled."),
    Code("displaced", Refused, "Another program takes part with this key; the newer one counts.",
         "Two programs have the same client file, or one was started again while the first lived.",
         "Run one program for each client file."),
    Code("bad-token", Refused, "A pod's token does not say who it is.",
         "In a cluster: it is of another audience, of a pod that is gone, or bound to none.",
         "Nothing, where somebody tried; else see that the chart's pods mount their token."),
    Code("not-allowed", Refused, "This key may not do that.",
         "A client sent what only a node, an observer or the coordinator may.",
         "Use the key that was made for it."),
    Code("not-selected", Refused, "The client does not belong to this round at this gateway.",
         "It was not drawn.", "Wait for the message `round`."),
    # -- jobs
    Code("invalid-job", InvalidJob, "The job cannot be run as it stands.",
         "A field of the job file, a module that it names, or a folder that cannot be written.",
         "The sentence names line, field and what is allowed; lifl validate checks a file."),
    Code("bad-keys", InvalidJob, "A key, a key file or a key directory cannot be used.",
         "A name that is taken, a key that is none, a folder without keys.",
         "The sentence names the file and what is expected."),
    Code("unknown-job", PermanentError, "There is no such job here.",
         "A client file of another run, or a name that was mistyped.",
         "Take the client file of the run that is under way."),
    Code("api-refused", PermanentError, "The cluster's API server refuses a request.",
         "An object that its rules do not allow, or a later lease than this process has.",
         "See the sentence: it is the API server's own."),
    Code("permanent", PermanentError, "It failed, and would fail again.",
         "The other side uses a code that this version does not know.",
         "Install the same version on both sides."),
    # -- not now
    Code("busy", Busy, "Something is not there yet, or is taken.",
         "No node has room, too few clients are connected, a socket is not read.",
         "Wait, or give the job what the sentence names."),
    Code("not-started", Busy, "The round has not reached this gateway, or not for this client.",
         "The gateway or its node was restarted just now, or the plan has the client elsewhere.",
         "Ask again, and follow the message `redirect`; the client library does."),
    Code("no-memory", Busy, "The node has not the memory that the job needs.",
         "The limit of the memory cgroup, the budget of the node, or the machine itself.",
         "Lower spec.memory.inputSlots, raise the limit, or take more nodes."),
    Code("too-slow", Unreachable, "An upload stood still, or was slower than others can wait for.",
         "A bad line, a client that stopped; others waited for its slot.",
         "Send again; spec.memory.stallS and minUploadRate set the limits."),
    Code("unreachable", Unreachable, "Nobody answered in time.",
         "The run is over, the address is wrong, or the network is down.",
         "Check that the run is under way and that its address can be reached."),
    Code("model-lost", ModelLost, "The newest model went with its node.",
         "The only node that had it is lost, and no checkpoint is as new.",
         "Nothing: rounds go on from the last checkpoint by themselves."),
    Code("node-lost", TransientError, "The last node of a run is lost.",
         "Every process of it died at once, and updates and model with them.",
         "Go on from the last checkpoint with lifl run --resume."),
    Code("port-in-use", TransientError, "The address to listen at is taken.",
         "Another process listens there, perhaps an earlier run.",
         "End it, or name another address."),
    Code("disk-full", NoSpace, "A result could not be written.",
         "No space, a quota, or a file system that became read-only.",
         "Make room and run again, or name another folder with --out."),
    Code("too-few-updates", PermanentError, "All clients of a round answered, too few with an "
         "update.",
         "The others called round.report, or are virtual and returned without sending.",
         "Let more clients send, or lower spec.clients.minUpdates."),
    Code("trainer-failed", PermanentError, "The training code of the run's own clients ended.",
         "It raised an error, or was killed.",
         "Its traceback is above the sentence; fewer spec.clients.min let a run go on without it."),
    Code("defect", PermanentError, "A process of the run failed where it must not.",
         "A mistake in LIFL, or a machine that fails.",
         "The last words of the process are above the sentence: please report both."),
    Code("transient", TransientError, "It failed, and may succeed later.",
         "The other side uses a code that this version does not know.",
         "Try again; install the same version on both sides."),
    # -- this machine
    Code("unsupported", Unsupported, "This machine lacks what was asked for.",
         "No rights for eBPF, no compiler at installation, an old kernel.",
         "The sentence names what is missing and what works without it."),
)  # fmt: skip

CODES = {row.name: row for row in _ROWS}
"""Code by name."""


def error_of(code: str, sentence: str, *, retry: bool, **context: object) -> LiflError:
    """The exception for a rejection that came over the wire.

    A code that is not in the table is of a newer gateway, whose word is taken for `retry`.
    """
    row = CODES.get(code) or CODES["transient" if retry else "permanent"]
    return row.kind(sentence, code=code, **context)
