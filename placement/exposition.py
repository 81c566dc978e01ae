"""Figures as Prometheus reads them, and one request for them.

Owns the wire format, by prometheus-client.  Imported by scrape.py with the first request.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from lifl.metrics import METRICS, Figures, Metric


def families(figures: Figures) -> list[Family]:
    """As prometheus-client has them; metrics of which nothing was said yet are there, empty."""
    return [_family(metric, figures) for metric in METRICS if metric.where == figures.where]


def _family(metric: Metric, figures: Figures) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help)
        found = figures.distributions.get(metric.name)
        if found is not None:
            seen, buckets = 0, []
            for edge, count in zip([*map(str, metric.buckets), "+Inf"], found.counts, strict=True):
                seen += count
                buckets.append((edge, float(seen)))
            histogram.add_metric([], buckets, found.sum)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    name = metric.name if metric.kind == "counter" else metric.shown_as
    family = kind(name, metric.help, labels=metric.labels)
    for labels, value in figures.values.get(metric.name, {}).items():
        family.add_metric(labels, value)
    return family


class _Collector(Collector):
    def __init__(self, figures: Figures) -> None:
        self.figures = figures

    def collect(self) -> Iterator[Family]:
        yield from families(self.figures)


def text(figures: Figures, accept: str = "") -> tuple[bytes, str]:
    """The figures in the format that the scraper prefers, and that format's name."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(figures))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def serve(connection: socket.socket, ask: Callable[[], Figures | None]) -> None:
    """Answer one request, and its followers on the same connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self._reply(404, b"only /metrics is here\n", "text/plain")
                return
            figures = ask()
            if figures is None:
                self._reply(503, b"busy: ask again\n", "text/plain")
                return
            body, content_type = text(figures, self.headers.get("Accept", ""))
            self._reply(200, body, content_type)

        def _reply(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: standard output is the run's."""

    try:
        Handler(connection, connection.getpeername(), None)  # type: ignore[arg-type]
    except OSError:  # it went away, or was too slow
        return
