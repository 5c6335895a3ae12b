# SPDX-License-Identifier: Apache-2.0
"""Each faulty X509-SVID, presented to go-spiffe and to us, as a server and as a client: who refuses it."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import grpc
import pytest
from peerlib import GoSpiffeError, identity_fields
from peerlib.echo import EchoServer, bare_context, dial

from otel_spiffe.credentials import (
    AuthorizationInterceptor,
    client_context,
    secure_channel,
    server_context,
    server_credentials,
)
from otel_spiffe.errors import InvalidIdentity, OtelSpiffeError, PeerRejected
from otel_spiffe.identity import authorize_any, parse_spiffe_id, verify
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import Fault

pytestmark = [pytest.mark.builds("gospiffe")]
PEER = "go-spiffe"

# Where go-spiffe v2.9.0 accepts what we refuse, the paragraph that decides. Its own check of an X509-SVID is
# svid/x509svid/verify.go: the leaf's cA, keyCertSign and cRLSign, the ID, and the path to the bundle for any purpose.
THEY_ACCEPT = {
    Fault.NO_PATH: "X509-SVID 3.1 and 5.2: a leaf's SPIFFE ID has a path, so refusing is right",
    Fault.ID_TOO_LONG: "SPIFFE-ID 2.3: 2048 bytes must be supported and longer ones must not be made; both may",
    Fault.NO_KEY_USAGE: "X509-SVID 4.3: keyUsage must be set, so refusing is right",
    Fault.KEY_USAGE_NOT_CRITICAL: "X509-SVID 4.3: keyUsage must be critical, so refusing is right",
    Fault.NO_DIGITAL_SIGNATURE: "X509-SVID 4.3: a leaf must set digitalSignature, so refusing is right",
    Fault.SERVER_AUTH_ALONE: "X509-SVID 4.4: where there is an extendedKeyUsage it holds both, so refusing is right",
    Fault.CLIENT_AUTH_ALONE: "X509-SVID 4.4: where there is an extendedKeyUsage it holds both, so refusing is right",
    Fault.OTHER_EXTENDED_KEY_USAGE: "X509-SVID 4.4: where there is an extendedKeyUsage it holds both, so refusing "
    "is right",
    Fault.RSA_1024: "no paragraph of SPIFFE's: ours is the CA/Browser Forum's floor (6.1.5), go-spiffe has none",
    Fault.ED25519: "X509-SVID names no key types: a limit of ours (`cryptography`'s verifier knows none of Ed25519)",
}

# A bare TLS stack does not present these; Go's presents the first, and for the second there is no TLS scheme at all.
PRESENTED_BY_GO = {Fault.KEY_MISMATCH}
WITHOUT_TLS = {Fault.SECP256K1}


@pytest.mark.parametrize("fault", [each for each in Fault if each not in WITHOUT_TLS])
def test_verdicts_in_a_handshake(go_spiffe, spiffe_identity, spiffe_source_of, spiffe_faulty_svid, row, fault):
    """We refuse each as client and as server; go-spiffe does the same, or the standard says who is right."""
    identity = spiffe_identity("/us")
    svid, source, theirs = spiffe_faulty_svid(fault), spiffe_source_of(identity), identity_fields(identity)
    presenter = _Go(go_spiffe, svid) if fault in PRESENTED_BY_GO else _Bare(svid)
    ours = [_we_as_client(presenter, source), _we_as_server(presenter, source)]
    others = [_they_as_client(presenter, go_spiffe, theirs), _they_as_server(presenter, go_spiffe, theirs)]
    assert all(ours), ours
    assert [bool(each) for each in others] == [fault not in THEY_ACCEPT] * 2, others
    row(PEER, f"X509-SVID with fault `{fault}`", _result(fault))


@pytest.mark.parametrize("fault", sorted(WITHOUT_TLS))
def test_verdicts_on_a_chain(go_spiffe, spiffe_identity, spiffe_faulty_svid, row, fault):
    """What no TLS stack here presents is refused by both verifiers all the same."""
    identity, svid = spiffe_identity("/us"), spiffe_faulty_svid(fault)
    with pytest.raises(PeerRejected):
        verify(svid.chain, identity, now=datetime.now(UTC))
    fields = identity_fields(chain=svid.chain, key=svid.private_key, bundles=tuple(identity.bundles.values()))
    with pytest.raises(GoSpiffeError):
        go_spiffe.call("verify", identity=fields)
    row(PEER, f"X509-SVID with fault `{fault}`", _result(fault))


@pytest.fixture(scope="module")
def our_grpc_server(spiffe_ca, spiffe_federated_ca):
    """Our server credentials and our interceptor, which lets in whoever verifies."""
    identity = spiffe_ca.identity("spiffe://test.example/us", federated=[spiffe_federated_ca.bundle])
    with StaticSource(identity) as source:
        interceptor = AuthorizationInterceptor(source, authorize=authorize_any())
        server = grpc.server(ThreadPoolExecutor(2), interceptors=[interceptor])
        handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("interop.Echo", {"Say": handler}),))
        port = server.add_secure_port("127.0.0.1:0", server_credentials(source))
        server.start()
        yield f"127.0.0.1:{port}", identity
        server.stop(None).wait()


@pytest.mark.parametrize("fault", [None, *(each for each in Fault if each not in WITHOUT_TLS)])
def test_verdicts_of_our_grpc_server(go_spiffe, our_grpc_server, spiffe_svid, spiffe_faulty_svid, row, fault):
    """Grpcio's TLS and our interceptor together refuse what our contexts refuse, and let in the faultless one."""
    address, identity = our_grpc_server
    svid = spiffe_faulty_svid(fault) if fault else spiffe_svid("/good")
    fields = identity_fields(chain=svid.chain, key=svid.private_key, bundles=tuple(identity.bundles.values()))
    request = {"identity": fields, "authorize": {"any": True}, "transport": "grpc", "address": address}
    if fault is None:
        assert go_spiffe.call("dial", payload="hello", **request)["answer"] == "hello"
        return
    with pytest.raises(GoSpiffeError):
        go_spiffe.call("dial", **request)
    row(PEER, "gRPC, its client with each faulty X509-SVID to our server credentials and interceptor", "we refuse all")


@pytest.mark.parametrize("fault", [None, *(each for each in Fault if each not in WITHOUT_TLS)])
def test_verdicts_of_our_channel(
    go_spiffe, our_grpc_server, spiffe_source_of, spiffe_svid, spiffe_faulty_svid, row, fault
):
    _, identity = our_grpc_server
    svid = spiffe_faulty_svid(fault) if fault else spiffe_svid("/good")
    fields = identity_fields(chain=svid.chain, key=svid.private_key, bundles=tuple(identity.bundles.values()))
    with (
        go_spiffe.serve(identity=fields, authorize={"any": True}, transport="grpc") as server,
        secure_channel(server.address, spiffe_source_of(identity), authorize=authorize_any(), proxy=None) as channel,
    ):
        say = channel.unary_unary("/interop.Echo/Say")
        if fault is None:
            assert say(b"hello", timeout=30) == b"spiffe://test.example/us hello"
            return
        with pytest.raises(grpc.RpcError) as refused:
            say(b"hello", timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "is not trusted: " in refused.value.details() or fault is Fault.KEY_MISMATCH, refused.value.details()
    row(
        PEER,
        "gRPC, its server with each faulty X509-SVID to our secure_channel: the status says which",
        "we refuse all",
    )


IDS = [
    "spiffe://test.example",
    "spiffe://test.example/a",
    "spiffe://test.example/a/b.c-d_e/F",
    "spiffe://test.example/...",
    "spiffe://1.2.3.4/a",
    "spiffe://a_b/c",
    "",
    "test.example/a",
    "https://test.example/a",
    "spiffe:/test.example/a",
    "spiffe://",
    "spiffe:///a",
    "spiffe://test.example/",
    "spiffe://test.example//a",
    "spiffe://test.example/a/",
    "spiffe://test.example/./a",
    "spiffe://test.example/a/..",
    "spiffe://test.example/a b",
    "spiffe://test.example/%41",
    "spiffe://test.example/a?b=c",
    "spiffe://test.example/a#b",
    "spiffe://test.example:80/a",
    "spiffe://user@test.example/a",
    "spiffe://tést.example/a",
    "spiffe://test.example/ä",
    "spiffe://test.example/a\n",
    " spiffe://test.example/a",
    "spiffe://test.example/a\x00",
    "spiffe://[::1]/a",
]
# SPIFFE-ID 2.4: scheme and trust domain compare without regard to case, so these name what their lowercase names.
ONLY_WE_TAKE = {
    "SPIFFE://test.example/a": "spiffe://test.example/a",
    "spiffe://Test.Example/a": "spiffe://test.example/a",
}


@pytest.mark.peer(PEER, "SPIFFE IDs, 29 good and bad ones")
@pytest.mark.parametrize("text", IDS)
def test_spiffe_ids_are_judged_alike(go_spiffe, text):
    try:
        ours = str(parse_spiffe_id(text))
    except InvalidIdentity:
        ours = None
    try:
        theirs = go_spiffe.call("parse_id", payload=text)["id"]
    except GoSpiffeError:
        theirs = None
    assert ours == theirs


@pytest.mark.parametrize(("text", "canonical"), ONLY_WE_TAKE.items())
def test_spiffe_ids_in_uppercase_are_taken_by_us_alone(go_spiffe, row, text, canonical):
    assert str(parse_spiffe_id(text)) == canonical
    with pytest.raises(GoSpiffeError):
        go_spiffe.call("parse_id", payload=text)
    result = "we lowercase it, it refuses: SPIFFE-ID 2.4 compares both without regard to case; both may"
    row(PEER, "SPIFFE ID whose scheme or trust domain has uppercase letters", result)


def _result(fault):
    return f"we refuse, it accepts: {THEY_ACCEPT[fault]}" if fault in THEY_ACCEPT else "both refuse"


class _Bare:
    """Presents an X509-SVID with the standard library's TLS."""

    def __init__(self, svid):
        self._svid = svid

    def server(self):
        return EchoServer(bare_context(self._svid, server_side=True))

    def dial(self, address):
        with contextlib.suppress(OSError):
            dial(bare_context(self._svid, server_side=False), address)


class _Go:
    """Presents an X509-SVID with Go's TLS."""

    def __init__(self, go, svid):
        self._go = go
        self._fields = identity_fields(chain=svid.chain, key=svid.private_key)

    def server(self):
        return self._go.serve(identity=self._fields, authorize={"any": True})

    def dial(self, address):
        with contextlib.suppress(GoSpiffeError):
            self._go.call("dial", identity=self._fields, authorize={"any": True}, address=address)


def _we_as_client(presenter, source):
    with presenter.server() as server:
        try:
            dial(client_context(source, authorize=authorize_any()), server.address)
        except OtelSpiffeError as refusal:
            return str(refusal)
        except OSError as refusal:
            return str(refusal)
    return ""


def _we_as_server(presenter, source):
    with EchoServer(server_context(source, authorize=authorize_any())) as server:
        presenter.dial(server.address)
        outcome = server.outcome()
    return str(outcome) if isinstance(outcome, Exception) else ""


def _they_as_client(presenter, go, theirs):
    with presenter.server() as server:
        try:
            go.call("dial", identity=theirs, authorize={"any": True}, address=server.address)
        except GoSpiffeError as refusal:
            return str(refusal)
    return ""


def _they_as_server(presenter, go, theirs):
    with go.serve(identity=theirs, authorize={"any": True}) as server:
        presenter.dial(server.address)
        return server.handshake().get("error", "")
