# SPDX-License-Identifier: Apache-2.0
"""The lazy door: it knows the rooms' names, says them to type checkers, and loads nothing before it must."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import otel_spiffe
from otel_spiffe import _ROOM_OF

HEAVY = ("grpc", "opentelemetry", "cryptography", "requests", "aiohttp", "asyncio", "pytest", "rich", "ssl")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", otel_spiffe.__all__)
def test_each_name_is_the_rooms_own_public_object(name):
    room = importlib.import_module(f"otel_spiffe.{_ROOM_OF[name]}")
    assert name in room.__all__
    assert getattr(otel_spiffe, name) is getattr(room, name)


def test_table_and_all_agree_and_no_name_stands_twice():
    assert sorted(_ROOM_OF) == sorted(otel_spiffe.__all__) == otel_spiffe.__all__
    assert sum(len(names) for names in otel_spiffe._ROOMS.values()) == len(_ROOM_OF)


def test_type_checkers_are_told_the_same_names_from_the_same_rooms():
    tree = ast.parse(Path(otel_spiffe.__file__).read_text(encoding="utf-8"))
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in branch.body for alias in node.names}
    assert told == {name: f"otel_spiffe.{room}" for name, room in _ROOM_OF.items()}


def test_importing_the_package_loads_nothing_heavy():
    loaded = run(
        "import sys, otel_spiffe; dir(otel_spiffe); print(*{m.partition('.')[0] for m in sys.modules})"
    ).split()
    assert not set(HEAVY) & set(loaded)


def test_authorizers_come_without_opentelemetry_and_requests():
    loaded = run("import sys; from otel_spiffe import authorize_id; print(*sys.modules)").split()
    assert "opentelemetry" not in loaded
    assert "requests" not in loaded


def test_star_import_and_dir_give_all_names():
    assert set(otel_spiffe.__all__) <= set(dir(otel_spiffe))
    assert run("from otel_spiffe import *; print(authorize_any())") == "any()"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'otel_spiffe' has no attribute 'Manager'"):
        _ = otel_spiffe.Manager  # type: ignore[attr-defined]
    assert run("try:\n  from otel_spiffe import Manager\nexcept ImportError: print('no')") == "no"


def test_every_room_has_a_docstring_and_says_what_is_public():
    for room in pkgutil.iter_modules(otel_spiffe.__path__, "otel_spiffe."):
        module = importlib.import_module(room.name)
        assert module.__doc__, room.name
        assert all(hasattr(module, name) for name in module.__all__), room.name
        assert len(set(module.__all__)) == len(module.__all__), room.name
