"""The view of a run: its lines, and a screen that fits the terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lifl.cli.figures import amount, count, duration, percent, rate, score, sparkline
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
    "handoffs": {"ebpf": 20, "unix": 0}, "zygote_starts": 7, "cold_starts": 0, "warm_starts": 0,
    "start_seconds": {"zygote": 0.042, "cold": 0.0}, "tree": TREE,
    "fold_bytes": 592_000, "fold_seconds": 0.0005,
}  # fmt: skip
SUMMARY = {
    "accuracy": 0.969, "evaluation": {"accuracy": 0.969, "loss": 0.1},
    "evaluations": {"measured": 1, "skipped": 1}, "rounds": 2, "wall_s": 8.2,
    "round_s_median": 0.16, "nodes": 2,
    "updates": 32, "bytes": 1_184_000, "handoffs": {"ebpf": 40, "unix": 0}, "proxy": "ebpf",
    "kernels": "native", "zygote_starts": 7, "cold_starts": 0, "warm_starts": 7,
    "start_seconds": {"zygote": 0.042, "cold": 0.0},
}  # fmt: skip
EVENTS: list[dict[str, Any]] = [
    {"event": "starting", "run_dir": "runs/digits-1", "nodes": 2},
    {"event": "engine", "proxy": "ebpf", "reason": "", "kernels": "native", "isa": "avx2",
     "nodes": 2, "run_dir": "runs/digits-1"},
    {"event": "waiting", "clients": 3, "need": 16},
    {"event": "waiting", "clients": 4, "need": 16},
    {"event": "waiting", "clients": 5, "need": 16},
    {"event": "round_started", "round": 1, "clients": 16, "tree": TREE},
    {"event": "progress", "round": 1, "accepted": 7, "of": 16, "bytes": 259_000},
    {"event": "published", "round": 1, "seconds": 0.16},
    {"event": "round_done", **ROW},
    {"event": "metrics", "round": 1, "figures": {"accuracy": 0.93, "loss": 0.25}},
    {"event": "round_started", "round": 2, "clients": 16, "tree": TREE},
    {"event": "output", "who": "client-2", "text": "epoch\t1 \x1b[31mred\x1b[0m"},
    {"event": "warning", "text": "[bold]client-3[/] is slow\x1b[2J"},
    {"event": "restart", "what": "gateway on node-0"},
    {"event": "round_done", **ROW, "round": 2, "zygote_starts": 0, "warm_starts": 7,
     "start_seconds": {}},
    {"event": "done", **SUMMARY},
]  # fmt: skip


def shown(
    events: list[dict[str, Any]], *, plain: bool = True, goal: str = "", **console: Any
) -> str:
    out = io.StringIO()
    view = View(
        "digits", 2, plain, clients=16, evaluated=True, goal=goal,
        console=Console(file=out, width=80, height=24, **console),
    )  # fmt: skip
    for event in events:
        view.handle(event)
    view.close()
    view.close()
    return out.getvalue()


def test_plain_lines() -> None:
    assert shown(EVENTS).splitlines() == [
        "job digits: 2 rounds, 16 clients, 2 nodes",
        "run directory: runs/digits-1",
        "2 nodes, proxy ebpf, kernels native (avx2)",
        "waiting for clients: 3 of 16",
        "waiting for clients: 4 of 16",
        "round 1/2: tree of 16 clients: node-0: top, middle, 2 leaves; node-1: middle, 2 leaves",
        "round 1/2: 160 ms, 16 clients, 592 kB, hand-offs ebpf 20, starts 7 zygote (6 ms each), "
        "accuracy 93.0 %, loss 0.25",
        "client-2: epoch   1 red",
        "warning: [bold]client-3[/] is slow",
        "restarted: gateway on node-0",
        "round 2/2: 160 ms, 16 clients, 592 kB, hand-offs ebpf 20",
        "--- digits: done ---",
        "accuracy   96.9 %, loss 0.1",
        "rounds     2, 160 ms at the median, 1 of them not evaluated",
        "wall time  8.20 s",
        "updates    32, 1.18 MB, 3.70 MB/s during rounds",
        "hand-offs  ebpf 40",
        "nodes      2",
        "proxy      ebpf",
        "kernels    native",
        "starts     7 zygote (6 ms each), 0 cold, 7 warm",
        "results    runs/digits-1",
    ]


def test_plain_is_ascii() -> None:
    assert shown(EVENTS).isascii()


def test_why_the_proxy_is_not_ebpf_is_said() -> None:
    why = {"proxy": "unix", "reason": "eBPF needs root: CAP_BPF missing; run as root"}
    event = EVENTS[1] | why
    assert "proxy unix (eBPF needs root), kernels" in shown([event])
    assert "proxy      unix (eBPF needs root)" in shown([event, {"event": "done", "proxy": "unix"}])
    at_40 = drawn([event], width=40, height=12)
    assert "proxy unix (eBPF needs root)" in " ".join(line.strip() for line in at_40)


def test_a_run_without_curve_says_so_while_it_lasts_and_when_it_ends() -> None:
    events = [EVENTS[1] | {"insecure": True}, EVENTS[-1] | {"insecure": True}]
    plain = shown(events).splitlines()
    assert plain[0].startswith("INSECURE (nothing encrypted")
    assert "security   none: the job says insecure: true" in plain
    story = Story("digits", 2)
    story.take(events[0])
    out = io.StringIO()
    Console(file=out, width=60).print(screen(story, elapsed_s=1, width=60, height=20))
    assert "INSECURE" in out.getvalue()
    assert "INSECURE" not in shown(EVENTS)


def test_keys_that_come_and_go() -> None:
    event = {"event": "keys", "enrolled": ["clinic"], "revoked": ["client-1", "client-2"]}
    assert shown([event]) == "enrolled: clinic; revoked: client-1, client-2\n"
    assert shown([event | {"enrolled": [], "revoked": []}]) == ""


@pytest.mark.parametrize(
    ("goes_on", "said"),
    [
        ((2, 0), "going on at round 2 of 2, after the checkpoint of round 1"),
        ((2, 1), "going on at round 2 of 2, after the checkpoint of round 1; 1 round after that is "
                 "done again"),
        ((1, 2), "going on at round 1 of 2, without a checkpoint; 2 rounds after that are done "
                 "again"),
        ((3, 0), "all 2 rounds are done: what is left is to write the results"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_that_goes_on_says_where(
    goes_on: tuple[int, int], said: str, terminal: bool
) -> None:
    event = EVENTS[0] | {"goes_on": dict(zip(("round", "again"), goes_on, strict=True))}
    stopped = {"event": "stopped", "by": "Ctrl-C"}
    out = shown([event, stopped], plain=not terminal, force_terminal=terminal)
    assert said in out
    assert f"digits: stopped by Ctrl-C after {goes_on[0] - 1} of 2 rounds" in out


def test_who_has_runs_latest_again_is_said() -> None:
    event = {"event": "latest", "run": "runs/digits-0", "link": "runs/latest"}
    said = "no round of this run began: runs/latest is runs/digits-0 again\n"
    assert shown([EVENTS[0], event]).endswith(said)
    assert said.strip() in shown([EVENTS[0], event], plain=False, force_terminal=True)


@pytest.mark.parametrize("terminal", [False, True])
def test_nodes_that_are_left_and_taken_again_are_said_once(terminal: bool) -> None:
    def event(kind: str) -> dict[str, Any]:
        return {"event": kind, "node": "node-1"}

    drains = "node-1 drains: from the next round on nobody is there"
    taken = "node-1 is not to be left any more: it may take clients again"
    back = "node-1 is back: it may take clients again"
    kinds = ("draining", "draining", "uncordoned", "draining", "node_back")
    out = shown([EVENTS[0], *map(event, kinds)], plain=not terminal, force_terminal=terminal,
                color_system=None)  # fmt: skip
    assert re.findall("|".join((drains, taken, back)), out) == [drains, taken, drains, back]


def test_a_share_is_said_when_it_changes() -> None:
    shares = [{"node-0": [2, 4], "node-1": [1, 2]}] * 2 + [{}, {"node-1": [1, 2]}]
    out = shown([{"event": "share", "parts": parts} for parts in shares])
    assert out.splitlines() == [
        "share of the nodes: 2 updates at once on node-0, 1 on node-1",
        "share of the nodes: 1 update at once on node-1",
    ]


def test_where_metrics_are_is_said_when_it_changes() -> None:
    urls = ["http://127.0.0.1:1/metrics"] * 2 + ["http://127.0.0.1:2/metrics"]
    out = shown([{"event": "metrics_at", "coordinator": url} for url in urls])
    assert out.splitlines() == [f"metrics: {url}" for url in dict.fromkeys(urls)]


def test_an_endpoint_for_clients_from_outside() -> None:
    event = {"event": "endpoint", "endpoint": "tcp://[::1]:7", "files": "runs/x/clients",
             "outsiders": [f"client-{n}" for n in range(16)], "keys": "ring"}  # fmt: skip
    said = (
        "in other terminals: LIFL_CLIENT=runs/x/clients/client-0.json python your_client.py, "
        "and so on to client-15.json\n"
    )
    assert shown([event]) == said
    live = shown([event], plain=False, force_terminal=True, color_system=None)
    assert said.strip() in live.replace("\r", "")
    enrolled = shown([event | {"outsiders": [], "enrolled": ["clinic"]}])
    assert enrolled == (
        "in other terminals: LIFL_CLIENT=runs/x/clients/clinic.json LIFL_KEY=clinic.key "
        "python your_client.py\n"
    )
    assert shown([event | {"outsiders": []}]) == (
        "nobody is enrolled in ring yet: lifl keys enroll KEY.pub --name NAME --keys ring lets a "
        "client take part\n"
    )


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


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("number", [0, 1, 4, 11])
def test_an_interrupted_run_says_so_once(plain: bool, number: int, tmp_path: Path) -> None:
    """At every moment, and with what really is there."""
    events = [EVENTS[0] | {"run_dir": str(tmp_path)}, *EVENTS[3:]][:number]
    (tmp_path / "clients").mkdir()
    if number > 1:
        (tmp_path / "rounds.jsonl").touch()
    terminal = {"force_terminal": True, "color_system": None}
    out = shown(
        [*events, {"event": "stopped", "by": "Ctrl-C"}], plain=plain, **({} if plain else terminal)
    )
    what = f"{tmp_path} has rounds.jsonl" if number > 1 else "nothing was written"
    rounds = 1 if number == 11 else 0
    last = f"digits: stopped by Ctrl-C after {rounds} of 2 rounds; {what}"
    assert out.count("stopped by") == 1
    assert out.rstrip().splitlines()[-1].endswith(last)


def test_a_run_without_a_round_can_go_on_too(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    out = shown([EVENTS[0] | {"run_dir": str(tmp_path)}, {"event": "stopped", "by": "Ctrl-C"}])
    assert out.rstrip().endswith(f"no round is done; lifl run --resume {tmp_path} goes on")


def test_what_is_printed_stays_above_the_screen() -> None:
    out = shown(EVENTS[:-1], plain=False, force_terminal=True, color_system=None)
    assert out.count("client-2: epoch   1 red") == 1
    assert out.count("restarted: gateway on node-0") == 1
    assert "[bold]client-3[/] is slow [2J" not in out  # no escape sequence comes through


def metrics(number: int) -> dict[str, Any]:
    return {"event": "metrics", "round": number, "figures": {"accuracy": number / 10}}


def done(number: int) -> dict[str, Any]:
    return {"event": "round_done", **ROW, "round": number}


def ends(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(round, last words) of each line."""
    lines = [line.partition(": ") for line in shown(events).splitlines()]
    return [(label.split()[-1], text.rpartition(", ")[2]) for label, _, text in lines]


def test_figures_come_on_the_rounds_own_line() -> None:
    """Whether they come before it, at once, or when one or two later rounds are done."""
    for events in (
        [metrics(1), done(1), metrics(2), done(2), metrics(3), done(3)],
        [done(1), metrics(1), done(2), metrics(2), done(3), metrics(3)],
        [done(1), done(2), metrics(1), done(3), metrics(2), metrics(3)],
        [done(1), done(2), metrics(1), metrics(2), done(3), metrics(3)],
    ):
        assert ends(events) == [(f"{n}/2", f"accuracy {n}0.0 %") for n in (1, 2, 3)]


def test_figures_of_a_slow_evaluator_have_lines_of_their_own() -> None:
    late = ends([done(1), done(2), done(3), metrics(1), metrics(3), done(4)])
    assert late == [
        ("1/2", "starts 7 zygote (6 ms each)"), ("1/2", "accuracy 10.0 %"),
        ("2/2", "starts 7 zygote (6 ms each)"),
        ("3/2", "accuracy 30.0 %"),  # round 2 was not evaluated
        ("4/2", "starts 7 zygote (6 ms each)"),
    ]  # fmt: skip


def test_the_line_that_the_readme_explains() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    said = re.search(r"^round  1/30: .*$", readme, re.M)
    assert said is not None
    row = ROW | {"seconds": 0.151, "bytes": 574_080, "handoffs": {"ebpf": 53},
                 "metrics": {"loss": 0.5654}, "start_seconds": {"zygote": 0.1323}}  # fmt: skip
    out = io.StringIO()
    view = View("digits", 30, True, clients=16, evaluated=True, console=Console(file=out))
    view.handle({"event": "round_done", **row})
    view.handle({"event": "metrics", "round": 1, "figures": {"accuracy": 0.682}})
    view.close()
    assert out.getvalue().strip() == said.group()


def drawn(
    events: list[dict[str, Any]], *, width: int, height: int, goal: str = ""
) -> list[str]:
    story = Story("digits", 30, 16, goal=goal)
    for event in events:
        story.take(event)
    console = Console(file=io.StringIO(), width=width, height=height)
    lines = console.render_lines(screen(story, elapsed_s=61, width=width, height=height))
    return ["".join(segment.text for segment in line) for line in lines]


@pytest.mark.parametrize(
    ("figures", "goal", "label", "value"),
    [
        ({"mae": 3.0, "error": 0.25}, "", "mae", "3"),
        ({"mae": 3.0, "error": 0.25}, "error", "error", "0.25"),
        ({"mae": 3.0, "accuracy": 0.5}, "mae", "accuracy", "50.0 %"),
        ({"perplexity_per_word": 31.5}, "loss", "perplexity", "31.5"),
        ({"nodes": 2.5}, "", "nodes", "2.5"),
    ],
)
def test_an_evaluators_figures_have_their_own_names(
    figures: dict[str, float], goal: str, label: str, value: str
) -> None:
    measured = {"event": "metrics", "round": 1, "figures": figures}
    picture = drawn([*EVENTS[:9], measured], goal=goal, width=80, height=24)
    assert any(re.match(rf"{label} +\S+ {value} *$", line) for line in picture)
    end = {"event": "done", **SUMMARY, "accuracy": figures.get("accuracy"), "evaluation": figures}
    said = shown([end], goal=goal)
    assert re.search(rf"^{label}\S* +{value}(,|$)", said, re.M)
    assert "accuracy" in figures or "accuracy" not in said
    assert all(name in said for name in figures)


def test_before_the_first_round_every_figure_says_that_there_is_none() -> None:
    picture = [line.split() for line in drawn(EVENTS[:2], width=80, height=24)]
    assert picture[-4:] == [
        ["accuracy", "-"], ["last", "round", "-"], ["hand-offs", "none"], ["starts", "none"],
    ]  # fmt: skip


def test_what_is_full_and_what_is_empty_differ_without_colour() -> None:
    picture = drawn(EVENTS[:11], width=80, height=24)
    rounds, clients = (next(x for x in picture if x.startswith(n)) for n in ("rounds", "clients"))
    assert rounds.count("━") == 2
    assert "·" in rounds
    assert rounds.rstrip().endswith("1 of 30")
    assert clients.rstrip().endswith("0 of 16")
    assert drawn([], width=80, height=24)[4].rstrip().endswith("0 of 16")


@pytest.mark.parametrize("nodes", [0, 1, 2, 5, 64])
@pytest.mark.parametrize("leaves", [1, 2, 40])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 16), (40, 12), (200, 50)])
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
    out = io.StringIO()
    Console(file=out).print(screen(story, elapsed_s=0, width=80, height=24))
    drawn = [line.strip() for line in out.getvalue().splitlines()]
    at = drawn.index("n")
    assert drawn[at + 1 : at + 4] == ["leaf 1 · 0 clients →", "? None", ""]  # each role once


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
        (score(0.9639), "96.4 %"),
        (score(1), "100.0 %"),
        (score(96.0), "96"),
        (score(float("nan")), "nan"),
        (count(1, "leaf"), "1 leaf"),
        (count(2, "leaf"), "2 leaves"),
        (sparkline([], 5), ""),
        (sparkline([1.0, 1.0], 5), "▁▁"),
        (sparkline([0, 1, float("nan"), 2], 2), "▅█"),
    ],
)
def test_figures(said: str, wanted: str) -> None:
    assert said == wanted
