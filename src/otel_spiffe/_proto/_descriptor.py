# SPDX-License-Identifier: Apache-2.0
"""workload.proto of the SPIFFE Workload API, as far as X.509 goes, built in a pool of our own.

workload.proto has no package, so every library that generates code from it claims the same global names.
In protobuf's default pool the second one fails at import, in either order, next to the `spiffe` package:
``TypeError: Couldn't build proto file into descriptor pool: duplicate symbol 'X509SVIDRequest'`` (protobuf
7.36). A private pool shares no name with anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["message_class"]

_Field = descriptor_pb2.FieldDescriptorProto
_STRING, _BYTES, _MESSAGE = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_MESSAGE

# Message to its fields: number, name, type, repeated, message type. A name in TitleCase with "Entry" is a map.
_MESSAGES: dict[str, tuple[tuple[int, str, _Field.Type.ValueType, bool, str], ...]] = {
    "X509SVID": (
        (1, "spiffe_id", _STRING, False, ""),
        (2, "x509_svid", _BYTES, False, ""),
        (3, "x509_svid_key", _BYTES, False, ""),
        (4, "bundle", _BYTES, False, ""),
        (5, "hint", _STRING, False, ""),
    ),
    "X509SVIDResponse": (
        (1, "svids", _MESSAGE, True, ".X509SVID"),
        (2, "crl", _BYTES, True, ""),
        (3, "federated_bundles", _MESSAGE, True, ".X509SVIDResponse.FederatedBundlesEntry"),
    ),
    "X509BundlesResponse": (
        (1, "crl", _BYTES, True, ""),
        (2, "bundles", _MESSAGE, True, ".X509BundlesResponse.BundlesEntry"),
    ),
}
_MAPS = {"X509SVIDResponse": "FederatedBundlesEntry", "X509BundlesResponse": "BundlesEntry"}


def message_class(name: str) -> type[Message]:
    """Return the class of the message called `name`, for example ``X509SVIDResponse``."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="workload.proto", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind, repeated, type_name in fields:
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            message.field.add(number=number, name=field, type=kind, label=label, type_name=type_name or None)
        if name in _MAPS:
            _add_string_to_bytes_map(message, _MAPS[name])
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_string_to_bytes_map(message: descriptor_pb2.DescriptorProto, name: str) -> None:
    entry = message.nested_type.add(name=name)
    entry.options.map_entry = True
    entry.field.add(number=1, name="key", type=_STRING, label=_Field.LABEL_OPTIONAL)
    entry.field.add(number=2, name="value", type=_BYTES, label=_Field.LABEL_OPTIONAL)


_POOL = _pool()
