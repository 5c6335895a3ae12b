# SPDX-License-Identifier: Apache-2.0
"""Our Workload API server serves others' clients as an agent would: go-spiffe, `spiffe`, spiffe-helper, spire-agent."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from peerlib import GoSpiffeError, SpiffeHelper, binary
from peerlib.echo import dial
from spiffe import WorkloadApiClient, X509Source

from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.credentials import client_context
from otel_spiffe.identity import Identity, authorize_id, bundle_to_pem, certificates_from_pem
from otel_spiffe.testing import FaultyWorkloadApi

ONE, TWO = "spiffe://test.example/one", "spiffe://test.example/two"


@pytest.fixture
def several(spiffe_ca, spiffe_federated_ca):
    """Two X509-SVIDs with hints, one with intermediates, and a federated bundle."""
    svids = (spiffe_ca.issue(ONE, hint="public"), spiffe_ca.intermediate().issue(TWO, hint="internal"))
    bundles = {each.trust_domain: each.bundle for each in (spiffe_ca, spiffe_federated_ca)}
    return Identity(chosen=svids[0], svids=svids, bundles=bundles)


@pytest.mark.builds("gospiffe")
@pytest.mark.peer("go-spiffe", "our WorkloadApiServer: SVIDs, chains, hints, bundles, federated bundles")
def test_go_spiffe_reads_every_field(go_spiffe, several):
    with WorkloadApiServer.open(identity=several) as server:
        answer = go_spiffe.call("fetch", address=server.endpoint)
    expected = [(str(svid.id), svid.hint, str(svid.leaf.serial_number), svid.chain) for svid in several.svids]
    found = [
        (each["id"], each["hint"], each["serial"], tuple(x509.load_pem_x509_certificates(each["chain"].encode())))
        for each in answer["svids"]
    ]
    assert found == expected
    bundles = {d.name: b.authorities for d, b in several.bundles.items()}
    for name in ("bundles", "bundles_alone"):
        theirs = {name: tuple(certificates_from_pem(text.encode())) for name, text in answer[name].items()}
        assert theirs == bundles


@pytest.mark.builds("gospiffe")
@pytest.mark.peer("go-spiffe", "our WorkloadApiServer: X509Source follows pushes, a restart and a withdrawal")
def test_go_spiffe_source_follows(go_spiffe, spiffe_ca, spiffe_source_of):
    name = go_spiffe.new_name()
    with FaultyWorkloadApi.open(identity=spiffe_ca.identity(ONE)) as server:
        first = go_spiffe.call("source", name=name, address=server.endpoint)
        assert first["id"] == ONE
        server.serve(spiffe_ca.identity(TWO))
        second = go_spiffe.call("updated", name=name, **{"not": first["serial"]})
        assert second["id"] == TWO
        server.go_away()
        assert go_spiffe.call("svid", name=name)["serial"] == second["serial"]
        server.come_back(spiffe_ca.identity(ONE))
        third = go_spiffe.call("updated", name=name, **{"not": second["serial"]}, seconds=45)
        assert third["id"] == ONE
        server.deny()
        with pytest.raises(GoSpiffeError, match="PermissionDenied desc = no identity issued"):
            go_spiffe.call("fetch", address=server.endpoint)
        with go_spiffe.serve(identity={"source": name}, authorize={"id": TWO}) as theirs:
            dial(client_context(spiffe_source_of(TWO), authorize=authorize_id(ONE)), theirs.address)
        go_spiffe.call("close", name=name)


@pytest.mark.builds("gospiffe")
@pytest.mark.peer("go-spiffe", "our WorkloadApiServer: 200 pushes, the last one always arrives")
def test_go_spiffe_source_ends_at_the_last_of_many_pushes(go_spiffe, spiffe_ca, eventually):
    name = go_spiffe.new_name()
    with WorkloadApiServer.open(identity=spiffe_ca.identity(ONE)) as server:
        go_spiffe.call("source", name=name, address=server.endpoint)
        identities = [spiffe_ca.identity(ONE) for _ in range(20)]
        for turn in range(200):
            server.serve(identities[turn % 20])
        serial = str(identities[-1].svid.leaf.serial_number)
        eventually(lambda: go_spiffe.call("svid", name=name)["serial"] == serial)
        go_spiffe.call("close", name=name)


@pytest.mark.peer("spiffe (Python)", "our WorkloadApiServer: SVIDs, chains, keys, bundles, federated bundles")
def test_the_spiffe_package_reads_what_we_serve(several):
    with WorkloadApiServer.open(identity=several) as server, WorkloadApiClient(server.endpoint) as client:
        context = client.fetch_x509_context()
    found = [(str(svid.spiffe_id), tuple(svid.cert_chain), _secret(svid)) for svid in context.x509_svids]
    assert found == [(str(svid.id), svid.chain, _secret(svid)) for svid in several.svids]
    assert _authorities(context) == {name.name: set(each.authorities) for name, each in several.bundles.items()}


@pytest.mark.peer("spiffe (Python)", "our WorkloadApiServer: X509Source has the SVID that it picks, and follows pushes")
@pytest.mark.parametrize("place", [0, 1])
def test_the_spiffe_package_follows(several, spiffe_ca, eventually, place):
    with (
        WorkloadApiServer.open(identity=several) as server,
        X509Source(
            socket_path=server.endpoint,
            timeout_in_seconds=30,
            svid_picker=lambda svids: svids[min(place, len(svids) - 1)],
        ) as source,
    ):
        svid = source.get_x509_context().default_svid
        assert tuple(svid.cert_chain) == several.svids[place].chain
        assert _secret(svid) == _secret(several.svids[place])
        bundles = {name.name: set(each.authorities) for name, each in several.bundles.items()}
        assert _authorities(source.get_x509_context()) == bundles
        later = spiffe_ca.identity(TWO)  # without the federated bundle
        server.serve(later)
        eventually(lambda: source.get_x509_context().default_svid.leaf == later.svid.leaf)
        assert _secret(source.get_x509_context().default_svid) == _secret(later.svid)
        assert set(_authorities(source.get_x509_context())) == {"test.example"}


def _authorities(context):
    return {each.trust_domain.name: each.x509_authorities for each in context.x509_bundle_set.bundles}


def _secret(svid):
    return svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.builds("spire")
@pytest.mark.peer(
    "spiffe-helper", "our WorkloadApiServer: files hold the SVID, its key and the bundle, and follow pushes"
)
def test_spiffe_helper_writes_what_we_serve(spiffe_ca, several, short_folder):
    folder = short_folder()
    with WorkloadApiServer.open(identity=several) as server, SpiffeHelper(server.endpoint, folder) as helper:
        helper.wait_for_updates(1)
        _assert_files(folder, several.svids[0], several)
        later = spiffe_ca.identity(TWO)
        server.serve(later)
        helper.wait_for_updates(2)
        _assert_files(folder, later.svid, later)


@pytest.mark.builds("spire")
@pytest.mark.peer("spiffe-helper", "our WorkloadApiServer: it picks by hint")
def test_spiffe_helper_picks_by_hint(several, short_folder):
    folder = short_folder()
    with (
        WorkloadApiServer.open(identity=several) as server,
        SpiffeHelper(server.endpoint, folder, hint="internal") as helper,
    ):
        helper.wait_for_updates(1)
        _assert_files(folder, several.svids[1], several)


def _assert_files(folder, svid, identity):
    assert tuple(certificates_from_pem((folder / "svid.pem").read_bytes())) == svid.chain
    key = load_pem_private_key((folder / "svid_key.pem").read_bytes(), None)
    assert key.public_key() == svid.leaf.public_key()
    bundle = identity.bundles[svid.id.trust_domain]
    assert certificates_from_pem((folder / "svid_bundle.pem").read_bytes()) == bundle.authorities


@pytest.mark.builds("spire")
@pytest.mark.peer("SPIRE", "our WorkloadApiServer: `spire-agent api fetch x509` prints and writes it")
def test_spire_agents_client_reads_what_we_serve(several, short_folder):
    folder = short_folder()
    with WorkloadApiServer.open(identity=several) as server:
        command = [binary("spire", "spire-agent"), "api", "fetch", "x509", "-socketPath", server.path]
        subprocess.run([*command, "-write", folder], check=True, capture_output=True, timeout=60)
        said = [*command, "-output", "json"]
        done = subprocess.run(said, check=True, capture_output=True, text=True, timeout=60)
    svids = json.loads(done.stdout)["svids"]
    assert [each["spiffe_id"] for each in svids] == [ONE, TWO]
    assert tuple(certificates_from_pem((folder / "svid.0.pem").read_bytes())) == several.svids[0].chain
    assert tuple(certificates_from_pem((folder / "svid.1.pem").read_bytes())) == several.svids[1].chain
    own = several.bundles[several.svids[0].id.trust_domain]
    assert (folder / "bundle.0.pem").read_bytes().split() == bundle_to_pem(own).split()


@pytest.mark.builds("gospiffe")
@pytest.mark.peer("go-spiffe", "our WorkloadApiServer with `issue=`: X509-SVIDs of 4 s renewed, mTLS all the time")
def test_go_spiffe_on_a_server_that_issues(go_spiffe, spiffe_ca, spiffe_source_of):
    name = go_spiffe.new_name()

    def issue():
        return spiffe_ca.identity(ONE, lifetime=timedelta(seconds=4))

    with WorkloadApiServer.open(issue=issue) as server:
        first = go_spiffe.call("source", name=name, address=server.endpoint)
        context = client_context(spiffe_source_of(TWO), authorize=authorize_id(ONE))
        with go_spiffe.serve(identity={"source": name}, authorize={"id": TWO}) as theirs:
            rotated = go_spiffe.ask("updated", name=name, **{"not": first["serial"]}, seconds=40)
            while not rotated.done():
                dial(context, theirs.address)
            dial(context, theirs.address)
        assert rotated.result()["id"] == ONE
        go_spiffe.call("close", name=name)
