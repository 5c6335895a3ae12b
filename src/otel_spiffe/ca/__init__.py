# SPDX-License-Identifier: Apache-2.0
"""Who issues: a small authority in memory, and a SPIFFE Workload API that hands out what it issued.

CertificateAuthority ──► X509Svid, X509Bundle ──► Identity ──► WorkloadApiServer ──► any SPIFFE client on the socket
"""

from __future__ import annotations

from otel_spiffe.ca._authority import CertificateAuthority
from otel_spiffe.ca._certificates import KeyType
from otel_spiffe.ca._workload_api import MAX_STREAMS, WorkloadApiServer

__all__ = ["MAX_STREAMS", "CertificateAuthority", "KeyType", "WorkloadApiServer"]
