# SPDX-License-Identifier: Apache-2.0
"""Every public name of every room stands in the reference that Sphinx built, and in an example that runs."""

import ast
import importlib
import pkgutil
import re
import zlib
from pathlib import Path
from types import ModuleType

import pytest

import otel_spiffe

HERE = Path(__file__).parent
INVENTORY = HERE / "_build" / "objects.inv"
PAGES = (HERE.parent / "README.md", *sorted(HERE.glob("*.md")), *sorted(HERE.glob("howto/*.md")))
NOT_FOR_READERS = {"cli", "_proto"}  # a program, and messages
FIXTURES = "otel_spiffe.testing.plugin"


@pytest.fixture(scope="module")
def documented():
    if not INVENTORY.exists():
        pytest.skip("the docs are not built: nox -s docs")
    header, _, rest = INVENTORY.read_bytes().partition(b"zlib.\n")
    assert b"otel-spiffe" in header
    return {line.split(" ", 1)[0] for line in zlib.decompress(rest).decode().splitlines()}


def rooms(package=otel_spiffe):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        last = module.name.rpartition(".")[2]
        if last in NOT_FOR_READERS or last.startswith("_"):
            continue
        yield module.name
        if module.ispkg:
            yield from rooms(importlib.import_module(module.name))


def public_names(room):
    module = importlib.import_module(room)
    return {name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)}


def examples():
    """Yield the syntax tree of each page's examples: one program, as each page is when its examples run."""
    for page in PAGES:
        text = page.read_text()
        assert "skip: " not in text, f"{page}: an example that is skipped is none"
        fences = re.findall(r"^```(?:python|\{code-block\} python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        yield ast.parse("\n".join(fences))


def used_of_rooms(tree):
    """Return what a program uses of ours: (room, name), where it does more with the name than import it."""
    names = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("otel_spiffe")
        for alias in node.names
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in names:
                yield names[name]
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in names:
                yield ".".join(names[name]), attribute  # from otel_spiffe import environment; environment.settings()


def used_of_fixtures(tree):
    """Return the fixtures that a program's functions ask for, or override."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield from (each.arg for each in node.args.args)
            yield node.name


TREES = [*examples()]
USED = {use for tree in TREES for use in used_of_rooms(tree)}
USED_FIXTURES = {name for tree in TREES for name in used_of_fixtures(tree)}


def is_used(room, name):
    if room == FIXTURES:
        return name in USED_FIXTURES
    # The door has the rooms' names again: what is imported from one is used of the other.
    return (room, name) in USED or (name in otel_spiffe.__all__ and ("otel_spiffe", name) in USED)


def test_the_rooms_within_rooms_are_found():
    assert {"otel_spiffe.identity", "otel_spiffe.exporters.grpc", "otel_spiffe.exporters.http", FIXTURES} <= {*rooms()}


@pytest.mark.parametrize("room", [*rooms()])
def test_every_public_name_is_in_the_reference(room, documented):
    assert {f"{room}.{name}" for name in public_names(room)} <= documented


@pytest.mark.parametrize("room", [*rooms()])
def test_every_public_name_is_in_an_example_that_runs(room):
    assert {name for name in public_names(room) if not is_used(room, name)} == set()


def test_every_name_of_the_door_is_one_of_a_room():
    of_rooms = {name for room in rooms() for name in public_names(room)}
    assert {*otel_spiffe.__all__} <= of_rooms


def test_a_name_that_is_imported_and_not_used_is_in_no_example():
    tree = ast.parse("from otel_spiffe.ca import KeyType as K, MAX_STREAMS\nfrom otel_spiffe import ca\nK, ca.x")
    assert {*used_of_rooms(tree)} == {("otel_spiffe.ca", "KeyType"), ("otel_spiffe", "ca"), ("otel_spiffe.ca", "x")}
