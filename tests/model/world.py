"""What a state of the model consists of.

Owns the tuples that the search hashes and the configuration of a search.  Knows no step of the
protocol: roles.py, gateways.py and control.py have those, words.py reads the words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

FREE, WRITING, OPEN, SEALED = range(4)
GATEWAY: Final = -1  # in Config.tree: the gateway of the role's own node


class Slot(NamedTuple):
    """Words and header of a slot, and the truth about its payload."""

    gen: int = 0
    phase: int = FREE
    consumer: int = -1
    released: int = 0  # the consumer's word
    round: int = 0
    epoch: int = 0
    clients: int = 0
    is_model: bool = False
    payload: int = 0  # four bits a client and round: how often it is in here
    divided: int = 0  # how often it was turned from a sum into a mean


class Proc(NamedTuple):
    """A process that acts, or acted, for an aggregator's role."""

    role: int
    pc: str = "dead"  # dead start register join loop sleep fold write commit torn release ...
    ready: int = 0  # slots admitted to the next fold
    todo: int = 0  # slots to be released
    cur: int = -1  # the slot that is written or sent, or those that are released and not told of
    queue: tuple = ()  # descriptors (slot, generation) in its socket
    poked: bool = False
    to: int = -1  # parent, as it was last told
    told: bool = False  # without flush_is_state: it read a FLUSH


class Message(NamedTuple):
    """Between two gateways: a sum on its way up, or the answer to one."""

    kind: str  # sum, ack, stale
    node: int  # the node that forwards
    slot: int
    gen: int
    epoch: int = 0
    round: int = 0
    clients: int = 0
    payload: int = 0


class Gateway(NamedTuple):
    pc: str = "loop"  # dead join loop payload bit send ack flush clear publish release wake gone
    writing: tuple = ()  # (slot, client or Message), uploads under way
    cur: int = -1
    key: object = None  # client or Message of the upload that is being sealed
    wake: bool = False  # something to read: RELEASE, SUM, MODEL, poke
    forward: tuple = ()  # (slot, generation) that waits for the other node's ack
    held: tuple = ()  # (slot, generation) that was answered: kept until its round is over
    epoch: int = 0  # of the node that may be lost, as far as this gateway knows


class Agent(NamedTuple):
    """All nodes' agents in one; only one-node configurations let it crash."""

    up: bool = True
    saw: int = 0  # roles whose death it noticed
    pokes: int = 0
    reroute: bool = False


class Coordinator(NamedTuple):
    phase: int = 0  # of a node's loss: 0 none, 1 declared, 2 fenced, 3 clients moved, 4 back
    epoch: int = 0
    snapshot: int = 0  # the top's accepted set, as of the fence
    give_up: bool = False  # the round is to end without a model
    reports: tuple = ()  # a closed node's accepted set, or -1


class World(NamedTuple):
    slots: tuple
    procs: tuple
    gateways: tuple
    agent: Agent
    coordinator: Coordinator
    clients: tuple  # (node, state); state: new asking upload acked late
    accepted: tuple  # by node: by round parity: a set
    closed: tuple  # by node: by round parity: a round
    models: tuple  # by node: the model word (round, slot)
    plan: tuple  # next hop by sender, as wanted
    route: tuple  # the same in the kernel's map
    net: tuple = ()  # messages under way, sorted
    published: int = 0  # truth: clients of the last model
    crashes: int = 0  # budgets that are left
    agent_crashes: int = 0
    early: int = 0
    retries: int = 0
    replans: int = 0
    aborts: int = 0
    losses: int = 0
    repeats: int = 0


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a search is about; every count is a budget over the whole run."""

    name: str
    tree: tuple = (GATEWAY,)  # parent of each role
    nodes: tuple = ()  # node of each role; all 0 by default
    lanes: tuple = (0,)  # leaf of each client
    rounds: int = 1
    inputs: int = 2  # input slots of a node
    crashes: int = 1  # gateways and aggregators
    agent_crashes: int = 0
    early: int = 0  # sums that a role below the root seals before anybody asked
    retries: int = 0  # times a client asks again on another connection
    uploads: int = 1  # at a time
    deadline: bool = False  # a round may close before all clients are in
    aborts: int = 0  # rounds given up
    replan: tuple = ()  # (sender, new next hop); client c is sender len(tree) + c
    leave: int = -1  # role that leaves the tree with the re-plan
    pins: bool = True  # the kernel's maps outlive the agent
    credit: int = 9  # descriptors in one queue
    losses: int = 0  # messages between nodes that get lost
    repeats: int = 0  # ... that arrive twice
    lose: int = -1  # node that may be declared lost
    alive: bool = True  # the lost node only seemed dead
    lose_when: str = ""  # ... once a sum of it is: sealed, under way, written, accepted
    move_to: int = 0  # node that takes its clients
    victims: tuple = ("gateway", "role")  # or one of them: "gateway 1", "role 0"
    crash_at: str = ""  # ... at this program counter only
    reduce: bool = True  # steps that nobody else can see are taken at once
    off: frozenset = frozenset()


class Violation(Exception):
    """A property does not hold; the message begins with its name."""


class Step(NamedTuple):
    label: str
    world: World
    points: tuple = ()  # (process, fault point): it may die right after this step


def put(row: tuple, index: int, value: object) -> tuple:
    return (*row[:index], value, *row[index + 1 :])


def bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
