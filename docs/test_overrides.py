# SPDX-License-Identifier: Apache-2.0
"""The overrides that docs/testing.md shows are a test file of their own, and it passes."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("testing.md").read_text()


def test_the_fixtures_that_are_shown_overridden_are(tmp_path):
    (shown,) = re.findall(r"^```\{code-block\} python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    file = tmp_path / "test_shown.py"
    file.write_text(f"import pytest\n\n\n{shown}")
    arguments = ["-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio", "-q", "--rootdir", tmp_path, file]
    done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=tmp_path, timeout=100, check=False)  # noqa: S603 -- ours
    assert done.returncode == 0
