"""The table of docs/kubernetes.md, and what is compared in it."""

from __future__ import annotations

from typing import Any

from benchmarks.cluster import MARKERS, PAGE, ROWS, Bench, table
from benchmarks.docs import insert
from lifl.placement.cluster import names

HERE = {"began_at": "2026-01-02T03:04:05", "cpus": 2, "cpu": "a", "kernel": "6", "load_at_start": 1}


def test_the_page_has_its_markers_and_the_table_every_row() -> None:
    found: dict[str, list[float]] = {
        "without cold folded": [3.0, 1.0, 2.0], "with cold folded": [5.0],
        "without function MB": [20.0], "with function MB": [21.0, 23.0],
        "with queue-proxy MB": [11.0],
    }  # fmt: skip
    text = table(found, HERE, 3)
    for title, _, _ in ROWS:
        assert f"| {title} |" in text
    assert "| … until its first fold | 2 s (1–3) | 5 s (5–5) |" in text
    assert "| 20 MB (20–20) | 33 MB (function 22 MB (21–23); queue-proxy 11 MB (11–11)) |" in text
    assert text.count("not measured") == 10
    assert text in insert(PAGE.read_text(), text, MARKERS)


def test_the_other_is_the_same_function_which_the_webhook_is_not_asked_about() -> None:
    class Release:
        name = "lifl"
        functions: Any = type("K", (), {"namespace": "fns"})

        def helm(self, *words: str) -> str:
            return '{"functions": {"resources": {"limits": {"memory": "1Gi"}}}}'

    lifl: Any = Release()
    nobody: Any = None
    made = Bench(lifl, "n1", nobody).stock("team-a")
    template = made["spec"]["template"]
    assert template["metadata"]["labels"] == {names.TENANT: "team-a"}
    assert "autoscaling.knative.dev/class" not in template["metadata"]["annotations"]
    assert template["spec"]["serviceAccountName"] == "lifl-function"
    (container,) = template["spec"]["containers"]
    assert container["command"][-4:] == ["--node", "n1", "--socket", "/run/lifl/agent.sock"]
    assert container["resources"] == {"limits": {"memory": "1Gi"}}
