# SPDX-License-Identifier: Apache-2.0
"""Sphinx: MyST pages, the reference from the docstrings, no warning tolerated."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx import addnodes
from sphinx.pycode import ModuleAnalyzer

import otel_spiffe

if TYPE_CHECKING:
    from docutils.parsers.rst.states import Inliner
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "otel-spiffe"
copyright = "The otel-spiffe authors"
release = importlib.metadata.version("otel-spiffe")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "otel-spiffe"
html_theme_options = {"navigation_with_keys": True}

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Online (`sphinx-build -t online`) foreign names become links. CI has registries alone, no websites.
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "cryptography": ("https://cryptography.io/en/latest", None),
        "grpc": ("https://grpc.github.io/grpc/python", None),
        "opentelemetry": ("https://opentelemetry-python.readthedocs.io/en/latest", None),
        "requests": ("https://requests.readthedocs.io/en/latest", None),
    }
    if tags.has("online")  # type: ignore[name-defined]  # noqa: F821 -- Sphinx gives `tags` to this file
    else {}
)

suppress_warnings = ["ref.python"]  # a name that two rooms export is no mistake: the door has them all again

default_role = "name"


def public_names() -> dict[str, list[str]]:
    """Return the rooms of each public name, after loading it: lazy ones are then there for autodoc, too."""
    rooms_of: dict[str, list[str]] = {}
    for module in pkgutil.walk_packages(otel_spiffe.__path__, "otel_spiffe."):
        if not any(part.startswith("_") for part in module.name.split(".")) and ".cli" not in module.name:
            room = importlib.import_module(module.name)
            for name in room.__all__:
                getattr(room, name)
                rooms_of.setdefault(name, []).append(module.name)
    return rooms_of


ROOM_OF = public_names()


def name_role(
    _role: str, rawtext: str, text: str, _line: int, inliner: Inliner, *_options_and_content: object
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Turn single backticks in a docstring into a link where the name is ours, into plain code elsewhere."""
    env = inliner.document.settings.env
    reference = addnodes.pending_xref(
        rawtext,
        nodes.literal(rawtext, text),
        refdomain="py",
        reftype="obj",
        reftarget=text,
        refspecific=True,
        refdoc=env.docname,
        maybe=True,
        **{"py:module": env.ref_context.get("py:module"), "py:class": env.ref_context.get("py:class")},
    )
    return [reference], []


def find_in_rooms(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node
) -> nodes.Node | None:
    """Resolve a name written without its room, as annotations of `if TYPE_CHECKING:` imports are.

    What is not public here is plain: foreign names (online, intersphinx has resolved them before) and private ones.
    A public name that is not in the reference stays unresolved, and so is a warning.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].rpartition(".")[2]
    if target not in ROOM_OF:
        return content
    python = env.get_domain("py")
    for room in ROOM_OF[target]:
        if f"{room}.{target}" in python.objects:
            return python.resolve_xref(env, node["refdoc"], app.builder, "obj", f"{room}.{target}", node, content)
    return content if node.get("maybe") else None


def tell_autodoc_of_data() -> None:
    """Give autodoc the docstrings of constants and aliases: it looks for them in a room's `__init__` alone."""
    for module in pkgutil.walk_packages(otel_spiffe.__path__, "otel_spiffe."):
        room = module.name.partition("._")[0]
        entrance = ModuleAnalyzer.for_module(room)
        entrance.analyze()
        for (scope, name), lines in ModuleAnalyzer.for_module(module.name).find_attr_docs().items():
            if not scope and room in ROOM_OF.get(name, ()):
                entrance.attr_docs.setdefault(("", name), lines)


tell_autodoc_of_data()


def plain_first_line(_app: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before a colon for a type, where the docstring is just a sentence."""
    if what in {"attribute", "data", "property"} and lines and not lines[0].startswith(":"):
        lines[0] = f":{lines[0]}"


def setup(app: Sphinx) -> None:
    app.add_role("name", name_role)
    app.connect("missing-reference", find_in_rooms, priority=900)
    app.connect("autodoc-process-docstring", plain_first_line, priority=400)
