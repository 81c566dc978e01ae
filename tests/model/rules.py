"""The rules of the crash protocol, each of which the search can do without.

Owns the names, one line on each, and which of them is known to be redundant.  Does not own the
steps that obey them, nor the configurations that show what each is for (configs.py).
"""

from __future__ import annotations

from typing import Final

RULES: Final[dict[str, str]] = {
    # a fold and what follows it
    "out_of_place": "a fold never touches the slot that holds the accumulator",
    "commit_before_release": "no input is released before the commit that contains it",
    "commit_in_one_word": "payload and client set are complete when the slot becomes OPEN",
    "release_before_seal": "the folded inputs are released before their sum is sealed",
    "seal_before_send": "the descriptor of a sum leaves after its seal",
    "wait_for_parent": "a sealed sum is written again only when its consumer has released it",
    "set_check": "an input whose clients the accumulator has is released, not folded",
    "finish_out_of_place": "the top divides into another slot, not where the sum lies",
    # descriptors are hints
    "state_check": "what a descriptor says counts only if the slot's words say so too",
    "generation_check": "a descriptor of another generation is dropped unread",
    "consumer_in_word": "the seal, not today's route, says who consumes a slot",
    "return_misrouted": "a live descriptor for somebody else goes back to the agent",
    "wake_on_release": "a release is followed by a message to the slot's allocator",
    "flush_is_state": "that a round is closed is a word; the message only wakes",
    # joining
    "fence": "nobody acts for a role before the last holder of its lock is dead",
    "pair_outlives_process": "a dead process's sum slots stay as they are",
    "register_before_scan": "a process is reachable before it reads the words",
    "scan_on_join": "a process that joined reads the words once unasked",
    "poke_on_join": "after a join everybody on the node is poked",
    "poke_while_joining": "a registered process is poked although it has not read the words yet",
    "poke_on_agent_restart": "after an agent's restart, too",
    # the gateway's bookkeeping
    "writing_phase": "a slot says WRITING before its header changes",
    "seal_before_accepted": "an update is sealed before its client's bit is set",
    "accepted_at_seal": "the bit is looked at once more right before the seal",
    "accepted_in_arena": "the accepted set is in the arena, not in the gateway",
    "rebuild_accepted": "a gateway that joins adds the clients of all sealed headers",
    # several rounds
    "round_in_header": "roles compare rounds: older OPEN is empty, older SEALED goes unread",
    "rebuild_this_round": "the rebuild takes headers of the current round alone",
    "fresh_accepted": "a round's accepted set is emptied before the round opens",
    "clear_before_publish": "... while the model word still names the round before",
    "closed_by_number": "closed holds a round's number and is compared with it",
    "publish_this_round": "a MODEL of an older round is released, not published",
    "keep_model_until_next": "the slot of the global model stays unreleased while it is that",
    "third_slot": "... and the top has two other slots to fold with",
    "publish_before_release": "the model word moves on before the last model is released",
    # several nodes
    "root_seals_complete": "the root of a node seals only what is the node's accepted set",
    "forward_until_ack": "a forwarded sum is released after the other node's ack",
    "ack_names_sum": "an ack counts only for the slot and generation that it names",
    "forward_set_check": "a sum whose clients are accepted already is acked and dropped",
    "sum_seal_check": "... and this is looked at once more right before the seal",
    "wait_for_nodes": "the top's node closes when it has every other node's closed set",
    "report_after_close": "a node reports its accepted set after it has closed",
    "epoch_fence": "a sum of an epoch that is over is refused",
    "epoch_at_seal": "... also if the epoch ended while the sum was being written",
    "epoch_at_join": "a gateway takes the epochs from the coordinator before it serves",
    "epoch_in_header": "a sum carries the epoch in which its updates came in",
    "fence_before_move": "a lost node's clients move after its epoch was fenced",
    "move_only_missing": "clients that are in the top's accepted set do not move",
    # leaving the tree
    "leave_after_ack": "a role leaves after its children acknowledged the new parent",
    "leave_when_unnamed": "... and when no unreleased slot names it",
    "leave_when_free": "... and when its own slots are free",
}

# Kept for what they save.  state_check implies the first; the old model is not written before the
# next round's updates come; the top's set check releases a repeated sum unread.
REDUNDANT: Final = frozenset({
    "generation_check", "publish_before_release", "forward_set_check", "sum_seal_check",
})  # fmt: skip
