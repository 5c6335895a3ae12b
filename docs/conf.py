# SPDX-License-Identifier: Apache-2.0
"""Sphinx: MyST pages, the reference from the docstrings, no warning tolerated."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx import addnodes

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

# Foreign names, which only intersphinx could resolve; our own are never ignored, except private ones in signatures.
_FOREIGN = (
    "aiohttp",
    "asyncio",
    "collections",
    "cryptography",
    "datetime",
    "enum",
    "google",
    "grpc",
    "logging",
    "opentelemetry",
    "os",
    "pathlib",
    "pytest",
    "requests",
    "socket",
    "spiffe",
    "ssl",
    "threading",
    "types",
    "typing",
    "urllib3",
    "x509",
)
nitpick_ignore_regex = [
    ("py:.*", rf"({'|'.join(_FOREIGN)})(\..*)?"),
    # What `if TYPE_CHECKING:` imports is written without its module.
    (
        "py:.*",
        r"(Callable|Certificate|CertificateRevocationList|Iterator|Mapping|Path|Sequence|SpiffeId|TracebackType)",
    ),
    ("py:.*", r"(TrustDomain|timedelta|Self|Iterable|Any|Literal)"),
    ("py:.*", r"(bool|bytes|dict|float|frozenset|int|list|None|object|optional|set|str|tuple|type)"),
    ("py:.*", r"(BaseException|ConnectionError|Exception|OSError|ValueError)"),
    ("py:.*", r".*\b_[a-z]\w*\..*|_[A-Za-z]\w*"),
]
suppress_warnings = ["ref.python"]  # a name that two rooms export is no mistake: the door has them all again

default_role = "name"


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
    """Resolve a name written without its room, as annotations of `if TYPE_CHECKING:` imports are."""
    if node.get("refdomain") != "py":
        return None
    python = env.get_domain("py")
    target = node["reftarget"].rpartition(".")[2]
    for full in (name for name in python.objects if name.startswith("otel_spiffe.") and name.count(".") > 1):
        if full.rpartition(".")[2] == target:
            return python.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, content)
    return content if node.get("maybe") else None


def setup(app: Sphinx) -> None:
    app.add_role("name", name_role)
    app.connect("missing-reference", find_in_rooms)
