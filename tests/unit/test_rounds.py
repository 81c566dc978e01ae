"""When a round closes: events in, orders out."""

from __future__ import annotations

from lifl.placement.rounds import Order, Round

A, B, C = "node-a", "node-b", "node-c"


def two_nodes() -> Round:
    return Round(1, {A: 0b0011, B: 0b1100}, top_node=A)


def test_one_node_closes_when_all_are_in() -> None:
    round_ = Round(1, {A: 0b11}, top_node=A)
    assert round_.on_accepted(A, 0b01) == []
    assert round_.on_accepted(A, 0b11) == [Order(A, "close")]
    assert round_.on_accepted(A, 0b11) == []


def test_the_tops_node_closes_after_the_other_nodes_sum_is_there() -> None:
    round_ = two_nodes()
    assert round_.on_accepted(A, 0b0011) == []
    assert round_.on_accepted(B, 0b1100) == [Order(B, "close"), Order(A, "cut")]
    assert round_.on_closed(B, 0b1100) == []
    assert round_.on_accepted(A, 0b1111) == [Order(A, "close")]


def test_the_sum_may_be_there_before_the_news_of_the_closing() -> None:
    round_ = two_nodes()
    round_.on_accepted(A, 0b0011)
    round_.on_accepted(B, 0b1100)
    assert round_.on_accepted(A, 0b1111) == []
    assert round_.on_closed(B, 0b1100) == [Order(A, "close")]


def test_a_deadline_cuts_the_round() -> None:
    round_ = two_nodes()
    round_.on_accepted(A, 0b0001)
    round_.on_accepted(B, 0b0100)
    assert round_.on_deadline() == [Order(B, "close"), Order(A, "cut")]
    assert round_.on_closed(B, 0b0100) == []
    assert round_.on_accepted(A, 0b0101) == [Order(A, "close")]
    assert round_.in_count == 2


def test_a_deadline_without_enough_updates_waits_for_them() -> None:
    round_ = Round(1, {A: 0b111}, top_node=A, minimum=2)
    round_.on_accepted(A, 0b001)
    assert round_.on_deadline() == []
    assert round_.on_accepted(A, 0b011) == [Order(A, "close")]


def test_a_node_without_updates_sends_no_sum() -> None:
    round_ = two_nodes()
    round_.on_accepted(A, 0b0001)
    assert round_.on_deadline() == [Order(B, "close"), Order(A, "cut")]
    assert round_.on_closed(B, 0) == [Order(A, "close")]


def test_only_the_other_node_has_updates() -> None:
    round_ = two_nodes()
    round_.on_accepted(B, 0b1100)
    assert round_.on_deadline() == [Order(B, "close"), Order(A, "cut")]
    assert round_.on_closed(B, 0b1100) == []
    assert round_.on_accepted(A, 0b1100) == [Order(A, "close")]


def test_a_gateway_that_came_back_hears_it_again() -> None:
    round_ = two_nodes()
    assert round_.orders_for(A) == []
    round_.on_accepted(A, 0b0011)
    round_.on_accepted(B, 0b1100)
    assert round_.orders_for(B) == [Order(B, "close")]
    assert round_.orders_for(A) == [Order(A, "cut")]
    round_.on_closed(B, 0b1100)
    round_.on_accepted(A, 0b1111)
    assert round_.orders_for(A) == [Order(A, "close")]


def test_clients_that_left_are_not_waited_for() -> None:
    round_ = two_nodes()
    assert round_.on_accepted(A, 0b0011) == []
    assert round_.on_gone(0b0100) == []
    assert round_.on_accepted(B, 0b1000) == [Order(B, "close"), Order(A, "cut")]


def test_the_last_one_who_is_missing_leaves() -> None:
    round_ = Round(1, {A: 0b11}, top_node=A)
    round_.on_accepted(A, 0b01)
    assert round_.on_gone(0b10) == [Order(A, "close")]


def test_a_client_that_came_back_is_waited_for() -> None:
    round_ = Round(1, {A: 0b111}, top_node=A)
    round_.on_gone(0b110)
    round_.on_back(0b010)
    assert round_.on_accepted(A, 0b001) == []
    assert round_.on_accepted(A, 0b011) == [Order(A, "close")]


def test_a_round_that_everybody_left_waits_for_an_update() -> None:
    round_ = Round(1, {A: 0b11}, top_node=A)
    assert round_.on_gone(0b11) == []
    assert round_.on_accepted(A, 0b10) == [Order(A, "close")]


def test_an_update_of_one_who_left_counts() -> None:
    round_ = Round(1, {A: 0b11}, top_node=A)
    round_.on_gone(0b10)
    assert round_.on_accepted(A, 0b11) == [Order(A, "close")]
    assert round_.in_count == 2


def test_a_new_coordinator_ends_what_the_last_one_had_decided() -> None:
    """It had closed the round without a client that left; that one is back, and refused."""
    round_ = two_nodes()
    round_.on_accepted(A, 0b0001)
    round_.on_cut(A)
    assert round_.on_accepted(B, 0b1100) == [Order(B, "close"), Order(A, "cut")]
    round_.on_closed(B, 0b1100)
    assert round_.on_accepted(A, 0b1101) == [Order(A, "close")]


def test_a_round_that_has_enough_waits_for_nobody() -> None:
    round_ = Round(1, {A: 0b0011, B: 0b1100}, top_node=A, enough=2)
    assert round_.on_accepted(A, 0b0001) == []
    assert round_.on_accepted(B, 0b0100) == [Order(B, "close"), Order(A, "cut")]
    assert round_.on_closed(B, 0b0100) == []
    assert round_.on_accepted(A, 0b0101) == [Order(A, "close")]


def test_enough_is_never_less_than_the_minimum() -> None:
    round_ = Round(1, {A: 0b1111}, top_node=A, enough=1, minimum=3)
    assert round_.on_accepted(A, 0b0011) == []
    assert round_.on_accepted(A, 0b0111) == [Order(A, "close")]


# -- a node is lost --------------------------------------------------------------------------
def test_nothing_is_decided_until_it_is_known_what_a_lost_node_leaves() -> None:
    round_ = two_nodes()
    round_.on_accepted(A, 0b0011)
    round_.on_lost(B)
    assert round_.on_accepted(A, 0b0011) == []
    assert round_.on_deadline() == []
    assert round_.orders_for(A) == []
    assert round_.on_moved({A: 0b1111}, A, again=0b1100) == []
    assert round_.on_accepted(A, 0b1111) == [Order(A, "close")]


def test_what_arrived_from_a_lost_node_counts() -> None:
    round_ = two_nodes()
    round_.on_accepted(A, 0b0011)
    round_.on_accepted(B, 0b1100)
    round_.on_lost(B)
    round_.on_accepted(A, 0b1111)
    assert round_.on_moved({A: 0b1111}, A, again=0) == [Order(A, "close")]


def test_who_is_late_at_a_node_that_is_closed_is_not_waited_for() -> None:
    round_ = Round(1, {A: 0b001, B: 0b010, "node-c": 0b100}, top_node=A)
    round_.on_accepted(A, 0b001)
    round_.on_deadline()  # B's client is late, and so is that of the third
    round_.on_lost("node-c")
    orders = round_.on_moved({A: 0b101, B: 0b010}, A, again=0b100)
    assert not round_.overdue
    assert orders == []
    assert Order(B, "close") in round_.on_accepted(A, 0b101)


def reopened() -> Round:
    """Closing when node-c was lost, whose client has to send again; B's client is late."""
    round_ = Round(1, {A: 0b001, B: 0b010, C: 0b100}, A)
    round_.on_accepted(A, 0b001)
    round_.on_deadline()
    round_.on_lost(C)
    return round_


def test_a_coordinator_that_comes_back_knows_which_nodes_stay_closed() -> None:
    before = reopened()
    before.on_moved({A: 0b101, B: 0b010}, A, again=0b100)
    round_ = Round(1, {A: 0b101, B: 0b010}, A, shut=before.shut)
    round_.on_cut(B)
    assert not round_.is_decided
    assert round_.on_accepted(A, 0b001) == []
    assert round_.takers([A, B]) == {A}
    assert Order(B, "close") in round_.on_accepted(A, 0b101)


def test_what_is_cut_while_a_loss_is_settled_stays_closed() -> None:
    """The coordinator before had told them to close; this one hears it from them."""
    round_ = Round(1, {A: 0b001, B: 0b010, C: 0b100}, A, is_held=True)
    round_.on_cut(B)
    assert round_.on_moved({A: 0b101, B: 0b010}, A, again=0b100) == []
    assert round_.on_accepted(A, 0b001) == []
    assert Order(B, "close") in round_.on_accepted(A, 0b101)


def test_clients_of_a_closed_node_that_is_lost_are_waited_for_elsewhere() -> None:
    round_ = reopened()
    round_.on_moved({A: 0b101, B: 0b010}, A, again=0b100)
    round_.on_lost(B)
    assert round_.on_moved({A: 0b111}, A, again=0b010) == []
    assert round_.on_accepted(A, 0b101) == []
    assert round_.on_accepted(A, 0b111) == [Order(A, "close")]
