"""Metrics: their declaration, their page, and what a scraper reads."""

from __future__ import annotations

import runpy
import select
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lifl.errors import Busy
from lifl.metrics import METRICS, PHASE_HELP, PHASES, Figures
from lifl.placement.accounts import Accounts
from lifl.placement.exposition import text
from lifl.placement.monitoring import Monitoring
from lifl.placement.scrape import Endpoint, listen
from tests.unit import clusterjobs

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_that_of_the_table() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "docs_metrics.py"))["page"]()
    assert (ROOT / "docs" / "metrics.md").read_text() == page


def test_names_follow_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("lifl_")
        assert not metric.name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))
        assert "job" not in metric.labels
        assert "instance" not in metric.labels
        assert metric.help.endswith(".")
    assert set(PHASE_HELP) == set(PHASES)


def test_figures_refuse_what_is_not_declared() -> None:
    figures = Figures("agent")
    with pytest.raises(KeyError):
        figures.add("lifl_nothing")
    with pytest.raises(AssertionError, match="labels"):
        figures.add("lifl_updates", job="digits")
    with pytest.raises(AssertionError, match="coordinator"):
        figures.add("lifl_rounds")
    with pytest.raises(AssertionError, match="gauge"):
        figures.add("lifl_slots", fljob="digits")


def test_a_scraper_reads_what_was_said() -> None:
    figures = Figures("coordinator")
    figures.info("lifl_job", fljob="a", run="b", algorithm="fedavg", mode="eager")
    figures.add("lifl_rounds", 2)
    for seconds in (0.005, 0.02, 4000.0):
        figures.observe("lifl_round_seconds", seconds)
    body, content_type = text(figures)
    assert content_type.startswith("text/plain")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert samples["lifl_rounds_total",] == 2
    assert samples["lifl_round_seconds_bucket", "0.005"] == 1  # an edge belongs below it
    assert samples["lifl_round_seconds_bucket", "0.025"] == 2
    assert samples["lifl_round_seconds_bucket", "1800"] == 2
    assert samples["lifl_round_seconds_bucket", "+Inf"] == 3
    assert samples["lifl_round_seconds_sum",] == pytest.approx(4000.025)
    assert "lifl_updates" not in body.decode()  # an agent's


def test_a_job_that_is_over_leaves_its_counters_alone() -> None:
    figures = Figures("agent")
    for job in ("a", "b"):
        figures.add("lifl_updates", 3, fljob=job)
        figures.set("lifl_slots", 8, fljob=job)
        figures.info("lifl_node_job", fljob=job, lane="zmq")
    figures.forget_job("a")
    assert figures.values["lifl_slots"] == {("b",): 8}
    assert figures.values["lifl_node_job"] == {("b", "zmq"): 1}
    assert figures.get("lifl_updates", fljob="a") == 3


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """One whose loop runs, in a thread, until the test is over."""
    figures, over = Figures("coordinator"), threading.Event()
    endpoint = Endpoint(figures, lambda: figures.add("lifl_rounds"), listen())

    def loop() -> None:
        while not over.is_set():
            if select.select(endpoint.fds, [], [], 0.05)[0]:
                endpoint.answer()

    thread = threading.Thread(target=loop)
    thread.start()
    yield endpoint
    over.set()
    thread.join()
    endpoint.close()


def test_the_endpoint_hands_out_fresh_figures(endpoint: Endpoint) -> None:
    pages = [urllib.request.urlopen(endpoint.url, timeout=5).read().decode() for _ in range(2)]
    assert "lifl_rounds_total 1.0" in pages[0]
    assert "lifl_rounds_total 2.0" in pages[1]


def test_random_bytes_and_silence_do_not_keep_a_scraper_out(endpoint: Endpoint) -> None:
    odd, silent = (socket.create_connection(endpoint.listener.getsockname()) for _ in range(2))
    with odd, silent:
        odd.sendall(bytes(range(256)) * 300 + b"\r\n\r\n")
        assert urllib.request.urlopen(endpoint.url, timeout=5).status == 200


def test_a_port_in_use_is_named() -> None:
    with listen() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(Busy, match=f"{port}.*--metrics-port"):
            listen(port)


def test_restarts_and_rejections_are_there_before_the_first_one(tmp_path: Path) -> None:
    """`rate` and `increase` miss the step of a counter that first appears at 1."""
    monitoring = Monitoring(clusterjobs.job(), tmp_path)
    monitoring.node("n1", "http://127.0.0.1:1/metrics", of=2)
    restarts = monitoring.figures.values["lifl_restarts"]
    assert restarts["n1", "gateway"] == restarts["n1", "leaf"] == 0
    monitoring.restarted("n1", "leaf")
    monitoring.node("n1", "http://127.0.0.1:1/metrics", of=2)  # its agent began anew
    assert (restarts["n1", "leaf"], restarts["n1", "agent"]) == (1, 1)
    node: Any = SimpleNamespace(name="n1", router=SimpleNamespace(name="unix"), kernels="native")
    rejections = Accounts(node, "avx2").figures.values["lifl_rejections"]
    assert {rejections[code,] for code in ("late", "not-finite", "unknown-key", "busy")} == {0}
    assert "bulk: replayed" in {code for code, in rejections}


def test_processes_do_not_pay_for_metrics_that_nobody_reads() -> None:
    modules = ("lifl.functions.aggregator", "lifl.functions.gateway", "lifl.placement.agent",
               "lifl.placement.coordinator")  # fmt: skip
    program = f"import {', '.join(modules)}, sys; print('prometheus_client' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert out.stdout.strip() == b"False"
