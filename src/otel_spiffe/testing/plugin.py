# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin, loaded by its entry point: fixtures alone, none of them automatic.

Nothing of gRPC, cryptography or OpenTelemetry is imported until a test asks for a fixture.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from otel_spiffe.ca import CertificateAuthority
    from otel_spiffe.identity import Authorizer, Identity, Source, X509Svid
    from otel_spiffe.testing._faults import Fault
    from otel_spiffe.testing._sink import OtlpSink
    from otel_spiffe.testing._workload_api import FaultyWorkloadApi

__all__ = [
    "otlp_sink",
    "otlp_sink_authorize",
    "spiffe_ca",
    "spiffe_environment",
    "spiffe_faulty_svid",
    "spiffe_federated_ca",
    "spiffe_federated_trust_domain",
    "spiffe_id",
    "spiffe_identity",
    "spiffe_own_ca",
    "spiffe_source",
    "spiffe_source_of",
    "spiffe_svid",
    "spiffe_trust_domain",
    "spiffe_workload_api",
]

_FIRST_IDENTITY_SECONDS = 30.0


class IssueSvid(Protocol):
    """What `spiffe_svid` is."""

    def __call__(self, id: str = "/app", *, lifetime: timedelta | None = None, hint: str = "") -> X509Svid:  # noqa: A002 -- the standard's word
        """Issue an X509-SVID; a path alone is completed with the trust domain."""
        ...


class IssueIdentity(Protocol):
    """What `spiffe_identity` is."""

    def __call__(self, *ids: str, lifetime: timedelta | None = None) -> Identity:
        """Return an identity with an X509-SVID for each ID or path, and the bundles of both authorities."""
        ...


class IssueFaultySvid(Protocol):
    """What `spiffe_faulty_svid` is."""

    def __call__(self, fault: Fault | str, id: str = "/faulty") -> X509Svid:  # noqa: A002 -- the standard's word
        """Issue an X509-SVID with one fault."""
        ...


class MakeSource(Protocol):
    """What `spiffe_source_of` is."""

    def __call__(self, what: str | X509Svid | Identity = "/app") -> Source:
        """Return a source of a new identity with this ID or path, of this X509-SVID, or of this identity."""
        ...


@pytest.fixture(scope="session")
def spiffe_trust_domain() -> str:
    """The trust domain of the other fixtures; override it to have another."""
    return "test.example"


@pytest.fixture(scope="session")
def spiffe_federated_trust_domain() -> str:
    """The trust domain of `spiffe_federated_ca`; override it to have another."""
    return "federated.example"


@pytest.fixture(scope="session")
def spiffe_ca(spiffe_trust_domain: str) -> CertificateAuthority:
    """The authority of `spiffe_trust_domain`, for the whole session: do not rotate or revoke with this one."""
    from otel_spiffe.ca import CertificateAuthority  # noqa: PLC0415 -- see above

    return CertificateAuthority.in_memory(spiffe_trust_domain)


@pytest.fixture
def spiffe_own_ca(spiffe_trust_domain: str) -> CertificateAuthority:
    """An authority of `spiffe_trust_domain` for one test, to rotate, withdraw and revoke with."""
    from otel_spiffe.ca import CertificateAuthority  # noqa: PLC0415 -- see above

    return CertificateAuthority.in_memory(spiffe_trust_domain)


@pytest.fixture(scope="session")
def spiffe_federated_ca(spiffe_federated_trust_domain: str) -> CertificateAuthority:
    """The authority of another trust domain, whose bundle `spiffe_identity` holds as well."""
    from otel_spiffe.ca import CertificateAuthority  # noqa: PLC0415 -- see above

    return CertificateAuthority.in_memory(spiffe_federated_trust_domain)


@pytest.fixture
def spiffe_id(spiffe_trust_domain: str) -> str:
    """The SPIFFE ID that `spiffe_workload_api` serves and `spiffe_source` has; override it to have another."""
    return f"spiffe://{spiffe_trust_domain}/app"


@pytest.fixture
def spiffe_svid(spiffe_ca: CertificateAuthority) -> IssueSvid:
    """Issue X509-SVIDs: ``spiffe_svid("/db", lifetime=timedelta(minutes=1))``."""
    from datetime import timedelta  # noqa: PLC0415 -- see above

    def issue(id: str = "/app", *, lifetime: timedelta | None = None, hint: str = "") -> X509Svid:  # noqa: A002
        lifetime = timedelta(hours=1) if lifetime is None else lifetime
        return spiffe_ca.issue(_completed(id, spiffe_ca), lifetime=lifetime, hint=hint)

    return issue


@pytest.fixture
def spiffe_identity(spiffe_ca: CertificateAuthority, spiffe_federated_ca: CertificateAuthority) -> IssueIdentity:
    """Issue identities: ``spiffe_identity("/app", "/db")``."""
    from datetime import timedelta  # noqa: PLC0415 -- see above

    def issue(*ids: str, lifetime: timedelta | None = None) -> Identity:
        return spiffe_ca.identity(
            *(_completed(each, spiffe_ca) for each in ids),
            lifetime=timedelta(hours=1) if lifetime is None else lifetime,
            federated=[spiffe_federated_ca.bundle],
        )

    return issue


@pytest.fixture
def spiffe_faulty_svid(spiffe_ca: CertificateAuthority, spiffe_federated_ca: CertificateAuthority) -> IssueFaultySvid:
    """Issue X509-SVIDs that must be refused: ``spiffe_faulty_svid("two_uri_sans")``."""
    from otel_spiffe.testing._faults import faulty_svid  # noqa: PLC0415 -- see above

    def issue(fault: Fault | str, id: str = "/faulty") -> X509Svid:  # noqa: A002
        return faulty_svid(spiffe_ca, fault, id=_completed(id, spiffe_ca), forger=spiffe_federated_ca)

    return issue


@pytest.fixture
def spiffe_workload_api(spiffe_id: str, spiffe_identity: IssueIdentity) -> Iterator[FaultyWorkloadApi]:
    """A Workload API on a Unix socket that serves `spiffe_id` and misbehaves on order."""
    from otel_spiffe.testing._workload_api import FaultyWorkloadApi  # noqa: PLC0415 -- see above

    with FaultyWorkloadApi.open(identity=spiffe_identity(spiffe_id)) as server:
        yield server


@pytest.fixture
def spiffe_environment(spiffe_workload_api: FaultyWorkloadApi, monkeypatch: pytest.MonkeyPatch) -> str:
    """`SPIFFE_ENDPOINT_SOCKET` set to the address of `spiffe_workload_api`, which is returned."""
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", spiffe_workload_api.endpoint)
    return spiffe_workload_api.endpoint


@pytest.fixture
def spiffe_source(spiffe_workload_api: FaultyWorkloadApi) -> Iterator[Source]:
    """A `WorkloadApiSource` of `spiffe_workload_api` that has its first identity."""
    from otel_spiffe.sources import WorkloadApiSource  # noqa: PLC0415 -- see above

    with WorkloadApiSource.open(spiffe_workload_api.endpoint) as source:
        source.wait(_FIRST_IDENTITY_SECONDS)
        yield source


@pytest.fixture
def spiffe_source_of(spiffe_identity: IssueIdentity) -> Iterator[MakeSource]:
    """Make sources that never change: ``spiffe_source_of("/collector")``; closed at the end of the test."""
    from otel_spiffe.identity import Identity, X509Svid  # noqa: PLC0415 -- see above
    from otel_spiffe.sources import StaticSource  # noqa: PLC0415 -- see above

    with ExitStack() as closed:

        def make(what: str | X509Svid | Identity = "/app") -> Source:
            if isinstance(what, str):
                what = spiffe_identity(what)
            elif isinstance(what, X509Svid):
                what = Identity(chosen=what, svids=(what,), bundles=spiffe_identity().bundles)
            return closed.enter_context(StaticSource(what))

        yield make


@pytest.fixture
def otlp_sink_authorize(spiffe_trust_domain: str) -> Authorizer:
    """Who may send to `otlp_sink`: the members of `spiffe_trust_domain`; override it to have others."""
    from otel_spiffe.identity import authorize_member_of  # noqa: PLC0415 -- see above

    return authorize_member_of(spiffe_trust_domain)


@pytest.fixture
def otlp_sink(spiffe_source_of: MakeSource, otlp_sink_authorize: Authorizer) -> Iterator[OtlpSink]:
    """An OTLP receiver at ``spiffe://<trust domain>/collector``, gRPC and HTTP, that records what comes."""
    from otel_spiffe.testing._sink import OtlpSink  # noqa: PLC0415 -- see above

    with OtlpSink.open(spiffe_source_of("/collector"), authorize=otlp_sink_authorize) as sink:
        yield sink


def _completed(id: str, authority: CertificateAuthority) -> str:  # noqa: A002 -- the standard's word
    return f"spiffe://{authority.trust_domain}{id}" if id.startswith("/") else id
