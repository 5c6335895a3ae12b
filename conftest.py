# SPDX-License-Identifier: Apache-2.0
"""The README's and the docs' examples are tests, and hypothesis does not mind a busy machine."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

settings.register_profile(
    "project",
    deadline=None,  # two cores, shared: a slow example says nothing about the code
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/howto/*.md"],
    fixtures=["spiffe_environment"],  # an agent, and the variable that says where
).pytest()
