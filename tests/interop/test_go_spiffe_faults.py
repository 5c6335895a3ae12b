# SPDX-License-Identifier: Apache-2.0
"""Each X509-SVID that we refuse, presented to go-spiffe and to us, as a server and as a client: who refuses it, why."""

from __future__ import annotations

import contextlib
import re
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import grpc
import pytest
from peerlib import GoSpiffeError, identity_fields
from peerlib.cases import CASES, make_case
from peerlib.echo import EchoServer, bare_context, dial

from otel_spiffe.credentials import (
    AuthorizationInterceptor,
    client_context,
    peer_id,
    secure_channel,
    server_context,
    server_credentials,
)
from otel_spiffe.errors import InvalidIdentity, PeerRejected, PeerUntrusted, Untrusted
from otel_spiffe.identity import MAX_CHAIN_CERTIFICATES, authorize_any, parse_spiffe_id, verify
from otel_spiffe.testing import Fault

pytestmark = [pytest.mark.builds("gospiffe")]
PEER = "go-spiffe"
ANYBODY = {"any": True}

# What each is in docs/compatibility.md, where it is more than an X509-SVID with a fault.
WHAT = {
    "no_bundle": "X509-SVID of a trust domain whose bundle the verifier lacks",
    "empty_bundle": "X509-SVID of a trust domain whose bundle is empty",
    "revoked": "X509-SVID in the revocation list of its authority",
    "revocation_unknown": "X509-SVID of an authority whose revocation list has expired",
    "unreadable": "X509-SVID whose subjectAltName is no ASN.1",
    "gap_in_chain": "chain of a leaf and the upper of its two intermediates",
    "chain_too_long": f"chain of {MAX_CHAIN_CERTIFICATES + 1} certificates",
    "uri_name_constraints": "intermediate with URI name constraints that permit the leaf",
    "uri_name_constraints_broken": "intermediate with URI name constraints that forbid the leaf",
}

# Where go-spiffe v2.9.0 accepts what we refuse, the paragraph that decides. Its own check of an X509-SVID is
# svid/x509svid/verify.go: the leaf's cA, keyCertSign and cRLSign, the ID, and the path to the bundle for any purpose.
_BOTH_PURPOSES = "X509-SVID 4.4: where there is an extendedKeyUsage it holds both, so refusing is right"
_LISTS = (
    "it reads no revocation lists; Workload API 5.2.1 delivers them without a word on their use, and X509-SVID 5.1 "
    "asks for the validation of RFC 5280 (6.1.3 a 3, 6.3)"
)
THEY_ACCEPT = {
    Fault.NO_PATH: "X509-SVID 3.1 and 5.2: a leaf's SPIFFE ID has a path, so refusing is right",
    Fault.ID_TOO_LONG: "SPIFFE-ID 2.3: 2048 bytes must be supported and longer ones must not be made; both may",
    Fault.NO_KEY_USAGE: "X509-SVID 4.3: keyUsage must be set, so refusing is right",
    Fault.KEY_USAGE_NOT_CRITICAL: "X509-SVID 4.3: keyUsage must be critical, so refusing is right",
    Fault.NO_DIGITAL_SIGNATURE: "X509-SVID 4.3: a leaf must set digitalSignature, so refusing is right",
    Fault.SERVER_AUTH_ALONE: _BOTH_PURPOSES,
    Fault.CLIENT_AUTH_ALONE: _BOTH_PURPOSES,
    Fault.OTHER_EXTENDED_KEY_USAGE: _BOTH_PURPOSES,
    Fault.RSA_1024: "no paragraph of SPIFFE's: ours is the CA/Browser Forum's floor (6.1.5), go-spiffe has none",
    Fault.ED25519: "X509-SVID names no key types: a limit of ours (`cryptography`'s verifier knows none of Ed25519)",
    "revoked": f"{_LISTS}, so refusing is right",
    "revocation_unknown": f"{_LISTS}: undetermined, so refusing is right",
    "chain_too_long": "no paragraph limits a chain: a limit of ours (`MAX_CHAIN_CERTIFICATES`); both may",
    "uri_name_constraints": "X509-SVID 4.2 allows them: a limit of ours (`cryptography` does not apply them to URIs)",
}

# Its words, as a pattern, where it refuses as well.
_ID = r"^x509svid: could not get leaf SPIFFE ID: "
_PATH = r"^x509svid: could not verify leaf certificate: x509: "
_UNPARSED = r"^tls: failed to parse (client certificate|certificate from server): x509: "
_DATES = rf"{_PATH}certificate has expired or is not yet valid: current time \S+ is "
_UNKNOWN = rf"{_PATH}certificate signed by unknown authority"
THEIR_WORDS = {
    Fault.EXPIRED: f"{_DATES}after",
    Fault.EXPIRED_INTERMEDIATE: f"{_DATES}after",
    Fault.NOT_YET_VALID: f"{_DATES}before",
    Fault.NO_SAN: f"{_ID}certificate contains no URI SAN$",
    Fault.DNS_ALONE: f"{_ID}certificate contains no URI SAN$",
    Fault.TWO_URI_SANS: f"{_ID}certificate contains more than one URI SAN$",
    Fault.ID_OTHER_SCHEME: f"{_ID}scheme is missing or invalid$",
    Fault.ID_WITH_QUERY: f"{_ID}path segment characters are limited to",
    Fault.ID_WITH_FRAGMENT: f"{_ID}path segment characters are limited to",
    Fault.ID_PERCENT_ENCODED: f"{_ID}path segment characters are limited to",
    Fault.ID_WITH_PORT: f"{_ID}trust domain characters are limited to",
    Fault.ID_WITH_USER: f"{_ID}trust domain characters are limited to",
    Fault.ID_TRAILING_NEWLINE: rf"{_UNPARSED}cannot parse URI .*invalid control character",
    Fault.ID_TRAILING_SLASH: f"{_ID}path cannot have a trailing slash$",
    Fault.ID_EMPTY_SEGMENT: f"{_ID}path cannot contain empty segments$",
    Fault.ID_DOT_SEGMENT: f"{_ID}path cannot contain dot segments$",
    Fault.CA_AS_LEAF: "^x509svid: leaf certificate with CA flag set to true$",
    Fault.WITH_CERT_SIGN: "^x509svid: leaf certificate with KeyCertSign key usage$",
    Fault.WITH_CRL_SIGN: "^x509svid: leaf certificate with KeyCrlSign key usage$",
    Fault.UNKNOWN_CRITICAL_EXTENSION: f"{_PATH}unhandled critical extension$",
    Fault.SECP256K1: r"^x509svid: unable to parse certificate: x509: unsupported elliptic curve$",
    Fault.KEY_MISMATCH: "^tls: invalid signature by the (server|client) certificate: ECDSA verification failure$",
    Fault.FOREIGN_AUTHORITY: f"{_UNKNOWN}$",
    Fault.SELF_SIGNED: f"{_UNKNOWN}$",
    Fault.FORGED_BY_FEDERATED: f"{_UNKNOWN}$",
    Fault.MISSING_INTERMEDIATE: f"{_UNKNOWN}$",
    Fault.WRONG_SIGNATURE: rf"{_UNKNOWN} \(possibly because of .x509: ECDSA verification failure",
    Fault.ISSUED_BY_LEAF: rf"{_UNKNOWN} \(possibly because of .*parent certificate cannot sign this kind",
    "no_bundle": r"^x509svid: could not get X509 bundle: .*no X.509 bundle for trust domain .federated\.example.$",
    "empty_bundle": f"{_UNKNOWN}$",
    "gap_in_chain": f"{_UNKNOWN}$",
    "unreadable": f"{_UNPARSED}invalid subject alternative names$",
    "uri_name_constraints_broken": rf"{_PATH}.* is not permitted by any constraint$",
}

WITHOUT_TLS = {Fault.SECP256K1}  # no TLS scheme is for it
ONLY_GO_PRESENTS = {Fault.KEY_MISMATCH, "unreadable"}  # OpenSSL loads neither
IN_TLS = [name for name in CASES if name not in WITHOUT_TLS]
PRESENTED = [("go", name) for name in IN_TLS]
PRESENTED += [("openssl", name) for name in IN_TLS if name not in ONLY_GO_PRESENTS]

# What grpcio's own TLS refuses of a client, before our interceptor sees it: the client reads the end of the connection
# and no reason. `ed25519` the client withholds, for that TLS asks for no such key.
REFUSED_BY_GRPCIO = {
    Fault.EXPIRED,
    Fault.NOT_YET_VALID,
    Fault.NO_DIGITAL_SIGNATURE,
    Fault.SERVER_AUTH_ALONE,
    Fault.OTHER_EXTENDED_KEY_USAGE,
    Fault.UNKNOWN_CRITICAL_EXTENSION,
    Fault.ED25519,
    Fault.KEY_MISMATCH,
    Fault.FOREIGN_AUTHORITY,
    Fault.SELF_SIGNED,
    Fault.WRONG_SIGNATURE,
    Fault.ISSUED_BY_LEAF,
    Fault.MISSING_INTERMEDIATE,
    Fault.EXPIRED_INTERMEDIATE,
    "no_bundle",
    "empty_bundle",
    "unreadable",
    "gap_in_chain",
    "uri_name_constraints_broken",
}


@pytest.mark.parametrize(("program", "name"), PRESENTED)
def test_verdicts_in_a_handshake(go_spiffe, spiffe_source_of, row, program, name):
    """We refuse each as client and as server for the reason that `verify` gives, and let its holder in once it has a
    good one; go-spiffe refuses with the words for that fault, or the standard says who is right."""
    case = make_case(name)
    source, theirs = spiffe_source_of(case.identity), identity_fields(case.identity)
    bad, good = ((_Go(go_spiffe, each, case) if program == "go" else _Bare(each)) for each in (case.svid, case.good))

    context = client_context(source, authorize=authorize_any())
    with bad.server() as server, pytest.raises(OSError) as refused:  # noqa: PT011 -- the next line says which
        dial(context, server.address)
    _assert_refusal(refused.value, name, case)
    with good.server() as server:
        assert dial(context, server.address)[0] == case.good.id

    with EchoServer(server_context(source, authorize=authorize_any())) as server:
        bad.dial(server.address)
        _assert_refusal(server.outcome(), name, case)
        good.dial(server.address)
        assert server.outcome() == case.good.id

    _assert_their_verdict(name, _they_as_client(bad, go_spiffe, theirs))
    _assert_their_verdict(name, _they_as_server(bad, go_spiffe, theirs))
    row(PEER, _what(name), _result(name, case))


@pytest.mark.parametrize("name", sorted(WITHOUT_TLS))
def test_verdicts_on_a_chain(go_spiffe, row, name):
    """What no TLS stack here presents is refused by both verifiers all the same."""
    case = make_case(name)
    bundles = tuple(case.identity.bundles.values())
    fields = identity_fields(chain=case.svid.chain, key=case.svid.private_key, bundles=bundles)
    with pytest.raises(GoSpiffeError, match=THEIR_WORDS[name]):
        go_spiffe.call("verify", identity=fields)
    row(PEER, _what(name), _result(name, case))


def test_each_of_our_reasons_is_tried(row):
    """No reason is without a case; who presents no certificate at all is in test_go_spiffe.py."""
    reasons = {expected.why for name in CASES if (expected := _refusal(make_case(name))) is not None}
    assert reasons == set(Untrusted) - {Untrusted.NO_CERTIFICATE}
    row(PEER, f"each of our {len(Untrusted)} reasons to distrust an X509-SVID (`Untrusted`), both ways", "in the rows")


@pytest.mark.parametrize("name", IN_TLS)
def test_verdicts_of_our_grpc_server(go_spiffe, spiffe_source_of, row, name):
    """Grpcio's TLS and our interceptor together refuse what our contexts refuse, and then let in the faultless one."""
    case = make_case(name)
    with _our_grpc_server(spiffe_source_of(case.identity)) as (address, called):
        request = {"authorize": ANYBODY, "transport": "grpc", "address": address, "payload": "hello"}
        with pytest.raises(GoSpiffeError) as refused:
            go_spiffe.call("dial", identity=_presented(case.svid, case), **request)
        if name in REFUSED_BY_GRPCIO:
            assert str(refused.value).startswith("rpc error: code = Unavailable desc = ")
        else:
            assert str(refused.value).startswith("rpc error: code = Unauthenticated desc = ")
            assert _sentence(_refusal(case)) in _timeless(str(refused.value))
        assert not called
        answer = go_spiffe.call("dial", identity=_presented(case.good, case), **request)
        assert answer["answer"] == f"{case.good.id} hello"
    what = (
        "gRPC, its client with each faulty X509-SVID, then with a good one, to our server credentials and interceptor"
    )
    row(PEER, what, "we refuse all but the good ones")


@pytest.mark.parametrize("name", IN_TLS)
def test_verdicts_of_our_channel(go_spiffe, spiffe_source_of, row, name):
    """The status says the reason that `verify` gives."""
    case = make_case(name)
    with (
        go_spiffe.serve(identity=_presented(case.svid, case), authorize=ANYBODY, transport="grpc") as server,
        _our_channel(server.address, spiffe_source_of(case.identity)) as say,
        pytest.raises(grpc.RpcError) as refused,
    ):
        say(b"hello", timeout=30)
    _assert_status(refused.value, case)
    row(
        PEER,
        "gRPC, its server with each faulty X509-SVID to our secure_channel: the status says which",
        "we refuse all",
    )


# After a refusal a channel waits a second, so not all of them.
RECOVER = [Fault.EXPIRED, Fault.NOT_YET_VALID, Fault.NO_SAN, Fault.TWO_URI_SANS, Fault.FOREIGN_AUTHORITY]
RECOVER += [Fault.KEY_MISMATCH, "no_bundle", "revoked", "unreadable", "chain_too_long"]


@pytest.mark.parametrize("name", RECOVER)
def test_our_channel_finds_its_server_again(go_spiffe, spiffe_source_of, row, eventually, name):
    """Refused for its X509-SVID, the server starts again on its port with a good one: the same channel uses it."""
    case = make_case(name)
    serve = {"authorize": ANYBODY, "transport": "grpc"}

    def answer():
        try:
            return say(b"hello", timeout=30)
        except grpc.RpcError:
            return None

    with contextlib.ExitStack() as after:
        with go_spiffe.serve(identity=_presented(case.svid, case), **serve) as server:
            say = after.enter_context(_our_channel(server.address, spiffe_source_of(case.identity)))
            with pytest.raises(grpc.RpcError) as refused:
                say(b"hello", timeout=30)
        _assert_status(refused.value, case)
        with go_spiffe.serve(identity=_presented(case.good, case), address=server.address, **serve):
            assert eventually(answer) == f"{case.identity.id} hello".encode()
    row(PEER, "gRPC, its server with a faulty X509-SVID and then with a good one, to one secure_channel", "agree")


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


def _what(name):
    return WHAT.get(name, f"X509-SVID with fault `{name}`")


def _result(name, case):
    expected = _refusal(case)
    reason = f"`{expected.why}`" if expected is not None else "a wrong signature in the handshake"
    if name in THEY_ACCEPT:
        return f"we refuse ({reason}), it accepts: {THEY_ACCEPT[name]}"
    return f"both refuse, we for {reason}"


def _refusal(case):
    """Return the error of `verify`, or None where the chain is good and the fault is the key's."""
    try:
        verify(case.svid.chain, case.identity, now=datetime.now(UTC))
    except PeerUntrusted as error:
        return error
    return None


def _sentence(error):
    # Without its end, where it says how to mend it.
    who = f"peer {error.peer}" if error.peer is not None else f"peer certificate {error.subject!r}"
    return _timeless(f"{who} is not trusted: {error.detail}")


def _timeless(text):
    return re.sub(r"\b\d+ s\b", "N s", text)


def _assert_refusal(error, name, case):
    expected = _refusal(case)
    if expected is None:
        assert name == Fault.KEY_MISMATCH
        assert isinstance(error, ssl.SSLError)
        assert not isinstance(error, PeerRejected)
        assert "BAD_SIGNATURE" in str(error)
        return
    assert type(error) is PeerUntrusted
    assert (error.why, error.peer, error.local) == (expected.why, expected.peer, case.identity.id)
    assert _sentence(error) == _sentence(expected)


def _assert_status(error, case):
    expected = _refusal(case)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    words = _sentence(expected) if expected is not None else "BAD_SIGNATURE"
    assert words in _timeless(error.details())


def _assert_their_verdict(name, words):
    if name in THEY_ACCEPT:
        assert not words
    else:
        assert re.search(THEIR_WORDS[name], words), words


def _presented(svid, case):
    return identity_fields(chain=svid.chain, key=svid.private_key, bundles=case.bundles)


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

    def __init__(self, go, svid, case):
        self._go = go
        self._fields = _presented(svid, case)

    def server(self):
        return self._go.serve(identity=self._fields, authorize=ANYBODY)

    def dial(self, address):
        with contextlib.suppress(GoSpiffeError):
            self._go.call("dial", identity=self._fields, authorize=ANYBODY, address=address)


def _they_as_client(presenter, go, theirs):
    with presenter.server() as server:
        try:
            go.call("dial", identity=theirs, authorize=ANYBODY, address=server.address)
        except GoSpiffeError as refusal:
            return str(refusal)
    return ""


def _they_as_server(presenter, go, theirs):
    with go.serve(identity=theirs, authorize=ANYBODY) as server:
        presenter.dial(server.address)
        return server.handshake().get("error", "")


@contextlib.contextmanager
def _our_channel(address, source):
    with secure_channel(address, source, authorize=authorize_any(), proxy=None) as channel:
        yield channel.unary_unary("/interop.Echo/Say")


@contextlib.contextmanager
def _our_grpc_server(source):
    """Our server credentials and our interceptor, which lets in whoever verifies; with the clients that it let in."""
    called = []

    def say(request, context):
        called.append(peer_id(context))
        return f"{called[-1]} ".encode() + request

    interceptor = AuthorizationInterceptor(source, authorize=authorize_any())
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[interceptor])
    handler = grpc.unary_unary_rpc_method_handler(say)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("interop.Echo", {"Say": handler}),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(source))
    server.start()
    try:
        yield f"127.0.0.1:{port}", called
    finally:
        server.stop(None).wait()
