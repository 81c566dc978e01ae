"""The view of a run: its lines, and a screen that fits the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from lifl.cli.figures import amount, count, duration, percent, rate, sparkline
from lifl.cli.live import screen
from lifl.cli.story import Story
from lifl.cli.view import View


def roles(top: bool, leaves: int = 2) -> list[dict[str, Any]]:
    middle = leaves + 1
    found = [
        {"role": "leaf", "endpoint": n, "parent": middle, "clients": 4}
        for n in range(1, leaves + 1)
    ]
    found.append(
        {"role": "middle", "endpoint": middle, "parent": middle + 1 if top else 0, "clients": 8}
    )
    if top:
        found.append({"role": "top", "endpoint": middle + 1, "parent": 0, "clients": 16})
    return found


TREE = {"node-0": roles(True), "node-1": roles(False)}
ROW = {
    "round": 1, "seconds": 0.16, "clients": 16, "accuracy": None, "bytes": 592_000,
    "handoffs": {"ebpf": 20, "unix": 0}, "cold_starts": 7, "warm_starts": 0, "tree": TREE,
    "fold_bytes": 592_000, "fold_seconds": 0.0005,
}  # fmt: skip
SUMMARY = {
    "accuracy": 0.969, "rounds": 2, "wall_s": 8.2, "round_s_median": 0.16, "nodes": 2,
    "updates": 32, "bytes": 1_184_000, "handoffs": {"ebpf": 40, "unix": 0}, "proxy": "ebpf",
    "kernels": "native", "cold_starts": 7, "warm_starts": 7,
}  # fmt: skip
EVENTS: list[dict[str, Any]] = [
    {"event": "engine", "proxy": "ebpf", "reason": "", "kernels": "native", "isa": "avx2",
     "nodes": 2, "run_dir": "runs/digits-1"},
    {"event": "waiting", "clients": 3, "need": 16},
    {"event": "round_started", "round": 1, "clients": 16, "tree": TREE},
    {"event": "progress", "round": 1, "accepted": 7, "of": 16, "bytes": 259_000},
    {"event": "round_done", **ROW},
    {"event": "metrics", "round": 1, "figures": {"accuracy": 0.93, "loss": 0.25}},
    {"event": "round_started", "round": 2, "clients": 16, "tree": TREE},
    {"event": "warning", "text": "[bold]client-3[/] is slow\x1b[2J"},
    {"event": "restart", "what": "gateway on node-0"},
    {"event": "round_done", **ROW, "round": 2, "cold_starts": 0, "warm_starts": 7},
    {"event": "done", **SUMMARY},
]  # fmt: skip


def shown(events: list[dict[str, Any]], *, plain: bool = True, **console: Any) -> str:
    out = io.StringIO()
    view = View("digits", 2, plain, console=Console(file=out, width=80, height=24, **console))
    for event in events:
        view.handle(event)
    view.close()
    view.close()
    return out.getvalue()


def test_plain_lines() -> None:
    assert shown(EVENTS).splitlines() == [
        "job digits: 2 nodes, proxy ebpf, kernels native (avx2)",
        "run directory: runs/digits-1",
        "waiting for clients: 3 of 16",
        "round 1/2: tree of 16 clients: node-0: top, middle, 2 leaves; node-1: middle, 2 leaves",
        "round 1/2: 160 ms, 16 clients, 592 kB, hand-offs ebpf 20, 7 cold starts",
        "round 1/2: accuracy 93.0 %, loss 0.25",
        "warning: [bold]client-3[/] is slow [2J",
        "restarted: gateway on node-0",
        "round 2/2: 160 ms, 16 clients, 592 kB, hand-offs ebpf 20",
        "--- digits: done ---",
        "accuracy   96.9 %",
        "rounds     2, 160 ms at the median",
        "wall time  8.20 s",
        "updates    32, 144 kB/s",
        "hand-offs  ebpf 40",
        "nodes      2",
        "proxy      ebpf",
        "kernels    native",
        "starts     7 cold, 7 warm",
        "results    runs/digits-1",
    ]


def test_plain_is_ascii() -> None:
    assert shown(EVENTS).isascii()


def test_why_the_proxy_is_not_ebpf_is_said() -> None:
    event = EVENTS[0] | {"proxy": "unix", "reason": "no CAP_BPF"}
    assert "proxy unix (no CAP_BPF), kernels" in shown([event])


def test_a_run_without_curve_says_so_while_it_lasts_and_when_it_ends() -> None:
    events = [EVENTS[0] | {"insecure": True}, EVENTS[-1] | {"insecure": True}]
    plain = shown(events).splitlines()
    assert plain[0].startswith("job digits: INSECURE (nothing encrypted")
    assert "security   none: the job says insecure: true" in plain
    story = Story("digits", 2)
    story.take(events[0])
    out = io.StringIO()
    Console(file=out, width=60).print(screen(story, elapsed_s=1, width=60, height=20))
    assert "INSECURE" in out.getvalue()
    assert "INSECURE" not in shown(EVENTS)


def test_keys_that_come_and_go() -> None:
    event = {"event": "keys", "enrolled": ["clinic"], "revoked": ["client-1", "client-2"]}
    assert shown([event]) == "enrolled: clinic\nrevoked: client-1, client-2\n"
    assert shown([event | {"enrolled": [], "revoked": []}]) == ""


def test_an_endpoint_for_clients_from_outside() -> None:
    said = shown([{"event": "endpoint", "endpoint": "tcp://[::1]:7", "files": "runs/x/clients"}])
    assert said == "clients connect to tcp://[::1]:7; key files in runs/x/clients\n"


def test_unknown_and_incomplete_events_do_not_matter() -> None:
    names = {event["event"] for event in EVENTS} | {"of another version"}
    assert shown([{"event": name} for name in sorted(names - {"done"})])
    assert "--- digits: done ---" in shown([{"event": "done"}])
    assert shown([{}]) == ""


def test_a_terminal_gets_its_screen_back() -> None:
    out = shown(EVENTS, plain=False, force_terminal=True, color_system=None)
    assert "\x1b[2J" not in out  # never cleared as a whole
    assert out.rstrip().splitlines()[-1].startswith("results")
    assert "\x1b[?25h" in out  # the cursor is back
    stopped = shown(EVENTS[:6], plain=False, force_terminal=True, color_system=None)
    assert "digits: stopped after 1 of 2 rounds; what there is lies in runs/digits-1" in stopped


@pytest.mark.parametrize("nodes", [0, 1, 2, 5, 64])
@pytest.mark.parametrize("leaves", [1, 2, 40])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 16), (200, 50)])
def test_the_screen_fits(nodes: int, leaves: int, width: int, height: int) -> None:
    story = Story("digits", 30)
    tree = {f"node-{n}": roles(n == 0, leaves) for n in range(nodes)}
    for event in [*EVENTS[:-1], {"event": "round_started", "round": 3, "clients": 9, "tree": tree}]:
        story.take(event)
    console = Console(file=io.StringIO(), width=width, height=height)
    lines = console.render_lines(screen(story, elapsed_s=61, width=width, height=height))
    text = ["".join(segment.text for segment in line) for line in lines]
    assert len(text) <= height
    assert any("round 3 of 30  1:01" in line for line in text)
    if nodes == 2 and leaves == 2 and height >= 24:
        assert any("top 4" in line and "middle 3 → node-0" in line for line in text)
        assert any("└ leaf 2 · 4 clients" in line for line in text)


def test_a_tree_that_is_none_ends() -> None:
    story = Story("digits", 1)
    ring = [{"role": "leaf", "endpoint": 1, "parent": 0}, {"role": "leaf", "endpoint": 1,
             "parent": 1}, {}]  # fmt: skip
    story.take({"event": "round_started", "round": 1, "tree": {"n": ring}})
    Console(file=io.StringIO()).print(screen(story, elapsed_s=0, width=80, height=24))


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (amount(0), "0 B"),
        (amount(999), "999 B"),
        (amount(1000), "1.00 kB"),
        (amount(999_600), "1.00 MB"),
        (amount(46_800_000), "46.8 MB"),
        (amount(2 << 40), "2.20 TB"),
        (rate(10, 0), "-"),
        (rate(5e9, 2), "2.50 GB/s"),
        (duration(0.00123), "1.23 ms"),
        (duration(8.2), "8.20 s"),
        (duration(75), "1:15"),
        (duration(3600), "1:00:00"),
        (percent(0.9639), "96.4 %"),
        (count(1, "leaf"), "1 leaf"),
        (count(2, "leaf"), "2 leaves"),
        (sparkline([], 5), ""),
        (sparkline([1.0, 1.0], 5), "▁▁"),
        (sparkline([0, 1, float("nan"), 2], 2), "▅█"),
    ],
)
def test_figures(said: str, wanted: str) -> None:
    assert said == wanted
