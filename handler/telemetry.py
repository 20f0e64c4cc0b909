"""What watches requests besides the metrics, where the operator asks for it; nothing of it is imported otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from handler.finished import Watch
from handler.settings import Settings

if TYPE_CHECKING:
    from handler.emf import EmfWriter
    from handler.traces import Tracer


@dataclass(frozen=True, slots=True)
class Telemetry:
    """CloudWatch lines and traces of one process, each None where it is off."""

    emf: EmfWriter | None
    tracer: Tracer | None

    @property
    def watches(self) -> tuple[Watch, ...]:
        """What is told of each finished request."""
        return tuple(each.watch for each in (self.emf, self.tracer) if each is not None)

    def close(self) -> None:
        """Write and send what is left."""
        for each in (self.emf, self.tracer):
            if each is not None:
                each.close()

    def refused(self, *, status: int) -> None:
        """Count what was answered without becoming a request."""
        if self.emf is not None:
            self.emf.refused(status=status)

    def started(self, seconds: float) -> None:
        """Tell how long the start took."""
        if self.emf is not None:
            self.emf.started(seconds)

    def ended(self, how: Literal["StartFailures", "EngineDeaths"]) -> None:
        """Count it and close."""
        if self.emf is not None:
            self.emf.count(how)
        self.close()


def build_telemetry(settings: Settings, *, model: str, in_flight: Callable[[], int]) -> Telemetry:
    """Import and build what *settings* ask for."""
    emf = tracer = None
    if settings.emf_namespace is not None:
        from handler.emf import EmfWriter  # noqa: PLC0415 - only where it is on

        emf = EmfWriter(settings.emf_namespace, service=settings.service_name, in_flight=in_flight)
    if settings.traces_endpoint is not None:
        from handler.traces import Tracer  # noqa: PLC0415 - only where it is on

        service = settings.otel_service_name or settings.service_name
        tracer = Tracer(settings.traces_endpoint, service=service, model=model)
    return Telemetry(emf, tracer)
