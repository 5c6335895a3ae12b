# SPDX-License-Identifier: Apache-2.0
"""A file source on real files, written as spiffe-helper, spiffe-enable and Kubernetes write them."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import queue
import stat
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import watchfiles
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.errors import IdentityExpired, InvalidConfiguration, InvalidIdentity, SourceUnavailable
from otel_spiffe.identity import X509Bundle, bundle_to_der, bundle_to_jwks, bundle_to_pem, bundles_to_map
from otel_spiffe.sources import (
    CREDENTIAL_BUNDLE,
    KUBERNETES_TLS,
    SPIFFE_ENABLE,
    SPIFFE_HELPER,
    FileSource,
    Layout,
    Limits,
    _files,
    _read,
)

APP = "spiffe://prod.example/app"
PATIENCE = 30


def chain_pem(svid):
    return b"".join(each.public_bytes(Encoding.PEM) for each in svid.chain)


def key_pem(svid):
    return svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_set(folder, svid, bundle, layout=SPIFFE_HELPER):
    folder.mkdir(exist_ok=True)
    (folder / layout.svid).write_bytes(chain_pem(svid) + (b"" if layout.key else key_pem(svid)))
    if layout.key:
        (folder / layout.key).touch(mode=0o600)
        (folder / layout.key).write_bytes(key_pem(svid))
    if layout.bundle:
        (folder / layout.bundle).write_bytes(bundle_to_pem(bundle))
    else:
        (folder / layout.bundles.format(trust_domain=bundle.trust_domain)).write_bytes(bundle_to_pem(bundle))


def turn_data(volume, svid, bundle, layout):
    """Change a volume as the kubelet does: a new directory, then the link ``..data`` renamed over the old one."""
    before = (volume / "..data").readlink() if (volume / "..data").is_symlink() else None
    version = volume / f"..{time.monotonic_ns()}"
    write_set(version, svid, bundle, layout)
    (volume / "..data_tmp").symlink_to(version.name)
    (volume / "..data_tmp").rename(volume / "..data")
    for file in version.iterdir():
        if not (volume / file.name).is_symlink():
            (volume / file.name).symlink_to(f"..data/{file.name}")
    if before is not None:
        for file in (volume / before).iterdir():
            file.unlink()
        (volume / before).rmdir()


@pytest.fixture
def ca():
    return CertificateAuthority.in_memory("prod.example")


class Watched:
    """A source whose generations and problems a test waits for."""

    def __init__(self, *arguments, **keywords):
        keywords.setdefault("poll_interval", 0.2)
        self.source = FileSource.open(*arguments, **keywords)
        self.identities = queue.SimpleQueue()
        self.source.subscribe(self.identities.put)

    def next(self):
        return self.identities.get(timeout=PATIENCE)

    def until(self, holds):
        """Wait until `holds(health)`; the source itself looks every 0.2 s, so there is no event to wait for."""
        end = time.monotonic() + PATIENCE
        tick = threading.Event()
        while not holds(self.source.health()):
            assert time.monotonic() < end, self.source.health()
            tick.wait(0.02)
        return self.source.health()

    def problem(self, words):
        return self.until(lambda health: words in health.problem).problem


@pytest.fixture
def watch(request):
    def opened(*arguments, **keywords):
        watched = Watched(*arguments, **keywords)
        request.addfinalizer(watched.source.close)
        return watched

    return opened


@pytest.mark.parametrize("layout", [SPIFFE_HELPER, SPIFFE_ENABLE, KUBERNETES_TLS, CREDENTIAL_BUNDLE])
def test_each_preset_is_found_in_a_directory_and_followed(tmp_path, ca, watch, layout):
    write_set(tmp_path, ca.issue(APP), ca.bundle, layout)
    watched = watch(tmp_path)
    first = watched.next()
    assert str(first.id) == APP
    assert first.bundles[ca.trust_domain].authorities == ca.bundle.authorities
    renewed = ca.issue(APP)
    write_set(tmp_path, renewed, ca.bundle, layout)
    assert watched.next().svid.leaf == renewed.leaf


def test_files_that_are_named_one_by_one_may_stand_anywhere(tmp_path, ca, watch):
    svid = ca.issue(APP)
    for name, data in {"a": chain_pem(svid), "b": key_pem(svid), "c": bundle_to_pem(ca.bundle)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(data)
    watched = watch(
        svid_file=tmp_path / "a/file", svid_key_file=str(tmp_path / "b/file"), bundle_file=tmp_path / "c/file"
    )
    assert watched.next().svid.leaf == svid.leaf


@pytest.mark.parametrize(
    "encode", [bundle_to_pem, bundle_to_der, bundle_to_jwks, lambda bundle: bundles_to_map([bundle])]
)
def test_a_bundle_may_have_any_of_its_formats(tmp_path, ca, watch, encode):
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    (tmp_path / "svid_bundle.pem").write_bytes(encode(ca.bundle))
    assert watch(tmp_path).next().bundles[ca.trust_domain].authorities == ca.bundle.authorities


def test_certificates_and_keys_may_be_der(tmp_path, ca, watch):
    svid = ca.issue(APP)
    write_set(tmp_path, svid, ca.bundle)
    (tmp_path / "svid.pem").write_bytes(b"".join(each.public_bytes(Encoding.DER) for each in svid.chain))
    key = svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "svid_key.pem").write_bytes(key)
    assert watch(tmp_path).next().svid.leaf == svid.leaf


def test_bundles_of_other_trust_domains_are_kept_apart(tmp_path, ca, watch):
    other = CertificateAuthority.in_memory("other.example")
    third = CertificateAuthority.in_memory("third.example")
    write_set(tmp_path, ca.issue(APP), ca.bundle, CREDENTIAL_BUNDLE)
    (tmp_path / "other.example.pem").write_bytes(bundle_to_pem(other.bundle))
    (tmp_path / "third").write_bytes(bundle_to_jwks(third.bundle))
    bundles = watch(tmp_path, bundle_files={"third.example": tmp_path / "third"}).next().bundles
    assert {str(domain): each.authorities for domain, each in bundles.items()} == {
        "prod.example": ca.bundle.authorities,
        "other.example": other.bundle.authorities,
        "third.example": third.bundle.authorities,
    }


def test_bundles_alone_make_an_identity_that_presents_nothing(tmp_path, ca, watch):
    (tmp_path / "ca.pem").write_bytes(bundle_to_pem(ca.bundle))
    identity = watch(bundle_file=tmp_path / "ca.pem", trust_domain="prod.example").next()
    assert identity.chosen is None
    assert list(identity.bundles) == [ca.trust_domain]


def test_a_source_may_be_opened_before_its_files_and_their_directory_are_there(tmp_path, ca, watch):
    folder = tmp_path / "later"
    watched = watch(folder)
    assert "later does not exist" in watched.problem("does not exist")
    with pytest.raises(SourceUnavailable, match="does not exist"):
        watched.source.identity()
    folder.mkdir()
    watched.problem("holds none of these sets")
    write_set(folder, ca.issue(APP), ca.bundle)
    assert str(watched.next().id) == APP
    assert watched.source.health().problem == ""


def test_a_key_that_is_written_after_its_certificate_is_waited_for(tmp_path, ca, watch):
    first, second = ca.issue(APP), ca.issue(APP)
    write_set(tmp_path, first, ca.bundle)
    watched = watch(tmp_path)
    assert watched.next().svid.leaf == first.leaf
    (tmp_path / "svid.pem").write_bytes(chain_pem(second))
    problem = watched.problem("the private key is not the leaf's")
    assert "svid.pem" in problem
    assert "svid_key.pem" in problem
    assert watched.source.identity().svid.leaf == first.leaf
    (tmp_path / "svid_key.pem").write_bytes(key_pem(second))
    assert watched.next().svid.leaf == second.leaf


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("svid.pem", lambda old: old[:200], "svid.pem: PEM certificates"),
        ("svid.pem", lambda _: b"", "svid.pem: PEM certificates: there are no bytes"),
        ("svid_key.pem", lambda old: old[:100], "svid_key.pem: PEM private key"),
        ("svid_key.pem", lambda _: b"", "svid_key.pem: PEM private key: there are no bytes"),
        ("svid_bundle.pem", lambda _: b"", "svid_bundle.pem is empty"),
        ("svid_bundle.pem", lambda old: old[:-30], "svid_bundle.pem: bundle of prod.example"),
        ("svid_bundle.pem", lambda _: b'{"keys": [', "svid_bundle.pem: bundle of prod.example"),
        ("svid_bundle.pem", lambda _: b"\x30garbage", "svid_bundle.pem: bundle of prod.example"),
        ("svid_bundle.pem", lambda _: b'{"trust_domains": {}}', "no bundle of prod.example"),
    ],
)
def test_a_file_that_is_cut_short_is_named_and_the_last_good_set_stays(tmp_path, ca, watch, name, data, sentence):
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    watched = watch(tmp_path)
    first = watched.next()
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data(whole))
    watched.problem(sentence)
    assert watched.source.identity() is first
    assert watched.source.health().ready
    (tmp_path / name).write_bytes(whole)
    watched.until(lambda health: not health.problem)
    assert watched.source.identity() is first


def test_a_new_svid_beside_the_bundle_of_the_old_authority_is_not_taken(tmp_path, ca, watch):
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    watched = watch(tmp_path)
    first = watched.next()
    before = ca.bundle
    ca.rotate()
    write_set(tmp_path, ca.issue(APP), before)
    assert "our own X509-SVID does not verify" in watched.problem("does not verify")
    assert watched.source.identity() is first
    (tmp_path / "svid_bundle.pem").write_bytes(bundle_to_pem(ca.bundle))
    assert len(watched.next().bundles[ca.trust_domain].authorities) == 2


def test_a_kubernetes_volume_is_read_from_one_version_and_followed_through_a_hundred(tmp_path, ca, watch):
    """Each version has an authority of its own, so a set of two versions would not verify."""
    turn_data(tmp_path, ca.issue(APP), ca.bundle, SPIFFE_ENABLE)
    watched = watch(tmp_path, layout=SPIFFE_ENABLE)
    watched.next()
    for _ in range(100):
        ca.rotate()
        ca.withdraw()
        last = ca.issue(APP)
        turn_data(tmp_path, last, ca.bundle, SPIFFE_ENABLE)
    watched.until(lambda _: watched.source.identity().svid.leaf == last.leaf)
    while not watched.identities.empty():
        identity = watched.identities.get()
        assert identity.svid.leaf.issuer in {each.subject for each in identity.bundles[ca.trust_domain].authorities}


def test_a_directory_that_is_replaced_is_found_again(tmp_path, ca, watch):
    folder = tmp_path / "svids"
    write_set(folder, ca.issue(APP), ca.bundle)
    watched = watch(folder)
    watched.next()
    renewed = ca.issue(APP)
    write_set(tmp_path / "new", renewed, ca.bundle)
    folder.rename(tmp_path / "old")
    (tmp_path / "new").rename(folder)
    assert watched.next().svid.leaf == renewed.leaf
    again = ca.issue(APP)
    write_set(folder, again, ca.bundle)
    assert watched.next().svid.leaf == again.leaf


def test_files_that_disappear_are_missed_and_used_until_they_expire(tmp_path, ca, watch):
    now = [datetime.now(UTC)]
    write_set(tmp_path, ca.issue(APP, lifetime=timedelta(minutes=5)), ca.bundle)
    watched = watch(tmp_path, clock=lambda: now[0])
    first = watched.next()
    (tmp_path / "svid_key.pem").unlink()
    watched.problem("holds none of these sets of files")
    assert watched.source.identity() is first
    now[0] += timedelta(minutes=6)
    with pytest.raises(IdentityExpired, match="holds none of these sets of files"):
        watched.source.identity()
    assert not watched.source.health().ready


def test_an_svid_that_has_expired_is_not_taken(tmp_path, ca, watch):
    write_set(tmp_path, ca.issue(APP, lifetime=timedelta(minutes=5)), ca.bundle)
    watched = watch(tmp_path, clock=lambda: datetime.now(UTC) + timedelta(minutes=6))
    assert "had expired" in watched.problem("had expired")
    with pytest.raises(SourceUnavailable, match="this machine's clock"):
        watched.source.identity()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: (path.unlink(), path.mkdir()), "no regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file"),
        (lambda path: path.write_bytes(b"x" * 70_000), "larger than 65536 bytes"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "cannot be read"),
    ],
)
def test_what_is_no_file_of_a_sane_size_is_refused_by_name(tmp_path, ca, watch, spoil, sentence):
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    spoil(tmp_path / "svid_bundle.pem")
    watched = watch(tmp_path, limits=Limits(file_bytes=65_536))
    assert "svid_bundle.pem" in watched.problem(sentence)


def test_two_sets_in_one_directory_ask_for_a_layout(tmp_path, ca, watch):
    write_set(tmp_path, ca.issue(APP), ca.bundle, SPIFFE_HELPER)
    write_set(tmp_path, ca.issue(APP), ca.bundle, SPIFFE_ENABLE)
    assert "name one by layout=" in watch(tmp_path).problem("several sets of files")
    assert str(watch(tmp_path, layout=SPIFFE_ENABLE).next().id) == APP


def test_more_bundles_than_the_limit_are_not_taken(tmp_path, ca, watch):
    write_set(tmp_path, ca.issue(APP), ca.bundle, CREDENTIAL_BUNDLE)
    (tmp_path / "other.example.pem").write_bytes(bundle_to_pem(CertificateAuthority.in_memory("other.example").bundle))
    watch(tmp_path, limits=Limits(bundles=1)).problem("holds 2 bundles, 1 are taken")


def test_two_bundles_of_one_trust_domain_are_refused(tmp_path, ca, watch):
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    files = {"prod.example": tmp_path / "svid_bundle.pem"}
    watch(tmp_path, bundle_files=files).problem("another bundle of prod.example")


def test_a_bundle_map_is_not_the_bundle_of_one_trust_domain(tmp_path, ca, watch):
    other = CertificateAuthority.in_memory("other.example").bundle
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    (tmp_path / "map").write_bytes(bundles_to_map([X509Bundle(trust_domain=other.trust_domain, authorities=())]))
    watched = watch(tmp_path, bundle_files={"third.example": tmp_path / "map"})
    watched.problem("other trust domains than third.example")
    assert list(watched.source.identity().bundles) == [ca.trust_domain]


def test_a_broken_bundle_of_another_trust_domain_costs_only_itself(tmp_path, ca, watch):
    """Its domain decides what is in it, and must not be able to stop our own renewal."""
    write_set(tmp_path, ca.issue(APP), ca.bundle, CREDENTIAL_BUNDLE)
    other = CertificateAuthority.in_memory("other.example")
    (tmp_path / "other.example.pem").write_bytes(chain_pem(other.issue("spiffe://other.example/no-authority")))
    watched = watch(tmp_path)
    watched.next()
    assert "other.example.pem" in watched.problem("peers of that trust domain are refused")
    assert watched.source.health().ready
    write_set(tmp_path, ca.issue(APP), ca.bundle, CREDENTIAL_BUNDLE)
    assert list(watched.next().bundles) == [ca.trust_domain]
    (tmp_path / "other.example.pem").write_bytes(bundle_to_pem(other.bundle))
    assert set(watched.next().bundles) == {ca.trust_domain, other.trust_domain}


def in_a_directory_of_its_own(folder, name):
    (folder / "theirs").mkdir()
    return folder / "theirs" / name


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "does not exist"),
        (lambda path: (path.unlink(), path.mkdir()), "is no regular file"),
        (lambda path: path.chmod(0), "cannot be read"),
        (lambda path: path.write_bytes(b"x" * 70_000), "larger than 65536 bytes"),
    ],
    ids=["missing", "dangling", "a directory", "unreadable", "too large"],
)
@pytest.mark.parametrize("place", ["credential bundle", "named", "named elsewhere"])
def test_a_bundle_file_of_another_trust_domain_that_cannot_be_read_costs_only_itself(
    tmp_path, ca, watch, monkeypatch, spoil, sentence, place
):
    other, name = CertificateAuthority.in_memory("other.example"), "other.example.pem"
    layout = CREDENTIAL_BUNDLE if place == "credential bundle" else SPIFFE_HELPER
    path = in_a_directory_of_its_own(tmp_path, name) if place == "named elsewhere" else tmp_path / name
    named = {} if place == "credential bundle" else {"bundle_files": {"other.example": path}}
    monkeypatch.setattr(_read.os, "open", denying(os.open))  # root may read everything
    write_set(tmp_path, ca.issue(APP), ca.bundle, layout)
    path.write_bytes(bundle_to_pem(other.bundle))
    watched = watch(tmp_path, layout=layout, limits=Limits(file_bytes=65_536), **named)
    assert set(watched.next().bundles) == {ca.trust_domain, other.trust_domain}
    spoil(path)
    if place == "credential bundle" and not os.path.lexists(path):
        watched.until(lambda _: len(watched.source.identity().bundles) == 1)  # it is said no more, so not missed
    else:
        assert name in watched.problem(sentence)
    renewed = ca.issue(APP)
    write_set(tmp_path, renewed, ca.bundle, layout)
    watched.until(lambda _: watched.source.identity().svid.leaf == renewed.leaf)
    assert list(watched.source.identity().bundles) == [ca.trust_domain]
    assert (watched.source.health().ready, watched.source.health().failures) == (True, 0)


def denying(really):
    """Return `os.open` as it is for somebody who is not root, for files that nobody may read."""

    def opened(name, flags, *mode, **where):
        descriptor = really(name, flags, *mode, **where)
        if not stat.S_IMODE(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return descriptor

    return opened


def test_a_directory_of_another_trust_domain_that_is_missing_costs_only_that_domain(tmp_path, ca, watch):
    other = CertificateAuthority.in_memory("other.example")
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    path = tmp_path / "theirs" / "bundle.pem"
    watched = watch(tmp_path, bundle_files={"other.example": path})
    assert list(watched.next().bundles) == [ca.trust_domain]
    assert "theirs does not exist; peers of that trust domain are refused" in watched.source.health().problem
    renewed = ca.issue(APP)
    write_set(tmp_path, renewed, ca.bundle)
    assert watched.next().svid.leaf == renewed.leaf
    path.parent.mkdir()
    path.write_bytes(bundle_to_pem(other.bundle))
    assert other.trust_domain in watched.next().bundles


@pytest.mark.parametrize("name", ["other.example", "no trust domain"])
def test_a_broken_entry_of_a_bundle_map_costs_only_itself(tmp_path, ca, watch, name):
    other = CertificateAuthority.in_memory("other.example")
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    whole = json.loads(bundles_to_map([ca.bundle, other.bundle]))
    broken = {"trust_domains": {**whole["trust_domains"], name: {"keys": "none"}}}
    (tmp_path / "svid_bundle.pem").write_text(json.dumps(broken))
    watched = watch(tmp_path)
    rest = {"prod.example", "other.example"} - {name}
    assert set(map(str, watched.next().bundles)) == rest
    assert name in watched.source.health().problem
    (tmp_path / "svid_bundle.pem").write_text(json.dumps(whole))
    watched.until(lambda health: not health.problem)
    assert len(watched.source.identity().bundles) == 2


def test_the_broken_entry_of_our_own_trust_domain_is_not_left_out_of_a_bundle_map(tmp_path, ca, watch):
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    (tmp_path / "svid_bundle.pem").write_text('{"trust_domains": {"Prod.example": {"keys": "none"}}}')
    assert "svid_bundle.pem: bundle of prod.example: it has no 'keys'" in watch(tmp_path).problem("bundle of prod")


def test_another_trust_domain_with_two_bundles_has_none(tmp_path, ca, watch):
    other = CertificateAuthority.in_memory("other.example").bundle
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    (tmp_path / "svid_bundle.pem").write_bytes(bundles_to_map([ca.bundle, other]))
    (tmp_path / "other.pem").write_bytes(bundle_to_pem(other))
    watched = watch(tmp_path, bundle_files={"other.example": tmp_path / "other.pem"})
    assert list(watched.next().bundles) == [ca.trust_domain]
    assert "another bundle of other.example" in watched.source.health().problem


def test_relative_names_stay_what_they_were_when_the_program_goes_elsewhere(tmp_path, ca, watch, monkeypatch):
    other = CertificateAuthority.in_memory("other.example")
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    (tmp_path / "other.pem").write_bytes(bundle_to_pem(other.bundle))
    monkeypatch.chdir(tmp_path)
    watched = watch(".", bundle_files={"other.example": "other.pem"})
    assert len(watched.next().bundles) == 2
    monkeypatch.chdir("/")
    renewed = ca.issue(APP)
    write_set(tmp_path, renewed, ca.bundle)
    identity = watched.next()
    assert identity.svid.leaf == renewed.leaf
    assert len(identity.bundles) == 2


@pytest.mark.parametrize("error", [OSError, type("WatchfilesRustInternalError", (RuntimeError,), {})])
def test_what_cannot_be_watched_is_polled_and_the_log_says_so_once(tmp_path, ca, watch, monkeypatch, caplog, error):
    def no_instances(*_paths, **_how):
        raise error("Too many open files (os error 24)")

    caplog.set_level(logging.WARNING, "otel_spiffe.sources")
    monkeypatch.setattr(watchfiles, "watch", no_instances)
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    watched = watch(tmp_path)
    watched.next()
    for _ in range(2):
        renewed = ca.issue(APP)
        write_set(tmp_path, renewed, ca.bundle)
        assert watched.next().svid.leaf == renewed.leaf
    said = [record.getMessage() for record in caplog.records if "looked at every 0.2 s" in record.getMessage()]
    assert len(said) == 1
    assert "Too many open files" in said[0]
    assert "fs.inotify.max_user_instances" in said[0]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


ENTERED = """
import os, sys
from otel_spiffe.sources import SPIFFE_HELPER, FileSource
folder = sys.argv[1]
if os.geteuid() == 0:  # who may list everything
    for path in (folder, *(f"{folder}/{name}" for name in SPIFFE_HELPER.names)):
        os.chown(path, 65534, 65534)
    with FileSource.open(folder) as before:  # what is imported late, from where nobody may be kept out, is imported
        before.wait(30)
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
svid, key, bundle = (f"{folder}/{name}" for name in SPIFFE_HELPER.names)
for source in (
    FileSource.open(svid_file=svid, svid_key_file=key, bundle_file=bundle),
    FileSource.open(folder),
    FileSource.open(folder, layout=SPIFFE_HELPER),
):
    with source:
        print(source.wait(30).id)
"""


def test_a_directory_that_may_be_entered_and_not_listed_is_enough(ca):
    """As /etc/ssl/private is, with 0710."""
    with tempfile.TemporaryDirectory() as name:  # below the parent of `tmp_path` nobody else may enter
        write_set(Path(name), ca.issue(APP), ca.bundle)
        Path(name).chmod(0o311)
        program = [sys.executable, "-W", "error", "-c", ENTERED, name]
        done = subprocess.run(program, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
        Path(name).chmod(0o700)
    assert done.stdout == f"{APP}\n" * 3, done.stderr


def test_a_broken_bundle_of_our_own_trust_domain_is_not_left_out(tmp_path, ca, watch):
    write_set(tmp_path, ca.issue(APP), ca.bundle, CREDENTIAL_BUNDLE)
    (tmp_path / "prod.example.pem").write_bytes(chain_pem(ca.issue(APP)))
    watched = watch(tmp_path)
    watched.problem("is no CA certificate")
    with pytest.raises(SourceUnavailable, match=r"prod\.example\.pem"):
        watched.source.identity()


def test_a_bug_of_ours_is_told_by_the_health_and_the_files_are_looked_at_again(tmp_path, ca, watch, monkeypatch):
    def broken(*_arguments, **_keywords):
        raise ZeroDivisionError("oh")

    write_set(tmp_path, ca.issue(APP), ca.bundle)
    watched = watch(tmp_path)
    watched.next()
    renewed = ca.issue(APP)
    with monkeypatch.context() as patch:
        patch.setattr(_files, "identity_from_files", broken)
        write_set(tmp_path, renewed, ca.bundle)
        watched.problem("which is a bug: ZeroDivisionError: oh")
    assert watched.next().svid.leaf == renewed.leaf


def test_the_missing_bundle_of_our_own_trust_domain_is_not_left_out(tmp_path, ca, watch):
    write_set(tmp_path, ca.issue(APP), ca.bundle, CREDENTIAL_BUNDLE)
    (tmp_path / "prod.example.pem").unlink()
    (tmp_path / "prod.example.pem").symlink_to("nowhere")
    watched = watch(tmp_path)
    watched.problem("prod.example.pem does not exist; see that whoever writes it runs")
    with pytest.raises(SourceUnavailable, match=r"prod\.example\.pem"):
        watched.source.identity()


def test_a_key_that_everybody_can_read_is_warned_of_once(tmp_path, ca, watch, caplog):
    caplog.set_level(logging.WARNING, "otel_spiffe.sources")
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    (tmp_path / "svid_key.pem").chmod(0o644)
    watched = watch(tmp_path)
    watched.next()
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    watched.next()
    assert [record.getMessage() for record in caplog.records if "everybody" in record.getMessage()] == [
        f"FileSource({tmp_path}): the private key in {tmp_path}/svid_key.pem can be read by everybody on this machine"
    ]


def test_nothing_of_a_key_is_in_what_can_be_printed(tmp_path, ca, watch, caplog):
    caplog.set_level(logging.DEBUG)
    svid = ca.issue(APP)
    write_set(tmp_path, svid, ca.bundle)
    secret = key_pem(svid).decode().splitlines()[1]
    watched = watch(tmp_path)
    identity = watched.next()
    (tmp_path / "svid.pem").write_bytes(chain_pem(ca.issue(APP)))
    watched.problem("the private key is not the leaf's")
    assert secret not in caplog.text + repr(watched.source) + repr(identity) + str(watched.source.health())


def test_a_child_process_goes_on_watching(tmp_path, ca, watch):
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    watched = watch(tmp_path)
    watched.next()
    renewed = ca.issue(APP)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            seen = threading.Event()
            watched.source.subscribe(lambda identity: identity.svid.leaf == renewed.leaf and seen.set())
            write_set(tmp_path, renewed, ca.bundle)
            os.write(writing, b"y" if seen.wait(PATIENCE) else b"n")
        finally:
            os._exit(0)
    os.close(writing)
    answer = os.read(reading, 1)
    os.close(reading)
    os.waitpid(child, 0)
    assert answer == b"y"
    assert watched.next().svid.leaf == renewed.leaf


def test_no_thread_and_no_descriptor_is_left_after_close(tmp_path, ca):
    write_set(tmp_path, ca.issue(APP), ca.bundle)
    with FileSource.open(tmp_path) as source:
        source.wait(PATIENCE)
    gc.collect()  # what other tests left to the collector must not go meanwhile
    threads, process = threading.active_count(), psutil.Process()
    descriptors = process.num_fds()
    for _ in range(5):
        with FileSource.open(tmp_path) as source:
            source.wait(PATIENCE)
    assert threading.active_count() <= threads
    end, tick = time.monotonic() + PATIENCE, threading.Event()
    while process.num_fds() > descriptors:  # watchfiles closes its inotify a moment after it was let go
        assert time.monotonic() < end, process.num_fds()
        tick.wait(0.02)
    with pytest.raises(SourceUnavailable, match="closed"):
        source.identity()


@pytest.mark.parametrize(
    ("arguments", "keywords", "setting"),
    [
        ((), {}, "directory, svid_file, bundle_file"),
        (("/x",), {"svid_file": "/y"}, "directory"),
        ((), {"layout": SPIFFE_HELPER}, "layout"),
        ((), {"svid_file": "/x"}, "bundle_file"),
        ((), {"svid_key_file": "/x", "bundle_file": "/y"}, "svid_file"),
        ((), {"bundle_file": "/y"}, "trust_domain"),
        (("/x",), {"layout": Layout(bundle="ca.pem")}, "trust_domain"),
        (("/x",), {"poll_interval": 0}, "poll_interval"),
    ],
)
def test_half_a_configuration_is_refused_at_once(arguments, keywords, setting):
    with pytest.raises(InvalidConfiguration) as caught:
        FileSource.open(*arguments, **keywords)
    assert caught.value.setting == setting


def test_a_trust_domain_that_is_none_is_refused_at_once():
    with pytest.raises(InvalidIdentity, match="trust domain"):
        FileSource.open(bundle_file="/x", trust_domain="spiffe://prod.example")
