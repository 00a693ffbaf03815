"""Metrics of all loops for Prometheus; needs the package prometheus_client, the extra `prometheus`.

from uringloop.prometheus import UringloopCollector
UringloopCollector()
"""

from .observing.prometheus import MetricsServer, UringloopCollector

__all__ = ["MetricsServer", "UringloopCollector"]
