# SPDX-License-Identifier: Apache-2.0
"""A real SPIRE server and agent feed our sources: rotation, entries that come and go, restarts, CAs, federation."""

from __future__ import annotations

import contextlib
import threading
from datetime import UTC, datetime

import pytest
from peerlib import Agent, Server, SpiffeHelper, start_spire
from peerlib.echo import EchoServer, dial
from spiffe import X509Source

from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.credentials import client_context, server_context
from otel_spiffe.errors import IdentityExpired, PeerUntrusted, RefusedByPeer, SourceUnavailable, Untrusted
from otel_spiffe.identity import Identity, authorize_any, authorize_id
from otel_spiffe.rotation import Backoff
from otel_spiffe.sources import FileSource, StaticSource, WorkloadApiSource, from_spiffe

pytestmark = [pytest.mark.builds("spire")]
PEER = "SPIRE"

SOON = Backoff(minimum=0.2, maximum=1.0)


@pytest.fixture
def entries(spire):
    """Create entries that the test's end deletes."""
    with contextlib.ExitStack() as after:

        def create(path, **more):
            number = spire.entry(path, **more)
            after.callback(_delete, spire.server, number)
            return number

        yield create


def _delete(server, number):
    with contextlib.suppress(RuntimeError):  # the test has deleted it
        server.delete_entry(number)


def _open(agent, **more):
    return WorkloadApiSource.open(agent.endpoint, backoff=SOON, no_identity_backoff=SOON, **more)


def _now(source):
    # SPIRE takes tainted SVIDs away ("no identity issued") a moment before it has new ones.
    try:
        return source.identity()
    except SourceUnavailable:
        return Identity(chosen=None, bundles={})


def _ids(source):
    return [str(svid.id) for svid in _now(source).svids]


def _issuer(source):
    chosen = _now(source).chosen
    return chosen.leaf.issuer if chosen is not None else None


def _authorities(source, trust_domain):
    return next((len(b.authorities) for d, b in _now(source).bundles.items() if d.name == trust_domain), 0)


@pytest.mark.peer(PEER, "three rotations, every handshake in between succeeds")
def test_identities_rotate_under_handshakes(spire, entries, eventually):
    entries("/rotating")
    me = "spiffe://prod.example/rotating"
    with _open(spire.agent) as source:
        eventually(lambda: _ids(source) == [me])
        serials, handshakes = [], 0
        done = threading.Event()
        unsubscribe = source.subscribe(
            lambda identity: (serials.append(identity.svid.leaf.serial_number), len(serials) >= 4 and done.set())
        )
        with EchoServer(server_context(source, authorize=authorize_id(me))) as server:
            context = client_context(source, authorize=authorize_id(me))
            while not done.wait(0.02):
                assert str(dial(context, server.address)[0]) == me
                handshakes += 1
        unsubscribe()
    assert len(set(serials)) == len(serials)
    assert handshakes > 50


@pytest.mark.peer(PEER, "rotation as go-spiffe sees it: the same X509-SVIDs, mTLS between both all the time")
@pytest.mark.builds("gospiffe")
def test_go_spiffe_on_the_same_agent(spire, entries, eventually, go_spiffe):
    entries("/both")
    me, name = "spiffe://prod.example/both", go_spiffe.new_name()
    with _open(spire.agent) as source:
        eventually(lambda: _ids(source) == [me])
        first = go_spiffe.call("source", name=name, address=spire.agent.endpoint)
        assert first["id"] == me
        with (
            go_spiffe.serve(identity={"source": name}, authorize={"id": me}) as theirs,
            EchoServer(server_context(source, authorize=authorize_id(me))) as ours,
        ):
            context = client_context(source, authorize=authorize_id(me))
            rotated = go_spiffe.ask("updated", name=name, **{"not": first["serial"]}, seconds=60)
            while not rotated.done():
                dial(context, theirs.address)
                go_spiffe.call("dial", identity={"source": name}, authorize={"id": me}, address=ours.address)
            serial = rotated.result()["serial"]
            eventually(lambda: str(source.identity().svid.leaf.serial_number) == serial)
        go_spiffe.call("close", name=name)


@pytest.mark.peer(PEER, "entries added, changed and removed while running; hints; none left, and one again")
def test_entries_come_and_go(spire, entries, eventually):
    with _open(spire.agent) as source, _open(spire.agent, hint="internal") as hinted:
        eventually(lambda: "no identity issued" in source.health().problem)
        with pytest.raises(SourceUnavailable, match=r"no identity issued.*register this workload"):
            source.identity()
        one = entries("/one")
        eventually(lambda: _ids(source) == ["spiffe://prod.example/one"])
        two = entries("/two", hint="internal")
        eventually(lambda: sorted(_ids(source)) == ["spiffe://prod.example/one", "spiffe://prod.example/two"])
        assert {svid.hint for svid in source.identity().svids} == {"", "internal"}
        eventually(lambda: "spiffe://prod.example/two" in _ids(hinted))
        assert str(hinted.identity().svid.id) == "spiffe://prod.example/two"
        spire.server.change_entry(two, "/three", parent=spire.agent.id, hint="internal")
        eventually(lambda: "spiffe://prod.example/three" in _ids(hinted))
        assert str(hinted.identity().svid.id) == "spiffe://prod.example/three"
        spire.server.delete_entry(one)
        eventually(lambda: _ids(source) == ["spiffe://prod.example/three"])
        spire.server.delete_entry(two)
        eventually(lambda: _ids(source) == [] and _ids(hinted) == [])
        with pytest.raises(SourceUnavailable, match="no identity issued"):
            source.identity()
        entries("/one")
        eventually(lambda: _ids(source) == ["spiffe://prod.example/one"])
        assert source.health().ready


@pytest.mark.peer(PEER, "withdrawn identities: kept until they expire where the policy says so")
def test_a_withdrawn_identity_can_be_kept(spire, entries, eventually):
    """It is there when SPIRE has said that there is none, handshakes go on, and at its end it is refused as expired."""
    number = entries("/kept", ttl=30)
    me = "spiffe://prod.example/kept"
    with _open(spire.agent, on_withdrawal="keep") as source:
        eventually(lambda: _ids(source) == [me])
        spire.server.delete_entry(number)
        eventually(lambda: "no identity issued" in source.health().problem)
        kept = source.identity()
        with EchoServer(server_context(source, authorize=authorize_id(me))) as server:
            assert str(dial(client_context(source, authorize=authorize_id(me)), server.address)[0]) == me
        eventually(lambda: _expired(source), seconds=90)
        assert datetime.now(UTC) > kept.svid.expires_at
        with pytest.raises(IdentityExpired, match=rf"X509-SVID of {me} expired \d+ s ago"):
            source.identity()


@pytest.mark.peer(PEER, "agent started after us, killed, and started again")
def test_the_agent_comes_late_dies_and_comes_back(short_folder, eventually):
    folder = short_folder()
    server = Server(folder, "prod.example", ttl="10m").start()
    agent = Agent(server, folder)
    server.entry("/late", parent=agent.id)
    try:
        with _open(agent) as source:
            eventually(lambda: source.health().failures > 0)
            with pytest.raises(SourceUnavailable):
                source.identity()
            agent.start()
            serial = source.wait(60).svid.leaf.serial_number
            agent.kill()
            eventually(lambda: source.health().problem)
            assert source.identity().svid.leaf.serial_number == serial
            assert source.health().ready
            agent.start()
            eventually(lambda: not source.health().problem)
            assert str(source.identity().svid.id) == "spiffe://prod.example/late"
    finally:
        agent.stop()
        server.stop()


@pytest.mark.peer(PEER, "agent that hangs (SIGSTOP): who has an identity keeps it, who has none is told in time")
def test_the_agent_hangs_and_goes_on(short_folder, eventually):
    spire = start_spire(short_folder(), "prod.example", ttl="10m")
    try:
        spire.entry("/app")
        with _open(spire.agent) as source:
            source.wait(60)
            spire.agent.pause()
            with _open(spire.agent, first_update_timeout=2.0) as late:
                eventually(lambda: late.health().problem or late.health().ready)
                with pytest.raises(SourceUnavailable, match="2 s"):
                    late.identity()
                assert source.health().ready
                spire.agent.go_on()
                assert str(late.wait(60).svid.id) == "spiffe://prod.example/app"
    finally:
        spire.agent.go_on()
        spire.stop()


@pytest.mark.peer(PEER, "rotation through `from_spiffe` on the `spiffe` package's X509Source")
def test_a_source_of_the_spiffe_package(spire, entries, eventually):
    entries("/package")
    with _open(spire.agent) as first:
        eventually(lambda: _ids(first) == ["spiffe://prod.example/package"])
    with X509Source(socket_path=spire.agent.endpoint, timeout_in_seconds=30) as theirs, from_spiffe(theirs) as source:
        serial = source.wait(60).svid.leaf.serial_number
        eventually(lambda: source.identity().svid.leaf.serial_number != serial)
        assert _ids(source) == ["spiffe://prod.example/package"]


@pytest.mark.peer("spiffe-helper", "FileSource on what it writes from SPIRE, three rotations under handshakes")
def test_a_source_of_spiffe_helpers_files(spire, entries, eventually, short_folder):
    entries("/files")
    me, folder = "spiffe://prod.example/files", short_folder()
    with _open(spire.agent) as first:
        eventually(lambda: _ids(first) == [me])
    with SpiffeHelper(spire.agent.endpoint, folder), FileSource.open(folder) as source:
        source.wait(60)
        context, serials = client_context(source, authorize=authorize_id(me)), set()
        with EchoServer(server_context(source, authorize=authorize_id(me))) as server:

            def rotated():
                serials.add(source.identity().svid.leaf.serial_number)
                return dial(context, server.address) and len(serials) >= 4

            eventually(rotated)


@pytest.mark.peer("spiffe-helper", "FileSource while it writes 100 sets without a pause: each is of one piece")
def test_a_source_of_files_that_are_always_being_written(spiffe_ca, eventually, short_folder):
    folder, seen = short_folder(), []
    pushed = [spiffe_ca.identity("spiffe://test.example/files") for _ in range(100)]
    with WorkloadApiServer.open(identity=pushed[0]) as server, SpiffeHelper(server.endpoint, folder) as helper:
        helper.wait_for_updates(1)
        with FileSource.open(folder) as source:
            source.subscribe(seen.append)
            for identity in pushed:
                server.serve(identity)
                source.wait(60)
            eventually(lambda: source.identity().svid.leaf == pushed[-1].svid.leaf)
    assert all(each.svid.private_key.public_key() == each.svid.leaf.public_key() for each in seen)


@pytest.mark.peer(PEER, "server killed until the X509-SVID has expired, and started again")
def test_the_server_dies_and_comes_back(short_folder, eventually):
    spire = start_spire(short_folder(), "prod.example", ttl="12s")
    try:
        spire.entry("/mortal")
        with _open(spire.agent) as source:
            identity = source.wait(60)
            spire.server.kill()
            assert str(source.identity().svid.id) == str(identity.svid.id)
            eventually(lambda: _expired(source))
            with pytest.raises(IdentityExpired, match=r"X509-SVID of spiffe://prod.example/mortal expired \d+ s ago"):
                source.identity()
            spire.server.start()
            assert source.wait(100).svid.leaf.serial_number != identity.svid.leaf.serial_number
    finally:
        spire.stop()


def _expired(source):
    try:
        source.identity()
    except IdentityExpired:
        return True
    return False


@pytest.mark.peer(PEER, "the server's CA rotated: both trusted, then the old one withdrawn and its SVIDs refused")
def test_the_authority_is_rotated_and_the_old_one_withdrawn(short_folder, eventually):
    spire = start_spire(short_folder(), "prod.example", ttl="10m")
    try:
        spire.entry("/app")
        with _open(spire.agent) as source:
            before = source.wait(60)
            old = spire.server.rotate_ca()
            eventually(lambda: _authorities(source, "prod.example") == 2)
            stale = StaticSource(before)  # as a peer whose agent has not heard of it
            with EchoServer(server_context(source, authorize=authorize_any())) as server:
                dial(client_context(stale, authorize=authorize_any()), server.address)
                assert str(server.outcome()) == "spiffe://prod.example/app"
                spire.server.taint_ca(old)  # what it signed is issued anew
                eventually(lambda: _issuer(source) not in {None, before.svid.leaf.issuer})
                spire.server.revoke_ca(old)
                eventually(lambda: _authorities(source, "prod.example") == 1)
                # Its bundle is the new one and its X509-SVID the old one: it trusts the server, not the server it.
                half = Identity(chosen=before.chosen, svids=before.svids, bundles=source.identity().bundles)
                with StaticSource(half) as presenter, pytest.raises(RefusedByPeer, match="unknown_ca"):
                    dial(client_context(presenter, authorize=authorize_any()), server.address)
                refusal = server.outcome()
            assert isinstance(refusal, PeerUntrusted)
            assert refusal.why in {Untrusted.UNKNOWN_AUTHORITY, Untrusted.INCOMPLETE_CHAIN}
            stale.close()
    finally:
        spire.stop()


@pytest.mark.peer(
    PEER, "the server's CA tainted: a gap of seconds by default, none where withdrawn identities are kept"
)
def test_a_tainted_authority_leaves_no_gap_where_identities_are_kept(short_folder, eventually):
    """SPIRE ends the stream with "no identity issued", and Workload API 5.2.1 then asks us to stop; a second later
    it issues anew. Who kept the identity never was without one."""
    spire = start_spire(short_folder(), "prod.example", ttl="10m")
    try:
        spire.entry("/app")
        with _open(spire.agent, on_withdrawal="keep") as keeps, _open(spire.agent) as drops:
            before = keeps.wait(60).svid.leaf.issuer
            drops.wait(60)
            old = spire.server.rotate_ca()
            eventually(lambda: _authorities(keeps, "prod.example") == 2)
            spire.server.taint_ca(old)
            eventually(lambda: keeps.identity().svid.leaf.issuer != before)  # raises where there is none
            eventually(lambda: _issuer(drops) not in {None, before})
    finally:
        spire.stop()


@pytest.mark.peer(
    PEER, "two federated servers (https_spiffe): a foreign peer refused, allowed, and after its CA rotated"
)
def test_federated_servers(short_folder, eventually):
    east = start_spire(short_folder(), "east.example", federation=True, ttl="10m")
    west = start_spire(short_folder(), "west.example", federation=True, ttl="10m")
    try:
        at_east = east.entry("/server")
        number = west.entry("/client")
        with _open(east.agent) as server_source, _open(west.agent) as client_source:
            server_source.wait(60)
            client_source.wait(60)
            ours = client_context(client_source, authorize=authorize_id("spiffe://east.example/server"))
            with EchoServer(
                server_context(server_source, authorize=authorize_id("spiffe://west.example/client"))
            ) as server:
                with pytest.raises(PeerUntrusted, match=r"east\.example") as refused:
                    dial(ours, server.address)
                assert refused.value.why is Untrusted.NO_BUNDLE
                server.outcome()  # who of the two says it first is chance

                west.server.federate(east.server)
                west.server.change_entry(
                    number, "/client", parent=west.agent.id, federates_with="spiffe://east.example"
                )
                eventually(lambda: len(_now(client_source).bundles) == 2)
                with pytest.raises(RefusedByPeer, match=r"spiffe://east\.example/server refused spiffe://west"):
                    dial(ours, server.address)
                assert server.outcome().why is Untrusted.NO_BUNDLE

                east.server.federate(west.server)
                east.server.change_entry(
                    at_east, "/server", parent=east.agent.id, federates_with="spiffe://west.example"
                )
                eventually(lambda: len(_now(server_source).bundles) == 2)
                assert str(dial(ours, server.address)[0]) == "spiffe://east.example/server"
                assert str(server.outcome()) == "spiffe://west.example/client"

                issuer = server_source.identity().svid.leaf.issuer
                old = east.server.rotate_ca()
                west.server.refresh(east.server)
                eventually(lambda: _authorities(client_source, "east.example") == 2)
                east.server.taint_ca(old)
                eventually(lambda: _issuer(server_source) not in {None, issuer})
                east.server.revoke_ca(old)
                west.server.refresh(east.server)
                eventually(lambda: _authorities(client_source, "east.example") == 1)
                assert str(dial(ours, server.address)[0]) == "spiffe://east.example/server"
                assert str(server.outcome()) == "spiffe://west.example/client"
    finally:
        east.stop()
        west.stop()
