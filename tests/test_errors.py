# SPDX-License-Identifier: Apache-2.0
import copy
import pickle
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from otel_spiffe.errors import (
    IdentityExpired,
    InvalidConfiguration,
    InvalidIdentity,
    OtelSpiffeError,
    PeerNotAuthorized,
    PeerRejected,
    PeerUnreachable,
    PeerUntrusted,
    RefusedByPeer,
    SourceUnavailable,
    Untrusted,
)
from otel_spiffe.identity import parse_spiffe_id

PEER = parse_spiffe_id("spiffe://prod.example/db")
LOCAL = parse_spiffe_id("spiffe://prod.example/app")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

ROWS = [
    (OtelSpiffeError("all is lost"), (Exception,), "all is lost"),
    (
        InvalidConfiguration("authorize", "it is missing", fix="name somebody"),
        (ValueError,),
        "authorize: it is missing; name somebody",
    ),
    (InvalidConfiguration("authorize", "it is missing"), (ValueError,), "authorize: it is missing"),
    (
        InvalidIdentity("bundle of a.b", "it is broken", fix="mend it"),
        (ValueError,),
        "bundle of a.b: it is broken; mend it",
    ),
    (InvalidIdentity("bundle of a.b", "it is broken"), (ValueError,), "bundle of a.b: it is broken"),
    (
        SourceUnavailable("Workload API at unix:/a", "no agent", fix="start it"),
        (ConnectionError, OSError),
        "Workload API at unix:/a: no agent; start it",
    ),
    (SourceUnavailable("files", "none came"), (ConnectionError,), "files: none came"),
    (
        IdentityExpired("files", id=PEER, expired_at=NOON, now=NOON + timedelta(seconds=7.9), cause="no agent"),
        (SourceUnavailable, ConnectionError),
        (
            "files: the X509-SVID of spiffe://prod.example/db expired 7 s ago, at 2026-03-01T12:00:00Z, "
            "and no newer one "
            "came (no agent); see that the SPIFFE agent or the files are renewed, "
            "and that this machine's clock is right"
        ),
    ),
    (
        IdentityExpired("files", id=PEER, expired_at=NOON, now=NOON),
        (SourceUnavailable,),
        (
            "files: the X509-SVID of spiffe://prod.example/db expired 0 s ago, at 2026-03-01T12:00:00Z, "
            "and no newer one "
            "came; see that the SPIFFE agent or the files are renewed, "
            "and that this machine's clock is right"
        ),
    ),
    (
        PeerUntrusted(Untrusted.EXPIRED, "it expired", peer=PEER, local=LOCAL),
        (PeerRejected, ssl.SSLCertVerificationError, ssl.SSLError, OSError, ValueError),
        (
            f"peer {PEER} is not trusted: it expired (we are {LOCAL}); "
            "see that its SPIFFE agent renews it, and that the clocks of both ends agree"
        ),
    ),
    (
        PeerUntrusted(Untrusted.NO_URI_SAN, "it has no URI SAN", peer=None, subject="CN=x\n"),
        (PeerRejected,),
        (
            "peer certificate 'CN=x\\n' is not trusted: it has no URI SAN; "
            "have it present an X509-SVID of its SPIFFE agent, not another certificate"
        ),
    ),
    (
        PeerUntrusted(Untrusted.NO_CERTIFICATE, "it sent no certificate", peer=None),
        (PeerRejected,),
        "peer is not trusted: it sent no certificate; have the peer speak mutual TLS with an X509-SVID",
    ),
    (
        PeerNotAuthorized(PEER, "any()", detail="it is Sunday", local=LOCAL),
        (PeerRejected, ssl.SSLCertVerificationError),
        (
            f"peer {PEER} is not in any(): it is Sunday (we are {LOCAL}); "
            "if it is the peer that is meant, authorize its ID"
        ),
    ),
    (
        PeerNotAuthorized(PEER, "any()"),
        (PeerRejected,),
        f"peer {PEER} is not in any(); if it is the peer that is meant, authorize its ID",
    ),
    (
        PeerUntrusted(Untrusted.NO_BUNDLE, "we have no bundle: federate with it", peer=PEER),
        (PeerRejected,),
        f"peer {PEER} is not trusted: we have no bundle: federate with it",
    ),
    (
        RefusedByPeer("unknown_ca", peer=PEER, local=LOCAL, fix="federate"),
        (ssl.SSLError, OSError),
        f"{PEER} refused {LOCAL}: unknown_ca; federate",
    ),
    (
        RefusedByPeer("", peer=None, local=None),
        (ssl.SSLError,),
        "the peer refused us, who presented no X509-SVID: it closed the connection",
    ),
    (
        PeerUnreachable("db:443", "refused", local=LOCAL, fix="start it"),
        (ConnectionError, OSError),
        f"cannot reach db:443 from {LOCAL}: refused; start it",
    ),
    (
        PeerUnreachable("db:443", "refused"),
        (ConnectionError,),
        "cannot reach db:443: refused; see that it runs and listens there",
    ),
]


@pytest.mark.parametrize(("error", "families", "message"), ROWS, ids=lambda each: type(each).__name__)
def test_the_message_is_made_from_the_fields_and_the_families_are_those_of_the_standard_library(
    error, families, message
):
    assert str(error) == error.message == message
    assert repr(error) == f"{type(error).__name__}({message!r})"
    assert isinstance(error, OtelSpiffeError)
    for family in families:
        assert isinstance(error, family)


@pytest.mark.parametrize("error", [row[0] for row in ROWS], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, *(lambda e, p=p: pickle.loads(pickle.dumps(e, p)) for p in (0, 2, 5))],  # noqa: S301 -- our own bytes
    ids=["copy", "deepcopy", "pickle 0", "pickle 2", "pickle 5"],
)
def test_an_error_survives_copying_and_process_pools_with_its_fields(error, copied):
    error.add_note("a note")
    twin = copied(error)
    assert type(twin) is type(error)
    assert twin is not error
    assert (str(twin), repr(twin), twin.args) == (str(error), repr(error), error.args)
    assert vars(twin) == vars(error)
    del error.__notes__


def test_peer_errors_carry_what_openssls_own_carry():
    error = PeerUntrusted(Untrusted.EXPIRED, "it expired", peer=PEER)
    assert (error.library, error.reason, error.verify_code) == ("SPIFFE", "CERTIFICATE_VERIFY_FAILED", 0)
    assert error.verify_message == f"peer {PEER} is not trusted: it expired"
    refused = RefusedByPeer("unknown_ca", peer=PEER, local=None)
    assert (refused.library, refused.reason) == ("SPIFFE", "UNKNOWN_CA")


# How these are mended depends on the case, and their details say it: see the tests of `identity.verify`.
IN_THE_DETAIL = {
    Untrusted.NO_BUNDLE,
    Untrusted.NOT_YET_VALID,
    Untrusted.INCOMPLETE_CHAIN,
    Untrusted.UNKNOWN_AUTHORITY,
    Untrusted.REVOCATION_UNKNOWN,
}


@pytest.mark.parametrize("why", Untrusted)
def test_every_reason_has_something_that_mends_it(why):
    error = PeerUntrusted(why, "so it is", peer=PEER)
    assert bool(error.fix) is (why not in IN_THE_DETAIL)
    assert str(error).endswith(f"; {error.fix}" if error.fix else "so it is")


def test_reasons_are_stable_words_for_metrics():
    assert {each.value for each in Untrusted} == {each.name.lower() for each in Untrusted}
    assert f"{Untrusted.UNKNOWN_AUTHORITY}" == "unknown_authority"
