"""The figures of all coordinators of one operator, as one text.

Owns putting them together: each coordinator knows of its own job alone and says no name, so every
figure gets the label `fljob`.  Called by the operator's metrics endpoint.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Mapping
from typing import Final

from lifl.metrics import Figures

LIMIT_S: Final = 2.0


def fetched(urls: Mapping[str, str]) -> dict[str, str]:
    """What coordinators say, by job; of one that does not answer nothing."""
    found = {}
    for name, url in urls.items():
        try:
            with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
                found[name] = answer.read().decode()
        except (OSError, ValueError):
            continue
    return found


def together(texts: Mapping[str, str], own: Figures) -> str:
    """One text of all.

    Args:
        texts: in Prometheus' format, by job.
        own: the operator's.
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import Metric
    from prometheus_client.parser import text_string_to_metric_families
    from prometheus_client.registry import Collector

    from lifl.placement.exposition import families as families_of

    families: dict[str, Metric] = {family.name: family for family in families_of(own)}
    for job, said in texts.items():
        for family in text_string_to_metric_families(said):
            if not family.name.startswith("lifl_"):
                continue
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                merged.add_sample(sample.name, {"fljob": job, **sample.labels}, sample.value)

    class Families(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from (families[name] for name in sorted(families))

    registry = CollectorRegistry()
    registry.register(Families())
    return generate_latest(registry).decode()

