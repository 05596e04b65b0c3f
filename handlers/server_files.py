"""The files that TorchServe is started with: ``config.properties``, its log's configuration, its metrics. Pure text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .metrics import DEFINITIONS

LOOPBACK = "127.0.0.1"
NO_URL = "no-model-comes-from-a-url"
"""A pattern that no URL matches: archives come from the model store alone."""
TOKEN_MINUTES = 10 * 365 * 24 * 60
"""Longer than a server lives. By default tokens end after an hour, and every client with them."""
MESSAGE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Addresses:
    """Where TorchServe listens.

    Attributes:
        host: of the two inference ports; management and metrics stay on loopback.
        http: REST inference.
        management: REST management.
        metrics: Prometheus.
        grpc: gRPC inference.
        grpc_management: gRPC management.
    """

    host: str
    http: int
    management: int
    metrics: int
    grpc: int
    grpc_management: int

    def ports(self) -> tuple[int, ...]:
        """All of them."""
        return (self.http, self.management, self.metrics, self.grpc, self.grpc_management)


def config_properties(addresses: Addresses, metrics_config: Path, *, auth: bool) -> str:
    """``config.properties``: nothing beyond loopback but what was asked for, nothing loaded but what was given."""
    settings = {
        "inference_address": f"http://{addresses.host}:{addresses.http}",
        "management_address": f"http://{LOOPBACK}:{addresses.management}",
        "metrics_address": f"http://{LOOPBACK}:{addresses.metrics}",
        "grpc_inference_address": addresses.host,
        "grpc_inference_port": addresses.grpc,
        "grpc_management_address": LOOPBACK,
        "grpc_management_port": addresses.grpc_management,
        "allowed_urls": NO_URL,
        "enable_model_api": "false",
        "install_py_dep_per_model": "false",
        "enable_envvars_config": "false",
        "disable_token_authorization": "false" if auth else "true",
        "token_expiration_min": TOKEN_MINUTES,
        "ts_open_inference_protocol": "true",
        "metrics_mode": "prometheus",
        "metrics_config": _escaped(metrics_config),
        "disable_system_metrics": "true",
        "max_request_size": MESSAGE_BYTES,
        "max_response_size": MESSAGE_BYTES,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def metrics_yaml(own: str) -> str:
    """TorchServe's own metrics file with the worker's metrics added.

    Args:
        own: text of ``ts/configs/metrics.yaml``, which ends with the section ``model_metrics`` and its gauges.
    """
    lines = [own.rstrip("\n")]
    for kind, metrics in DEFINITIONS.items():
        lines.append(f"  {kind}:")
        for name, unit in metrics:
            lines += [f"    - name: {name}", f"      unit: {unit}", "      dimensions: [*model_name, *level]"]
    return "\n".join(lines) + "\n"


def log_xml() -> str:
    """Log4j: what goes wrong, and what workers say. TorchServe's own logs ten lines a request."""
    return """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
  <Appenders>
    <Console name="OUT" target="SYSTEM_OUT">
      <PatternLayout pattern="%d{ISO8601} [%-5p] %t - %m%n"/>
      <RegexFilter regex="Backend received inference at: .*" onMatch="DENY" onMismatch="NEUTRAL"/>
    </Console>
  </Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_LOG" level="info"/>
    <Root level="warn"><AppenderRef ref="OUT"/></Root>
  </Loggers>
</Configuration>
"""


def _escaped(path: Path) -> str:
    # Java's properties take a backslash for an escape and Latin-1 for the encoding.
    return "".join(c if " " < c < "\x7f" and c != "\\" else f"\\u{ord(c):04x}" for c in str(path))
