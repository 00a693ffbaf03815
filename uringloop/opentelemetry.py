"""Metrics of all loops and spans of slow callbacks for OpenTelemetry; needs its API, the extra `opentelemetry`.

from uringloop.opentelemetry import instrument
instrument()
"""

from .observing.opentelemetry import Instrumentation, instrument

__all__ = ["Instrumentation", "instrument"]
