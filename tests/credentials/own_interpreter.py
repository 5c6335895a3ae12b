# SPDX-License-Identifier: Apache-2.0
"""Scripts that fork, or end, each in an interpreter of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

PRELUDE = """
    import os, sys, threading, grpc
    sys.path.insert(0, os.path.dirname(sys.argv[1]))
    import conftest
    from otel_spiffe.credentials import secure_channel
    from otel_spiffe.identity import authorize_any, authorize_id
    world = conftest.World()
"""


def python(script, *arguments, executable=sys.executable, timeout=100, may_die=False, **environ):
    # A relay's daemon threads, a fork with threads: what Python warns of there is what is tried here.
    done = subprocess.run(
        [executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0 or (may_die and done.returncode < 0), done.stderr
    return done


def python_with_world(script, *arguments, **keywords):
    whole = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    return python(whole, Path(__file__).with_name("conftest.py"), *arguments, **keywords)
