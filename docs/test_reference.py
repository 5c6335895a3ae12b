# SPDX-License-Identifier: Apache-2.0
"""Every public name of every room stands in the reference that Sphinx built."""

import importlib
import pkgutil
import zlib
from pathlib import Path
from types import ModuleType

import pytest

import otel_spiffe

INVENTORY = Path(__file__).parent / "_build" / "objects.inv"
NOT_FOR_READERS = {"cli", "_proto"}  # a program, and messages


@pytest.fixture(scope="module")
def documented():
    if not INVENTORY.exists():
        pytest.skip("the docs are not built: nox -s docs")
    header, _, rest = INVENTORY.read_bytes().partition(b"zlib.\n")
    assert b"otel-spiffe" in header
    return {line.split(" ", 1)[0] for line in zlib.decompress(rest).decode().splitlines()}


def rooms():
    for module in pkgutil.iter_modules(otel_spiffe.__path__):
        if module.name not in NOT_FOR_READERS:
            yield f"otel_spiffe.{module.name}"


@pytest.mark.parametrize("room", [*rooms()])
def test_every_public_name_is_in_the_reference(room, documented):
    module = importlib.import_module(room)
    names = {f"{room}.{name}" for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)}
    assert names <= documented
