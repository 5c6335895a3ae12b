# SPDX-License-Identifier: Apache-2.0
"""The OpenTelemetry Collector and telemetrygen, and a plaintext OTLP server to put behind either."""

from __future__ import annotations

import json
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any, Self

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from peerlib.build import binary
from peerlib.process import Process, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from otel_spiffe.identity import X509Bundle, X509Svid

__all__ = ["Collector", "PlainSink", "Telemetrygen", "write_material"]


def write_material(folder: Path, svid: X509Svid, bundle: X509Bundle) -> None:
    """Write the three files that the Collector reads, each in one step, under spiffe-helper's names."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    from otel_spiffe.identity import bundle_to_pem  # noqa: PLC0415 -- the benchmarks' parents need no library

    texts = {
        "svid.pem": b"".join(each.public_bytes(Encoding.PEM) for each in svid.chain),
        "svid_key.pem": svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "svid_bundle.pem": bundle_to_pem(bundle),
    }
    for name, text in texts.items():
        new = folder / f".{name}"
        new.write_bytes(text)
        new.chmod(0o600)
        new.rename(folder / name)


_STARTS = 5
_TORN = ("failed to load TLS", "failed to load client CA")
"""Spiffe-helper writes its files in place, one after the other: who starts meanwhile ends, and is started again."""


def _no_queue(**tls: Any) -> dict[str, Any]:
    # Without a queue "accepted" means delivered, and what is refused behind is refused in front.
    return {
        "tls": tls,
        "sending_queue": {"enabled": False},
        "retry_on_failure": {"enabled": False},
        "compression": "none",
    }


def _tls(files: Path, ca: str, **more: Any) -> dict[str, Any]:
    return {
        "cert_file": str(files / "svid.pem"),
        "key_file": str(files / "svid_key.pem"),
        ca: str(files / "svid_bundle.pem"),
        "reload_interval": "1s",
        **more,
    }


def _plain(downstream: str) -> dict[str, Any]:
    return {"otlp": {"endpoint": downstream, **_no_queue(insecure=True)}} if downstream else {"nop": None}


class Collector:
    """A Collector with an OTLP receiver on two loopback ports."""

    def __init__(self, folder: Path, receiver_tls: dict[str, Any] | None, exporter: dict[str, Any]) -> None:
        self.grpc_port, self.http_port = free_port(), free_port()
        self._process: Process | None = None
        self._secure = receiver_tls is not None
        self._file = folder / f"collector-{self.grpc_port}.yaml"  # JSON is YAML
        tls = {"tls": receiver_tls} if receiver_tls is not None else {}
        protocols = {
            "grpc": {"endpoint": f"127.0.0.1:{self.grpc_port}", "max_recv_msg_size_mib": 64, **tls},
            "http": {"endpoint": f"127.0.0.1:{self.http_port}", **tls},
        }
        pipeline = {"receivers": ["otlp"], "exporters": list(exporter)}
        config = {
            "receivers": {"otlp": {"protocols": protocols}},
            "exporters": exporter,
            "service": {
                "pipelines": {"traces": pipeline, "metrics": pipeline, "logs": pipeline},
                "telemetry": {"metrics": {"level": "none"}},
            },
        }
        self._file.write_text(json.dumps(config))

    @classmethod
    def receiving(cls, folder: Path, files: Path, *, downstream: str = "") -> Self:
        """Return one that takes OTLP over mTLS and passes it on in plaintext.

        Args:
            folder: of its configuration.
            files: with `svid.pem`, `svid_key.pem` and `svid_bundle.pem`, read again every second.
            downstream: `host:port` of a plaintext OTLP/gRPC server; none throws away what comes.
        """
        return cls(folder, _tls(files, "client_ca_file", client_ca_file_reload=True), _plain(downstream))

    @classmethod
    def plain(cls, folder: Path, *, downstream: str) -> Self:
        """Return one that takes OTLP in plaintext and passes it on in plaintext."""
        return cls(folder, None, _plain(downstream))

    @classmethod
    def sending(cls, folder: Path, files: Path, *, target: str, http: bool = False) -> Self:
        """Return one that takes OTLP in plaintext and passes it on over mTLS, to a server with the DNS SAN localhost.

        Args:
            folder: of its configuration.
            files: as of `receiving`.
            target: `host:port` of the server.
            http: whether to use OTLP/HTTP.
        """
        tls = _no_queue(**_tls(files, "ca_file", server_name_override="localhost"))
        exporter = {"otlp": {"endpoint": target, **tls}}
        if http:
            exporter = {"otlphttp": {"endpoint": f"https://{target}", **tls}}
        return cls(folder, None, exporter)

    @property
    def grpc_endpoint(self) -> str:
        """Of its gRPC receiver."""
        return f"{'https' if self._secure else 'http'}://127.0.0.1:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        """Of its HTTP receiver, without the signal's path."""
        return f"{'https' if self._secure else 'http'}://127.0.0.1:{self.http_port}"

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> str:
        """The end of what it said."""
        return self._process.log if self._process is not None else ""

    def start(self) -> Self:
        """Start it, and wait until it is ready."""
        for left in range(_STARTS - 1, -1, -1):
            self._process = Process([binary("collector", "collector"), "--config", self._file], name="Collector")
            try:
                self._process.wait_for_line("Everything is ready")
            except TimeoutError as error:
                self._process.stop()
                if not left or not any(word in str(error) for word in _TORN):
                    raise
            else:
                break
        return self

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """Ask it to end; may be called again."""
        if self._process is not None:
            self._process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class Telemetrygen:
    """Runs telemetrygen once."""

    def __init__(self, *words: str) -> None:
        self._process = Process([binary("telemetrygen", "telemetrygen"), *words], name="telemetrygen")

    def wait(self, *, timeout: float = 60.0) -> int:
        """Return its exit code."""
        code = self._process.wait(timeout=timeout)
        self._process.stop()
        return code

    @property
    def log(self) -> str:
        """The end of what it said."""
        return self._process.log


class PlainSink:
    """A plaintext OTLP/gRPC server that keeps every request, decoded."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self._changed = threading.Condition()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 1 << 26)]
        )
        answers = (
            (trace_service_pb2_grpc.add_TraceServiceServicer_to_server, trace_service_pb2.ExportTraceServiceResponse),
            (
                metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
                metrics_service_pb2.ExportMetricsServiceResponse,
            ),
            (logs_service_pb2_grpc.add_LogsServiceServicer_to_server, logs_service_pb2.ExportLogsServiceResponse),
        )
        for add, response in answers:
            add(_Servicer(self._keep, response), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def wait_for(self, spans: int = 0, metrics: int = 0, log_records: int = 0, *, timeout: float = 30.0) -> None:
        """Wait until so much has arrived."""

        def there() -> bool:
            return len(self.spans) >= spans and len(self.metrics) >= metrics and len(self.log_records) >= log_records

        with self._changed:
            if not self._changed.wait_for(there, timeout):
                found = len(self.spans), len(self.metrics), len(self.log_records)
                raise TimeoutError(f"waited for {spans}, {metrics}, {log_records} spans, metrics, records: {found}")

    @property
    def spans(self) -> list[Any]:
        """All that arrived."""
        return self._leaves("resource_spans", "scope_spans", "spans")

    @property
    def metrics(self) -> list[Any]:
        """All that arrived."""
        return self._leaves("resource_metrics", "scope_metrics", "metrics")

    @property
    def log_records(self) -> list[Any]:
        """All that arrived."""
        return self._leaves("resource_logs", "scope_logs", "log_records")

    def clear(self) -> None:
        """Forget what arrived."""
        with self._changed:
            self.requests.clear()

    def close(self) -> None:
        """Listen no more."""
        self._server.stop(None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _keep(self, request: Any) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def _leaves(self, *fields: str) -> list[Any]:
        found: Sequence[Any] = list(self.requests)
        for field in fields:
            found = [each for above in found for each in getattr(above, field, ())]
        return list(found)


class _Servicer:
    def __init__(self, keep: Any, response: Any) -> None:
        self._keep = keep
        self._response = response

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 -- the service's name
        del context
        self._keep(request)
        return self._response()
