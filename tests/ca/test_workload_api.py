# SPDX-License-Identifier: Apache-2.0
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
from datetime import timedelta

import grpc
import pytest
from spiffe import TrustDomain, WorkloadApiClient, X509Source
from spiffe.workloadapi.errors import FetchX509SvidError

from otel_spiffe._proto import (
    EMPTY_REQUEST,
    FETCH_JWT_BUNDLES,
    FETCH_JWT_SVID,
    FETCH_X509_BUNDLES,
    FETCH_X509_SVID,
    SECURITY_HEADER,
    VALIDATE_JWT_SVID,
    decode_x509_bundles_response,
    decode_x509_svid_response,
)
from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.ca._socket import MAX_SOCKET_PATH_BYTES
from otel_spiffe.errors import InvalidConfiguration, InvalidIdentity
from otel_spiffe.identity import Identity, X509Bundle

_WAIT = 30.0


def identity_of(authority, *names, hints=(), federated=()):
    hints = (*hints, *("" for _ in names))
    svids = tuple(
        authority.issue(f"spiffe://prod.example/{name}", hint=hint)
        for name, hint in zip(names or ("app",), hints or ("",), strict=False)
    )
    return Identity(
        chosen=svids[0],
        svids=svids,
        bundles={authority.trust_domain: authority.bundle} | {bundle.trust_domain: bundle for bundle in federated},
    )


def call(channel, method=FETCH_X509_SVID, *, metadata=(SECURITY_HEADER,)):
    return channel.unary_stream(method)(EMPTY_REQUEST, metadata=metadata, timeout=_WAIT)


def test_the_spiffe_package_fetches_svid_and_bundles(authority):
    federated = CertificateAuthority.in_memory("other.example").bundle
    with (
        WorkloadApiServer.open(identity=identity_of(authority, federated=[federated])) as server,
        WorkloadApiClient(server.endpoint) as client,
    ):
        context = client.fetch_x509_context(timeout=_WAIT)
        assert str(context.default_svid.spiffe_id) == "spiffe://prod.example/app"
        assert {bundle.trust_domain for bundle in context.x509_bundle_set.bundles} == {
            TrustDomain("prod.example"),
            TrustDomain("other.example"),
        }
        bundles = client.fetch_x509_bundles(timeout=_WAIT)
        assert bundles.get_bundle_for_trust_domain(TrustDomain("prod.example")).x509_authorities == set(
            authority.bundle.authorities
        )


def test_a_source_of_the_spiffe_package_gets_each_push(authority):
    updated = threading.Event()
    with (
        WorkloadApiServer.open(identity=identity_of(authority)) as server,
        X509Source(socket_path=server.endpoint, timeout_in_seconds=_WAIT) as source,
    ):
        source.subscribe_for_updates(updated.set)
        pushed = identity_of(authority)
        server.serve(pushed)
        assert updated.wait(_WAIT)
        assert source.get_x509_context().default_svid.leaf == pushed.svid.leaf


def test_every_svid_is_served_with_its_hint_and_the_chosen_one_first(authority, channel_to):
    identity = identity_of(authority, "a", "b", "c", hints=("x", "y", "z"))
    identity = Identity(chosen=identity.svids[1], svids=identity.svids, bundles=identity.bundles)
    with WorkloadApiServer.open(identity=identity) as server:
        response = decode_x509_svid_response(next(call(channel_to(server))))
    assert [(svid.spiffe_id, svid.hint) for svid in response.svids] == [
        ("spiffe://prod.example/b", "y"),
        ("spiffe://prod.example/a", "x"),
        ("spiffe://prod.example/c", "z"),
    ]


def test_an_empty_federated_bundle_and_crls_are_served(authority, channel_to):
    empty = X509Bundle(trust_domain=TrustDomain("empty.example"), authorities=())
    served = identity_of(authority, federated=[empty])
    served = Identity(chosen=served.chosen, svids=served.svids, bundles=served.bundles, crls=authority.crls)
    with WorkloadApiServer.open(identity=served) as server:
        svids = decode_x509_svid_response(next(call(channel_to(server))))
        bundles = decode_x509_bundles_response(next(call(channel_to(server), FETCH_X509_BUNDLES)))
    assert svids.federated_bundles == {"spiffe://empty.example": b""}
    assert bundles.bundles["spiffe://empty.example"] == b""
    assert len(svids.crl) == len(bundles.crl) == 1


def test_an_svid_without_its_bundle_is_refused_and_what_was_served_stays(authority, channel_to):
    with WorkloadApiServer.open(identity=identity_of(authority)) as server:
        svid = authority.issue("spiffe://prod.example/b")
        with pytest.raises(InvalidIdentity, match=r"prod\.example"):
            server.serve(Identity(chosen=svid, bundles={}))
        assert decode_x509_svid_response(next(call(channel_to(server)))).svids[0].spiffe_id.endswith("/app")


@pytest.mark.parametrize("metadata", [(), (("workload.spiffe.io", "false"),), (("workload.spiffe.io", "True"),)])
@pytest.mark.parametrize("method", [FETCH_X509_SVID, FETCH_X509_BUNDLES, FETCH_JWT_SVID])
def test_a_call_without_the_security_header_is_an_invalid_argument(authority, channel_to, metadata, method):
    with WorkloadApiServer.open(identity=identity_of(authority)) as server:
        with pytest.raises(grpc.RpcError) as refused:
            next(call(channel_to(server), method, metadata=metadata))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "workload.spiffe.io" in refused.value.details()


@pytest.mark.parametrize("method", [FETCH_JWT_SVID, FETCH_JWT_BUNDLES, VALIDATE_JWT_SVID])
def test_jwt_is_unimplemented(authority, channel_to, method):
    with WorkloadApiServer.open(identity=identity_of(authority)) as server:
        with pytest.raises(grpc.RpcError) as refused:
            next(call(channel_to(server), method))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_server_without_identity_says_that_none_was_issued_until_there_is_one(authority, channel_to):
    with WorkloadApiServer.open() as server:
        channel = channel_to(server)
        with pytest.raises(grpc.RpcError) as refused:
            next(call(channel))
        assert (refused.value.code(), refused.value.details()) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "no identity issued",
        )
        server.serve(identity_of(authority))
        assert next(call(channel))


def test_an_identity_of_bundles_alone_serves_bundles_and_no_svid(authority, channel_to):
    with WorkloadApiServer.open(
        identity=Identity(chosen=None, bundles={authority.trust_domain: authority.bundle})
    ) as server:
        assert next(call(channel_to(server), FETCH_X509_BUNDLES))
        with (
            WorkloadApiClient(server.endpoint) as client,
            pytest.raises(FetchX509SvidError, match="no identity issued"),
        ):
            client.fetch_x509_svid(timeout=_WAIT)


def test_withdrawal_ends_the_open_streams_with_permission_denied(authority, channel_to):
    with WorkloadApiServer.open(identity=identity_of(authority)) as server:
        stream = call(channel_to(server))
        next(stream)
        server.withdraw()
        with pytest.raises(grpc.RpcError) as refused:
            next(stream)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_end_streams_ends_the_open_ones_cleanly_and_serves_the_next(authority, channel_to):
    with WorkloadApiServer.open(identity=identity_of(authority)) as server:
        channel = channel_to(server)
        stream = call(channel)
        next(stream)
        server.end_streams()
        assert list(stream) == []
        assert stream.code() is grpc.StatusCode.OK
        assert next(call(channel))


def test_200_clients_get_every_push_and_leave_no_thread(authority, channel_to):
    before = set(threading.enumerate())
    with WorkloadApiServer.open(identity=identity_of(authority)) as server:
        streams = [call(channel_to(server)) for _ in range(200)]
        for stream in streams:
            next(stream)
        server.wait_for_streams(200, timeout=_WAIT)
        assert server.streams == 200
        pushed = identity_of(authority, "pushed")
        server.serve(pushed)
        for stream in streams:
            assert decode_x509_svid_response(next(stream)).svids[0].spiffe_id == "spiffe://prod.example/pushed"
    ours = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("otel-spiffe")]
    assert ours == []


def test_more_streams_than_the_limit_are_refused_and_the_others_go_on(authority, channel_to):
    with WorkloadApiServer.open(identity=identity_of(authority), max_streams=2) as server:
        channel = channel_to(server)
        held = [call(channel) for _ in range(2)]
        for stream in held:
            next(stream)
        with pytest.raises(grpc.RpcError) as refused:
            next(call(channel))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        server.serve(identity_of(authority, "b"))
        for stream in held:
            next(stream)


def test_a_stream_that_its_client_ends_is_forgotten(authority, channel_to):
    with WorkloadApiServer.open(identity=identity_of(authority)) as server:
        stream = call(channel_to(server))
        next(stream)
        stream.cancel()
        with server._streams._lock:
            assert server._streams._lock.wait_for(lambda: not server._streams._open, _WAIT)


def test_waiting_for_streams_that_do_not_come_says_how_many_there_are():
    with WorkloadApiServer.open() as server, pytest.raises(TimeoutError, match=r"3 open streams .* there are 0 of 0"):
        server.wait_for_streams(3, timeout=0.01)


def test_issue_is_called_again_and_again(authority):
    issued = []
    third = threading.Event()

    def issue():
        issued.append(identity_of(authority))
        if len(issued) == 3:
            third.set()
        return issued[-1]

    with WorkloadApiServer.open(issue=issue, every=timedelta(milliseconds=20)):
        assert third.wait(_WAIT)


def test_issue_is_called_at_half_of_the_svids_life(authority):
    again = threading.Semaphore(0)

    def issue():
        again.release()
        svid = authority.issue("spiffe://prod.example/app", lifetime=timedelta(seconds=2))
        return Identity(chosen=svid, bundles={authority.trust_domain: authority.bundle})

    with WorkloadApiServer.open(issue=issue):
        assert again.acquire(timeout=_WAIT)
        assert again.acquire(timeout=_WAIT)


def test_rotate_issues_now(authority, channel_to):
    with WorkloadApiServer.open(issue=lambda: identity_of(authority)) as server:
        stream = call(channel_to(server))
        first = next(stream)
        server.rotate()
        assert next(stream) != first


def test_an_issuer_that_fails_once_is_asked_again_and_the_last_identity_stays(authority, channel_to, caplog):
    calls = threading.Semaphore(0)
    failing = iter((False, True, False))

    def issue():
        calls.release()
        if next(failing, False):
            raise RuntimeError("the authority is away")
        return identity_of(authority)

    with (
        caplog.at_level(logging.ERROR, "otel_spiffe.ca"),
        WorkloadApiServer.open(issue=issue, every=timedelta(milliseconds=10)) as server,
    ):
        stream = call(channel_to(server))
        assert next(stream)
        for _ in range(3):
            assert calls.acquire(timeout=_WAIT)
        assert next(stream)
    assert "the authority is away" in caplog.text


def test_an_issuer_that_fails_at_the_start_fails_open_and_leaves_nothing(short_path):
    def issue():
        raise RuntimeError("the authority is away")

    with pytest.raises(RuntimeError, match="the authority is away"):
        WorkloadApiServer.open(short_path / "api.sock", issue=issue)
    assert list(short_path.iterdir()) == []


def test_rotate_without_issue_and_both_at_once_are_refused(authority):
    with WorkloadApiServer.open() as server, pytest.raises(InvalidConfiguration, match="issue"):
        server.rotate()
    with pytest.raises(InvalidConfiguration, match="issue"):
        WorkloadApiServer.open(identity=identity_of(authority), issue=lambda: identity_of(authority))


def test_the_socket_and_its_directory_are_for_the_owner_alone_and_go_at_the_end():
    with WorkloadApiServer.open() as server:
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
        assert [entry.name for entry in server.path.parent.iterdir()] == [server.path.name]
    assert not server.path.parent.exists()
    server.close()  # again


def test_a_given_path_gets_the_given_mode_and_its_directory_stays(short_path):
    with WorkloadApiServer.open(short_path / "api.sock", mode=0o666) as server:
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o666
        assert server.endpoint == f"unix:{short_path}/api.sock"
    assert list(short_path.iterdir()) == []


def test_a_path_with_a_blank_and_a_percent_sign_works(short_path, authority):
    with (
        WorkloadApiServer.open(short_path / "a b%41.sock", identity=identity_of(authority)) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        assert next(call(channel))


def test_a_path_that_is_too_long_is_refused_with_the_limit(short_path):
    with pytest.raises(InvalidConfiguration, match=str(MAX_SOCKET_PATH_BYTES)):
        WorkloadApiServer.open(short_path / ("x" * 120))
    assert list(short_path.iterdir()) == []


def test_a_directory_that_does_not_exist_is_refused(short_path):
    with pytest.raises(InvalidConfiguration, match="directory cannot be written"):
        WorkloadApiServer.open(short_path / "absent" / "api.sock")


def test_a_file_at_the_path_is_refused_and_kept(short_path):
    path = short_path / "api.sock"
    path.write_text("mine")
    with pytest.raises(InvalidConfiguration, match="no socket"):
        WorkloadApiServer.open(path)
    assert path.read_text() == "mine"


def test_a_server_that_listens_at_the_path_is_left_alone(short_path, authority, channel_to):
    path = short_path / "api.sock"
    with WorkloadApiServer.open(path, identity=identity_of(authority)) as server:
        with pytest.raises(InvalidConfiguration, match="listens there already"):
            WorkloadApiServer.open(path)
        assert next(call(channel_to(server)))


def test_a_socket_that_a_dead_server_left_is_replaced(short_path, authority, channel_to):
    path = short_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with WorkloadApiServer.open(path, identity=identity_of(authority)) as server:
        assert next(call(channel_to(server)))


def test_close_leaves_a_socket_that_somebody_else_put_at_its_path(short_path):
    path = short_path / "api.sock"
    server = WorkloadApiServer.open(path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        server.close()
        assert path.is_socket()


def test_a_program_that_forgets_to_close_ends(tmp_path):
    program = tmp_path / "forgets.py"
    program.write_text(
        "import grpc\n"
        "from otel_spiffe._proto import *\n"
        "from otel_spiffe.ca import *\n"
        "from otel_spiffe.identity import Identity\n"
        "ca = CertificateAuthority.in_memory('prod.example')\n"
        "svid = ca.issue('spiffe://prod.example/app')\n"
        "server = WorkloadApiServer.open(issue=lambda: Identity(chosen=svid, bundles={ca.trust_domain: ca.bundle}))\n"
        "channel = grpc.insecure_channel(server.endpoint)\n"
        "stream = channel.unary_stream(FETCH_X509_SVID)(EMPTY_REQUEST, metadata=[SECURITY_HEADER])\n"
        "next(stream)\n"
        "print('served')\n"
    )
    ended = subprocess.run(
        [sys.executable, program],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert ended.stdout == "served\n"
