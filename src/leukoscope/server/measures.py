"""What Prometheus can ask: requests, their seconds, cells analysed, the queue. No names, no case numbers."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 15, 60)


class Measures:
    """The counters of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("leukoscope_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram(
            "leukoscope_request_seconds", "Seconds per request.", labels[:2], buckets=_SECONDS, registry=self._registry
        )
        self._cells = Counter("leukoscope_cells_analysed", "Cells analysed by this process.", registry=self._registry)
        self._queue = Gauge("leukoscope_jobs", "Images in the queue.", ("state",), registry=self._registry)

    def request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is the template, such as /api/v1/cases/{case_id}."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def cells(self, count: int) -> None:
        """Count analysed cells."""
        self._cells.inc(count)

    def text(self, depth: dict[str, int]) -> bytes:
        """Return everything as Prometheus reads it; `depth` is the number of jobs in each state."""
        for state, count in depth.items():
            self._queue.labels(state).set(count)
        return generate_latest(self._registry)
