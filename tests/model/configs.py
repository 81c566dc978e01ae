"""Which configurations are searched, and where each rule is missed.

Owns the tables QUICK (searched by the tests), FULL (`python3 -m tests.model --full`), WITHOUT,
the smallest configuration found in which doing without a rule shows, and WITH, the same with it.
"""

from __future__ import annotations

from tests.model.rules import RULES
from tests.model.world import GATEWAY, Config

PAIR = {"tree": (1, GATEWAY)}  # leaf, top
CHAIN = {"tree": (1, 2, GATEWAY)}  # leaf, middle, top
TREE = {"tree": (2, 2, GATEWAY)}  # two leaves, top; or a leaf, a middle to be inserted, top
TWO = {"tree": (GATEWAY, GATEWAY), "nodes": (0, 1)}  # the top; another node's root
THREE = {"tree": (GATEWAY,) * 3, "nodes": (0, 1, 2)}
CALM = {"crashes": 0}

QUICK = (
    # one node, one round
    Config(name="tree: 2 leaves, top; back pressure", **TREE, lanes=(0, 1), inputs=1,
           victims=("role 0", "role 2")),
    Config(name="chain with an early sum", **CHAIN, early=1),
    Config(name="back pressure: 3 updates, 1 slot", lanes=(0,) * 3, inputs=1),
    Config(name="two crashes", lanes=(0, 0), inputs=1, crashes=2),
    Config(name="clients retry on another connection", lanes=(0, 0), retries=1, uploads=2),
    Config(name="a deadline cuts the round", lanes=(0, 0), deadline=True),
    Config(name="agent and another crash, credit 1", **PAIR, agent_crashes=1, credit=1),
    Config(name="agent restarts without pins", **PAIR, lanes=(0, 0), inputs=1, agent_crashes=1,
           pins=False, victims=("role",)),
    Config(name="agent twice", agent_crashes=2, **CALM),
    # the plan changes
    Config(name="a middle is inserted", **TREE, replan=(0, 1), victims=("role 0",)),
    Config(name="... while the agent dies", **TREE, agent_crashes=1, replan=(0, 1), **CALM),
    Config(name="a lane moves to another leaf", **TREE, lanes=(0, 0), replan=(4, 1), inputs=1,
           **CALM),
    Config(name="a middle leaves", **CHAIN, replan=(0, 2), leave=1, victims=("role 1",)),
    Config(name="a middle leaves, early sum", **CHAIN, replan=(0, 2), leave=1, early=1, **CALM),
    # several rounds
    Config(name="3 rounds", rounds=3),
    Config(name="2 rounds, 2 updates, 1 slot", lanes=(0, 0), inputs=1, rounds=2),
    Config(name="a round is given up", aborts=1, inputs=1, rounds=3),
    # several nodes
    Config(name="2 nodes", **TWO, lanes=(1,)),
    Config(name="2 nodes, lossy network", **TWO, lanes=(1,), losses=1, repeats=1, **CALM),
    Config(name="2 nodes, 2 rounds, lossy network", **TWO, lanes=(1,), rounds=2, repeats=1, **CALM),
    Config(name="a node dies", **TWO, lanes=(1, 1), lose=1, alive=False, **CALM),
    Config(name="a node seems to die", **TWO, lanes=(1, 1), lose=1, inputs=1, **CALM),
    Config(name="... and comes back", **TWO, lanes=(1,), lose=1, lose_when="under way", inputs=1,
           rounds=2, **CALM),
)  # fmt: skip

FULL = (
    Config(name="tree, without the reduction", **TREE, lanes=(0, 1), reduce=False),
    Config(name="tree: 3 updates", **TREE, lanes=(0, 1, 0)),
    Config(name="tree: two crashes", **TREE, lanes=(0, 1), crashes=2),
    Config(name="chain: 2 updates, 1 slot, early sum", **CHAIN, lanes=(0, 0), inputs=1, early=1),
    Config(name="4 updates, 2 slots, two crashes", lanes=(0,) * 4, crashes=2),
    Config(name="pair: retries, early sum", **PAIR, lanes=(0, 0), retries=1, uploads=2, early=1),
    Config(name="agent twice and another crash", **PAIR, lanes=(0, 0), agent_crashes=2, credit=1),
    Config(name="a middle is inserted, early sum", **TREE, lanes=(0, 0), inputs=1, early=1,
           replan=(0, 1)),
    Config(name="a lane moves, a crash", **TREE, lanes=(0, 0), inputs=1, replan=(4, 1)),
    Config(name="a re-plan while the agent dies", **TREE, lanes=(0, 0), early=1, agent_crashes=1,
           replan=(0, 1), **CALM),
    Config(name="a middle leaves, early sum, a crash", **CHAIN, inputs=1, early=1, replan=(0, 2),
           leave=1),
    Config(name="a middle leaves while the agent dies", **CHAIN, lanes=(0, 0), inputs=1,
           agent_crashes=1, replan=(0, 2), leave=1, **CALM),
    Config(name="pair: 2 rounds, 2 updates", **PAIR, lanes=(0, 0), inputs=1, rounds=2),
    Config(name="3 rounds, two crashes", lanes=(0, 0), inputs=1, rounds=3, crashes=2),
    Config(name="a round is given up, pair", **PAIR, lanes=(0, 0), inputs=1, aborts=1, rounds=2),
    Config(name="2 nodes, a client on each", **TWO, lanes=(0, 1)),
    Config(name="2 nodes, lossy network, a crash", **TWO, lanes=(1,), losses=1, repeats=1),
    Config(name="2 nodes, 2 rounds, a crash", **TWO, lanes=(1,), rounds=2),
    Config(name="2 nodes, two crashes", **TWO, lanes=(1,), crashes=2),
    Config(name="a node seems to die, a crash", **TWO, lanes=(1,), lose=1, inputs=1),
    Config(name="a node seems to die and comes back", **TWO, lanes=(1,), lose=1, inputs=1,
           rounds=2, **CALM),
    Config(name="3 nodes, one dies", **THREE, lanes=(1, 2), lose=1, alive=False, move_to=2,
           inputs=1, **CALM),
    Config(name="3 nodes, one seems to die, its sum accepted", **THREE, lanes=(1, 2), lose=1,
           lose_when="accepted", move_to=2, inputs=1, **CALM),
)  # fmt: skip

_LOST = dict(**TWO, lanes=(1, 1), lose=1)
_WITHOUT: dict[str, dict] = {
    "out_of_place": {"lanes": (0, 0), "victims": ("role",)},
    "commit_before_release": {"lanes": (0, 0), "inputs": 1, "reduce": False},
    "commit_in_one_word": {"lanes": (0, 0), "victims": ("role",), "reduce": False},
    "release_before_seal": dict(**PAIR, lanes=(0, 0), victims=("role",)),
    "seal_before_send": dict(**PAIR, victims=("role",)),
    "wait_for_parent": dict(**PAIR, lanes=(0, 0, 0), early=1, **CALM),
    "set_check": {"victims": ("role",)},
    "finish_out_of_place": {"victims": ("role",)},
    "state_check": dict(**TREE, lanes=(0, 1), inputs=1, victims=("role 0",)),
    "generation_check": dict(**PAIR, lanes=(0, 0), inputs=1),
    "consumer_in_word": dict(**TREE, lanes=(0, 0), inputs=1, early=1, replan=(0, 1), **CALM),
    "return_misrouted": dict(**TREE, early=1, replan=(0, 1), **CALM),
    "wake_on_release": dict(lanes=(0, 0), inputs=1, **CALM),
    "flush_is_state": {"victims": ("role",)},
    "fence": {"victims": ("role",), "reduce": False},
    "pair_outlives_process": dict(**PAIR, victims=("role",)),
    "register_before_scan": {"victims": ("role",)},
    "scan_on_join": {"victims": ("role",)},
    "poke_on_join": {"victims": ("gateway",)},
    "poke_while_joining": dict(
        **CHAIN, inputs=1, early=1, replan=(0, 2), leave=1, victims=("role 0",), crash_at="send"
    ),
    "poke_on_agent_restart": dict(**PAIR, lanes=(0, 0), agent_crashes=1, credit=1, **CALM),
    "writing_phase": {"lanes": (0, 0), "inputs": 1, "victims": ("gateway",), "reduce": False},
    "seal_before_accepted": {"victims": ("gateway",), "reduce": False},
    "accepted_at_seal": dict(**PAIR, lanes=(0, 0), retries=1, uploads=2, early=1, **CALM),
    "accepted_in_arena": {"lanes": (0, 0), "inputs": 1, "victims": ("gateway",)},
    "rebuild_accepted": {"lanes": (0, 0), "deadline": True, "victims": ("gateway",)},
    "round_in_header": dict(aborts=1, rounds=2, **CALM),
    "rebuild_this_round": {"rounds": 2, "victims": ("gateway",)},
    "fresh_accepted": dict(rounds=3, **CALM),
    "clear_before_publish": {"rounds": 3, "victims": ("gateway",)},
    "closed_by_number": dict(lanes=(0, 0), rounds=3, **CALM),
    "publish_this_round": dict(aborts=1, rounds=2, **CALM),
    "keep_model_until_next": dict(lanes=(0, 0), rounds=2, **CALM),
    "third_slot": {"lanes": (0, 0), "rounds": 2, **CALM},
    "publish_before_release": dict(lanes=(0, 0), rounds=3, **CALM),
    "root_seals_complete": dict(**TWO, lanes=(1, 1), early=1, **CALM),
    "forward_until_ack": dict(**TWO, lanes=(1,), losses=1, **CALM),
    "ack_names_sum": dict(**TWO, lanes=(1,), rounds=2, repeats=1, losses=1, **CALM),
    "forward_set_check": dict(**TWO, lanes=(1,), repeats=1, **CALM),
    "sum_seal_check": dict(**TWO, lanes=(1,), repeats=1, uploads=2, **CALM),
    "wait_for_nodes": dict(**TWO, lanes=(0, 1), **CALM),
    "report_after_close": dict(**TWO, lanes=(0, 1), **CALM),
    "epoch_fence": dict(**_LOST, lose_when="under way", alive=False, **CALM),
    "epoch_at_seal": dict(**_LOST, lose_when="written", alive=False, uploads=2, **CALM),
    "epoch_at_join": dict(**_LOST, lose_when="under way", alive=False, victims=("gateway 0",)),
    "epoch_in_header": dict(**_LOST, lose_when="sealed", victims=("gateway 1",)),
    "fence_before_move": dict(**_LOST, lose_when="under way", alive=False, **CALM),
    "move_only_missing": dict(**THREE, lanes=(1, 2), lose=1, lose_when="accepted", alive=False,
                              move_to=2, inputs=1, **CALM),
    "leave_after_ack": dict(**CHAIN, early=1, replan=(0, 2), leave=1, **CALM),
    "leave_when_unnamed": dict(**CHAIN, early=1, replan=(0, 2), leave=1, **CALM),
    "leave_when_free": dict(**CHAIN, early=1, replan=(0, 2), leave=1, **CALM),
}  # fmt: skip

WITHOUT = {
    rule: Config(name=f"without {rule}", off=frozenset({rule}), **_WITHOUT[rule])
    for rule in RULES
}
# The same with the rule obeyed: what goes wrong is due to the rule, not to the configuration.
WITH = {rule: Config(name=f"with {rule}", **_WITHOUT[rule]) for rule in RULES}
NAMES = {config.name: config for config in (*QUICK, *FULL, *WITH.values(), *WITHOUT.values())}
