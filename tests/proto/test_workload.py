# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spiffe._proto import workload_pb2

from otel_spiffe import _proto
from otel_spiffe._proto import (
    X509BundlesResponse,
    X509SvidMessage,
    X509SvidResponse,
    decode_x509_bundles_response,
    decode_x509_svid_response,
    encode_x509_bundles_response,
    encode_x509_svid_response,
)
from otel_spiffe._proto._descriptor import _MESSAGES, message_class

_TEXT = st.text(max_size=20).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)
_SVIDS = st.builds(
    X509SvidMessage,
    spiffe_id=_TEXT,
    x509_svid=st.binary(max_size=40),
    x509_svid_key=st.binary(max_size=40),
    bundle=st.binary(max_size=40),
    hint=_TEXT,
)
_SVID_RESPONSES = st.builds(
    X509SvidResponse,
    svids=st.lists(_SVIDS, max_size=4).map(tuple),
    crl=st.lists(st.binary(max_size=40), max_size=3).map(tuple),
    federated_bundles=st.dictionaries(_TEXT, st.binary(max_size=40), max_size=3),
)
_BUNDLES_RESPONSES = st.builds(
    X509BundlesResponse,
    crl=st.lists(st.binary(max_size=40), max_size=3).map(tuple),
    bundles=st.dictionaries(_TEXT, st.binary(max_size=40), max_size=3),
)


@given(_SVID_RESPONSES)
def test_a_response_with_svids_survives_the_way_over_the_spiffe_package_and_back(response):
    theirs = workload_pb2.X509SVIDResponse.FromString(encode_x509_svid_response(response))
    assert [svid.spiffe_id for svid in theirs.svids] == [svid.spiffe_id for svid in response.svids]
    assert [svid.x509_svid_key for svid in theirs.svids] == [svid.x509_svid_key for svid in response.svids]
    assert decode_x509_svid_response(theirs.SerializeToString()) == response


@given(_BUNDLES_RESPONSES)
def test_a_response_with_bundles_survives_the_way_over_the_spiffe_package_and_back(response):
    theirs = workload_pb2.X509BundlesResponse.FromString(encode_x509_bundles_response(response))
    assert dict(theirs.bundles) == dict(response.bundles)
    assert decode_x509_bundles_response(theirs.SerializeToString()) == response


@pytest.mark.parametrize("name", sorted(_MESSAGES))
def test_field_numbers_names_and_types_are_those_of_the_spiffe_package(name):
    """The canary for workload.proto: a field that upstream adds shows up here."""

    def fields(descriptor):
        return [
            (field.number, field.name, field.type, field.is_repeated, getattr(field.message_type, "full_name", None))
            for field in descriptor.fields
        ]

    theirs = workload_pb2.DESCRIPTOR.message_types_by_name[name]
    ours = message_class(name).DESCRIPTOR
    assert fields(ours) == fields(theirs)
    assert {nested.name: fields(nested) for nested in ours.nested_types} == {
        nested.name: fields(nested) for nested in theirs.nested_types
    }


def test_the_method_paths_are_those_of_the_spiffe_package():
    service = workload_pb2.DESCRIPTOR.services_by_name[_proto.WORKLOAD_API_SERVICE]
    assert {f"/{service.full_name}/{method.name}" for method in service.methods} == {
        _proto.FETCH_X509_SVID,
        _proto.FETCH_X509_BUNDLES,
        _proto.FETCH_JWT_SVID,
        _proto.FETCH_JWT_BUNDLES,
        _proto.VALIDATE_JWT_SVID,
    }


def test_the_requests_that_we_send_have_no_fields():
    assert workload_pb2.X509SVIDRequest().SerializeToString() == _proto.EMPTY_REQUEST
    assert not workload_pb2.X509SVIDRequest.DESCRIPTOR.fields
    assert not workload_pb2.X509BundlesRequest.DESCRIPTOR.fields


@pytest.mark.parametrize(
    "order",
    [
        ("otel_spiffe._proto", "spiffe._proto.workload_pb2"),
        ("spiffe._proto.workload_pb2", "otel_spiffe._proto"),
    ],
)
def test_both_libraries_can_be_imported_in_either_order(order):
    program = "".join(f"import {name}\n" for name in order)
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@pytest.mark.parametrize("decode", [decode_x509_svid_response, decode_x509_bundles_response])
@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x1a\x03\x0a\x01\xff"])
def test_bytes_that_are_no_message_are_a_value_error(decode, data):
    if decode is decode_x509_bundles_response and data[0] == 0x1A:
        data = b"\x12" + data[1:]
    with pytest.raises(ValueError, match="no Workload API message"):
        decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_a_value_error(data):
    for decode in (decode_x509_svid_response, decode_x509_bundles_response):
        try:
            decode(data)
        except ValueError as error:
            assert "Workload API" in str(error)  # noqa: PT017 -- most random bytes do decode


def test_an_empty_message_has_empty_fields():
    assert decode_x509_svid_response(b"") == X509SvidResponse()
    assert decode_x509_bundles_response(b"") == X509BundlesResponse()


def test_the_key_is_not_in_the_repr():
    message = X509SvidMessage(spiffe_id="spiffe://a/b", x509_svid=b"", x509_svid_key=b"SECRET", bundle=b"")
    assert "SECRET" not in repr(X509SvidResponse(svids=(message,)))
