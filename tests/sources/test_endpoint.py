# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.sources._endpoint import parse_endpoint


@pytest.mark.parametrize(
    ("text", "target", "path"),
    [
        ("unix:/run/spire/agent.sock", "unix:/run/spire/agent.sock", "/run/spire/agent.sock"),
        ("unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock", "/run/spire/agent.sock"),
        ("UNIX:///a", "unix:/a", "/a"),
        ("unix:///with%20space", "unix:/with%20space", "/with space"),
        ("unix:///100%25", "unix:/100%25", "/100%"),
        ("unix:/" + "a" * 106, "unix:/" + "a" * 106, "/" + "a" * 106),
        ("tcp://127.0.0.1:8000", "ipv4:127.0.0.1:8000", None),
        ("tcp://[::1]:1", "ipv6:[::1]:1", None),
        ("tcp://[2001:0db8::0001]:65535", "ipv6:[2001:db8::1]:65535", None),
    ],
)
def test_the_forms_of_the_standard_are_taken(text, target, path):
    endpoint = parse_endpoint(text)
    assert (endpoint.target, endpoint.path, str(endpoint)) == (target, path, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no scheme"),
        ("/run/agent.sock", "has no scheme"),
        ("agent.sock", "has no scheme"),
        ("http://127.0.0.1:80", "scheme 'http'"),
        ("npipe:/a", "scheme 'npipe'"),
        ("unix-abstract:a", "scheme 'unix-abstract'"),
        ("unix:", "no absolute path"),
        ("unix:relative", "no absolute path"),
        ("unix:@abstract", "no absolute path"),
        ("unix://", "no absolute path"),
        ("unix://host/a", "has an authority, 'host'"),
        ("unix://run/agent.sock", "has an authority, 'run'"),
        ("unix:///a?q", "query or a fragment"),
        ("unix:///a?", "query or a fragment"),
        ("unix:///a#f", "query or a fragment"),
        ("unix:///a#", "query or a fragment"),
        ("unix:///a\n", "cannot be printed"),
        (" unix:///a", "white space"),
        ("unix:///a%00", "no absolute path"),
        ("unix:/" + "a" * 107, "107 bytes"),
        ("tcp://localhost:80", "no IP address"),
        ("tcp://127.0.0.1", "has no port"),
        ("tcp://127.0.0.1:0", "has no port"),
        ("tcp://127.0.0.1:65536", "no valid port"),
        ("tcp://127.0.0.1:x", "no valid port"),
        ("tcp://127.0.0.1:80/", "has a path or a user"),
        ("tcp://127.0.0.1:80/p", "has a path or a user"),
        ("tcp://me@127.0.0.1:80", "has a path or a user"),
        ("tcp://127.0.0.1:80?q", "query or a fragment"),
        ("tcp:127.0.0.1:80", "has a path or a user"),
        ("tcp://[::1", "is no URI"),
        ("tcp://:80", "no IP address"),
        ("tcp://[fe80::1%25eth0]:80", "with a zone"),
    ],
)
def test_anything_else_is_refused_with_the_reason_and_what_would_do(text, reason):
    with pytest.raises(InvalidConfiguration, match=r"SPIFFE Workload Endpoint 4.*give unix:///") as refused:
        parse_endpoint(text, setting="SPIFFE_ENDPOINT_SOCKET")
    assert reason in str(refused.value)
    assert refused.value.setting == "SPIFFE_ENDPOINT_SOCKET"


@given(st.one_of(st.text(), st.text().map("unix:///".__add__), st.text().map("tcp://".__add__)))
def test_any_text_is_an_endpoint_or_refused(text):
    try:
        endpoint = parse_endpoint(text)
    except InvalidConfiguration:
        return
    assert endpoint.target.startswith(("unix:/", "ipv4:", "ipv6:["))
