# SPDX-License-Identifier: Apache-2.0
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spiffe import SpiffeId, TrustDomain

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity import MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, parse_spiffe_id, parse_trust_domain

DOMAIN_CHARACTERS = set(string.ascii_lowercase + string.digits + "._-")
PATH_CHARACTERS = set(string.ascii_letters + string.digits + "._-")


@pytest.mark.parametrize("code", range(256))
def test_a_trust_domain_holds_the_characters_of_the_standard_and_no_others(code):
    character = chr(code)
    if character.lower() in DOMAIN_CHARACTERS and character.isascii():
        assert parse_trust_domain(f"a{character}b").name == f"a{character.lower()}b"
        assert str(parse_spiffe_id(f"spiffe://a{character}b/x")) == f"spiffe://a{character.lower()}b/x"
    else:
        with pytest.raises(InvalidIdentity):
            parse_trust_domain(f"a{character}b")
        if character != "/":
            with pytest.raises(InvalidIdentity):
                parse_spiffe_id(f"spiffe://a{character}b/x")


@pytest.mark.parametrize("code", range(256))
def test_a_path_holds_the_characters_of_the_standard_and_no_others(code):
    uri = f"spiffe://a/x{chr(code)}y"
    if chr(code) in PATH_CHARACTERS | {"/"}:
        assert str(parse_spiffe_id(uri)) == uri
    else:
        with pytest.raises(InvalidIdentity, match=r"SPIFFE-ID 2\.2"):
            parse_spiffe_id(uri)


@pytest.mark.parametrize(
    ("uri", "canonical"),
    [
        ("spiffe://trustdomain", "spiffe://trustdomain"),
        ("spiffe://trustdomain/path", "spiffe://trustdomain/path"),
        ("SPIFFE://trustdomain/path", "spiffe://trustdomain/path"),
        ("spiffe://TrustDomain/Path", "spiffe://trustdomain/Path"),
        ("spiffe://trustdomain/path1/path2", "spiffe://trustdomain/path1/path2"),
        ("spiffe://trustdomain/...", "spiffe://trustdomain/..."),
        ("spiffe://trustdomain/.x/..y/z.", "spiffe://trustdomain/.x/..y/z."),
        ("spiffe://1.2.3.4/service", "spiffe://1.2.3.4/service"),
        ("spiffe://..../x", "spiffe://..../x"),
        ("spiffe://-_./x", "spiffe://-_./x"),
    ],
)
def test_a_valid_id_comes_back_with_scheme_and_trust_domain_in_lowercase(uri, canonical):
    parsed = parse_spiffe_id(uri)
    assert isinstance(parsed, SpiffeId)
    assert str(parsed) == canonical
    assert parsed.trust_domain == parse_trust_domain(canonical.split("/")[2])


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "does not begin with spiffe://"),
        ("spiffe:", "does not begin"),
        ("spiffe:/", "does not begin"),
        ("spiffe:/path", "does not begin"),
        ("spiffe:trustdomain/path", "does not begin"),
        ("http://trustdomain/path", "does not begin"),
        ("trustdomain/path", "does not begin"),
        (" spiffe://trustdomain/path", "does not begin"),
        ("spiffe://", "trust domain is empty"),
        ("spiffe:///", "trust domain is empty"),
        ("spiffe:///path", "trust domain is empty"),
        ("spiffe://user@trustdomain/x", "no user, port"),
        ("spiffe://user:pw@trustdomain/x", "no user, port"),
        ("spiffe://trustdomain:80/x", "no user, port"),
        ("spiffe://trust%20domain/x", "percent-encoding"),
        ("spiffe://trustdomain?q=1", "no user, port"),
        ("spiffe://trustdomain#f", "no user, port"),
        ("spiffe://[::1]/x", "no user, port"),
        ("spiffe://bücher/x", "no user, port"),
        ("spiffe://\u212aelvin/x", "no user, port"),  # lowercases to an ASCII k
        ("spiffe://trustdomain/", "trailing slash"),
        ("spiffe://trustdomain//", "empty segment"),
        ("spiffe://trustdomain//path", "empty segment"),
        ("spiffe://trustdomain/path/", "trailing slash"),
        ("spiffe://trustdomain/path//x", "empty segment"),
        ("spiffe://trustdomain/.", "'.' or '..'"),
        ("spiffe://trustdomain/./path", "'.' or '..'"),
        ("spiffe://trustdomain/path/..", "'.' or '..'"),
        ("spiffe://trustdomain/../admin", "'.' or '..'"),
        ("spiffe://trustdomain/path?query", "no query"),
        ("spiffe://trustdomain/path#fragment", "no query"),
        ("spiffe://trustdomain/p%61th", "percent-encoding"),
        ("spiffe://trustdomain/pfad/\u00e9", "something other"),
        ("spiffe://trustdomain/path\n", "something other"),
        ("spiffe://trustdomain\n", "something other"),
        ("spiffe://trustdomain\n/path", "something other"),
        ("spiffe://trustdomain/a\nb", "something other"),
        ("spiffe://trustdomain/\ud800", "something other"),
        ("spiffe://\udfff/x", "something other"),
        (None, "it is NoneType, and must be str"),
        (b"spiffe://trustdomain/path", "it is bytes"),
    ],
)
def test_what_is_no_id_is_refused_with_the_rule_that_it_breaks(uri, reason):
    with pytest.raises(InvalidIdentity) as caught:
        parse_spiffe_id(uri)
    assert reason in str(caught.value)
    str(caught.value).encode()  # a lone surrogate must not spoil the log line


@pytest.mark.parametrize(
    "name",
    ["", "spiffe://prod.example", "prod.example/x", "prod.example\n", "a b", "a:1", "\u212a", "..%2f", None, 7],
)
def test_what_is_no_trust_domain_name_is_refused(name):
    with pytest.raises(InvalidIdentity):
        parse_trust_domain(name)


def test_a_trust_domain_is_a_spiffe_trust_domain_in_lowercase():
    assert parse_trust_domain("Prod.Example") == TrustDomain("prod.example")


def test_ids_end_at_2048_bytes_and_trust_domains_at_255():
    longest = "spiffe://td/" + "x" * (MAX_ID_BYTES - len("spiffe://td/"))
    assert str(parse_spiffe_id(longest)) == longest
    with pytest.raises(InvalidIdentity, match="longer than 2048 bytes"):
        parse_spiffe_id(longest + "x")
    name = "x" * MAX_TRUST_DOMAIN_BYTES
    assert parse_trust_domain(name).name == name
    with pytest.raises(InvalidIdentity, match="longer than 255 bytes"):
        parse_trust_domain(name + "x")
    with pytest.raises(InvalidIdentity, match="longer than 255 bytes"):
        parse_spiffe_id(f"spiffe://{name}x/y")


def test_the_length_is_counted_in_bytes():
    with pytest.raises(InvalidIdentity, match="longer than 2048 bytes"):
        parse_spiffe_id("spiffe://td/" + "\u00e9" * 1024)


@pytest.mark.parametrize("text", ["x" * 100_000, "\ud800" * 5000])
def test_an_error_shows_a_bounded_part_of_the_text(text):
    with pytest.raises(InvalidIdentity) as caught:
        parse_trust_domain(text)
    assert len(str(caught.value)) < 600


@given(st.text())
def test_any_text_is_an_id_or_invalid(text):
    for uri in (text, f"spiffe://{text}", f"spiffe://a/{text}"):
        try:
            parsed = parse_spiffe_id(uri)
        except InvalidIdentity:
            continue
        assert str(parsed).lower() == uri.lower()
        assert parse_spiffe_id(str(parsed)) == parsed


names = st.text(sorted(DOMAIN_CHARACTERS), min_size=1, max_size=MAX_TRUST_DOMAIN_BYTES)
segments = st.text(sorted(PATH_CHARACTERS), min_size=1, max_size=30).filter(lambda each: each not in {".", ".."})


@given(names, st.lists(segments, max_size=10))
def test_every_id_of_the_grammar_is_accepted_unchanged(name, path):
    uri = "/".join([f"spiffe://{name}", *path])
    parsed = parse_spiffe_id(uri)
    assert str(parsed) == uri
    assert parsed.trust_domain.name == name
    assert parsed.path == uri.removeprefix(f"spiffe://{name}")
