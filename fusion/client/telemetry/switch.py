"""Switch: decides if runs are traced. OpenTelemetry is loaded only if they are."""

from typing import TYPE_CHECKING, Final

from fusion.core.config import Settings, variable
from fusion.core.errors import UsageError
from fusion.core.events import MapStarted, Sink
from fusion.engine.durable import Observation, Observer, Session
from fusion.engine.run_spec import RunSpec

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

_NAMES: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
_CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURED: Final = ("true", "1", "span_only", "span_and_event")

TelemetryGiven = "bool | TracerProvider | None"
"""True or False, or the provider that traces go to."""


def observer_of(given: "bool | TracerProvider | None", settings: Settings) -> Observer | None:
    """Return the observer that traces runs; None if they are not traced.

    `given` counts first, then `[telemetry]` in the settings, then the `OTEL_` variables. Raises UsageError if traces
    are asked for and cannot be made; where variables alone ask for them, each run has a note instead.
    """
    if (variable("OTEL_SDK_DISABLED") or "").lower() == "true" or given is False:
        return None
    asked = given is not None or settings.telemetry.enabled
    if not (asked or (settings.telemetry.enabled is None and _is_configured())):
        return None
    try:
        return _telemetry(None if isinstance(given, bool) else given, settings)
    except UsageError as error:
        if asked:
            raise
        return _Untraced(f"runs are not traced: {error}")


def _is_configured() -> bool:
    return any((variable(name) or "none").lower() != "none" for name in _NAMES)


def captures_content(settings: Settings) -> bool:
    """Return True if traces are to hold prompts and replies."""
    if settings.telemetry.content is not None:
        return settings.telemetry.content
    return (variable(_CAPTURE) or "").lower() in _CAPTURED


def _telemetry(provider: "TracerProvider | None", settings: Settings) -> Observer:
    try:
        from fusion.client.telemetry.providers import providers_of
        from fusion.client.telemetry.telemetry import Telemetry
    except ImportError as error:
        raise UsageError(
            f"traces need the extra `otel` ({error}); install it: pip install 'compound-fusion[otel]'"
        ) from error
    content, note = captures_content(settings), None
    if content and settings.policy.content != "full":
        content, note = False, f"prompts and replies are not traced: {settings.policy.kept('full')[1]}"
    return Telemetry.of(providers_of(provider), content=content, note=note)


class _Untraced(Observer):
    """Observes nothing, and says why in each run."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def of_run(self, spec: RunSpec, session: Session) -> Observation | None:
        session.note([self._reason])
        return None

    def of_map(self, started: MapStarted) -> tuple[Observer, Sink | None]:
        return self, None
