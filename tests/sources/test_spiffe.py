# SPDX-License-Identifier: Apache-2.0
"""The source over `spiffe.X509Source`, with a real one on a real Workload API."""

from __future__ import annotations

import queue
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import spiffe

from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.errors import IdentityExpired, SourceUnavailable
from otel_spiffe.identity import Identity, Source
from otel_spiffe.sources import from_spiffe

APP = "spiffe://prod.example/app"
PATIENCE = 30


@pytest.fixture
def ca():
    return CertificateAuthority.in_memory("prod.example")


@pytest.fixture
def server(ca):
    with WorkloadApiServer.open(identity=ca.identity(APP)) as server:
        yield server


@pytest.fixture
def theirs(server):
    with spiffe.X509Source(socket_path=server.endpoint, timeout_in_seconds=PATIENCE) as source:
        yield source


def test_it_holds_what_theirs_holds_and_follows_it(ca, server, theirs):
    with from_spiffe(theirs) as source:
        assert isinstance(source, Source)
        found = queue.SimpleQueue()
        source.subscribe(found.put)
        assert found.get(timeout=PATIENCE).bundles[ca.trust_domain].authorities == ca.bundle.authorities
        renewed = ca.identity(APP)
        server.serve(renewed)
        assert found.get(timeout=PATIENCE).svid.leaf == renewed.svid.leaf
        assert source.health().ready


def test_federated_bundles_come_along(ca, server, theirs):
    other = CertificateAuthority.in_memory("other.example")
    with from_spiffe(theirs) as source:
        found = queue.SimpleQueue()
        source.subscribe(found.put)
        found.get(timeout=PATIENCE)
        server.serve(ca.identity(APP, federated=[other.bundle]))
        assert set(map(str, found.get(timeout=PATIENCE).bundles)) == {"prod.example", "other.example"}


def test_what_was_read_first_is_not_written_last(ca):
    """Theirs calls on a thread of its own, also while the constructor reads for the first time."""
    old, new = ca.issue(APP), ca.issue(APP)

    def context(svid):
        given = SimpleNamespace(cert_chain=list(svid.chain), private_key=svid.private_key, spiffe_id=svid.id)
        bundle = SimpleNamespace(trust_domain=ca.trust_domain, x509_authorities=set(ca.bundle.authorities))
        return SimpleNamespace(default_svid=given, x509_bundle_set=SimpleNamespace(bundles=[bundle]))

    class Theirs:
        held = context(old)
        callback = None

        def subscribe_for_updates(self, callback):
            self.callback = callback

        def unsubscribe_for_updates(self, callback):
            pass

        def is_closed(self):
            return False

        def get_x509_context(self):
            read = self.held
            if threading.current_thread() is threading.main_thread():
                self.held = context(new)
                update = threading.Thread(target=self.callback)
                update.start()
                update.join()
            return read

    with from_spiffe(Theirs()) as source:
        assert source.identity().svid.leaf == new.leaf
        assert source.identity().generation == 1


def test_closing_ours_leaves_theirs_open_and_unobserved(theirs):
    source = from_spiffe(theirs)
    source.close()
    source.close()
    assert not theirs.is_closed()
    with pytest.raises(SourceUnavailable, match="closed"):
        source.identity()


def test_theirs_ending_makes_ours_unready_and_what_it_held_is_used_until_it_expires(theirs):
    now = [datetime.now(UTC)]
    with from_spiffe(theirs, clock=lambda: now[0]) as source:
        theirs.close()
        assert str(source.identity().id) == APP
        assert not source.health().ready
        now[0] += timedelta(hours=2)
        with pytest.raises(IdentityExpired):
            source.identity()


def test_the_child_of_a_fork_keeps_what_is_held_and_says_that_nothing_will_come(theirs):
    """Called here without a fork: that hangs the child in grpcio, one time in six, while their stream is open."""
    with from_spiffe(theirs) as source:
        source.after_fork_in_child()
        health = source.health()
        assert str(source.identity().id) == APP
        assert not health.ready
        assert health.problem.startswith("spiffe.X509Source has no thread in the child of a fork")
        source.after_fork_in_parent()


def test_one_that_is_closed_already_gives_nothing(theirs):
    theirs.close()
    with from_spiffe(theirs) as source, pytest.raises(SourceUnavailable, match="gives nothing"):
        source.identity()


def test_material_that_they_take_and_we_do_not_is_refused(ca, server, theirs):
    """`spiffe` 0.3.2 does not look at dates: an expired X509-SVID is theirs and never ours."""
    with from_spiffe(theirs, clock=lambda: datetime.now(UTC) + timedelta(minutes=30)) as source:
        first = source.identity()
        updated = queue.SimpleQueue()
        theirs.subscribe_for_updates(lambda: updated.put(True))
        short = ca.identity(APP, lifetime=timedelta(minutes=5))
        assert isinstance(short, Identity)
        server.serve(short)
        updated.get(timeout=PATIENCE)
        assert source.identity() is first
        assert "had expired" in source.health().problem
