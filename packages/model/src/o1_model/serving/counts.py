"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SIZES = [2**power for power in range(11)]


class Counts:
    """What Prometheus reads."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "o1_requests", "Requests answered", ["path", "status"], registry=self.registry
        )
        self.inputs = Counter("o1_inputs", "Texts embedded", ["input_type"], registry=self.registry)
        self.tokens = Counter("o1_tokens", "Tokens read and thought", registry=self.registry)
        self.seconds = Histogram("o1_request_seconds", "Time to an answer", registry=self.registry)
        self.batches = Histogram("o1_batch_inputs", "Texts of a batch", buckets=SIZES, registry=self.registry)
        gauge = Gauge("o1_inputs_waiting", "Texts in the queue", registry=self.registry)
        gauge.set_function(waiting)
