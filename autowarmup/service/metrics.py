"""The service's figures for Prometheus. They are counted when they are asked for, from the studies themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from autowarmup.service.studies import Studies


class StudiesCollector:
    """Counts studies, trials, steps and workers.

    Args:
        studies: the service's.
    """

    def __init__(self, studies: Studies) -> None:
        self._studies = studies

    def collect(self) -> Iterable[Metric]:
        """What Prometheus is given."""
        summaries = [self._studies.summary(name) for name in self._studies.ids()]
        states: Counter[str] = Counter(summary.state for summary in summaries)
        outcomes: Counter[str] = sum((Counter(summary.trials) for summary in summaries), Counter())
        yield _labelled("autowarmup_studies", "Studies by state.", "state", states)
        yield _labelled("autowarmup_trials", "Trials of all studies by outcome.", "outcome", outcomes)
        steps = sum(summary.steps for summary in summaries)
        workers = sum(summary.workers for summary in summaries)
        yield GaugeMetricFamily("autowarmup_optimizer_steps", "Optimizer steps of all studies.", value=steps)
        yield GaugeMetricFamily("autowarmup_workers", "Workers that were heard of within their lease.", value=workers)


def registry_of(studies: Studies) -> CollectorRegistry:
    """All figures of a service and of its process."""
    registry = CollectorRegistry()
    registry.register(StudiesCollector(studies))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def _labelled(name: str, about: str, label: str, counts: Counter[str]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
