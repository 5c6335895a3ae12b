# SPDX-License-Identifier: Apache-2.0
"""All that CI does, and how to do one part of it: ``nox -l`` lists the sessions, ``nox -s tests-3.12`` runs one.

A bare ``nox`` runs what CI runs; `bench` stands beside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
GROUPS = PROJECT["dependency-groups"]

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False  # a Python that is not here is skipped, and nox says so
nox.options.download_python = "never"  # CI runs with registries alone

# The plugin that we ship is loaded after measuring began; autoloaded, it would import the package before.
PLUGINS = ("otel_spiffe.testing.plugin", "_hypothesis_pytestplugin", "xdist.plugin", "pytest_timeout")
MEASURED = ("--disable-plugin-autoload", *(word for name in PLUGINS for word in ("-p", name)))
PURE = ("*/otel_spiffe/identity/*", "*/otel_spiffe/rotation/*", "*/otel_spiffe/errors.py")


def find_pyenv_pythons() -> None:
    """Make pyenv's ``python3.12`` start 3.12: its shims refuse a version that is installed and not chosen."""
    if "PYENV_VERSION" in os.environ or shutil.which("pyenv") is None:
        return
    listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=False).stdout.split()  # noqa: S607
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    chosen = {minor: full for full in listed for minor in PYTHONS if full.startswith(f"{minor}.")}
    os.environ["PYENV_VERSION"] = ":".join(chosen[minor] for minor in sorted(chosen, key=lambda m: (m != here, m)))


find_pyenv_pythons()


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, name))


def workers() -> str:
    return str(max(2, min(4, os.cpu_count() or 1)))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff finds nothing, and its formatter changes nothing."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """The sources satisfy mypy strict and pyright strict; pyright and its Node come as wheels."""
    session.install("-e", ".[gateway,ca,testing,cli]", *group("typing"))
    session.run("mypy")
    session.run("pyright")


@nox.session
def arrows(session: nox.Session) -> None:
    """Imports point down only, and the pure rooms know no I/O."""
    session.install("-e", ".", *group("arrows"))
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite passes; on the first Python its coverage is measured and held."""
    session.install("-e", ".[gateway,ca,testing,cli]", *group("tests"))
    if session.posargs or session.python != PYTHONS[0]:
        session.run("pytest", *(session.posargs or ["-n", workers()]))
        return
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *MEASURED, "-n", workers())
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", "--fail-under=95")
    session.run("coverage", "report", "--fail-under=100", "--include", ",".join(PURE))


@nox.session(python=PYTHONS[0])
def tests_oldest(session: nox.Session) -> None:
    """The suite passes with the oldest of each library that pyproject.toml admits."""
    session.install("uv")
    # The `tests` group at its lower bounds too: what it needs newer, it says.
    wanted = ["-e", ".[gateway,ca,testing,cli]", *group("tests")]
    into = ["--python", session.virtualenv.location]
    session.run("uv", "pip", "install", "--quiet", "--resolution=lowest-direct", *into, *wanted)
    session.run("pytest", "-n", workers(), *session.posargs)


@nox.session(python=PYTHONS[0])
def distro(session: nox.Session) -> None:
    """`opentelemetry-instrument` finds the exporters without a line of code, on the newest pair that installs."""
    session.install("-e", ".[gateway,ca,testing,cli]", *group("tests"), *group("distro"))
    session.run("pytest", "-n", workers(), *(session.posargs or ["tests/exporters", "tests/flows"]))


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """The docs build without a warning, every example in them runs, every public name is in them."""
    session.install("-e", ".[gateway,ca,testing,cli]", *group("docs"), *group("tests"))
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build")
    session.run("pytest", "docs", "README.md", *session.posargs)


@nox.session(python=PYTHONS[0])
def examples(session: nox.Session) -> None:
    """Each example runs from beginning to end, with what examples/requirements.txt says and nothing else."""
    session.install("-r", "examples/requirements.txt")
    for run in sorted(Path("examples").glob("*/run.py")):
        session.run("python", "-W", "error", str(run))


@nox.session(python=PYTHONS[0])
def package(session: nox.Session) -> None:
    """The wheel and the sdist hold what they should, and the suite passes on that wheel, installed."""
    session.install("build", "twine", *group("tests"))
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", silent=True)
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    session.run("python", ".ci/check_package.py", "dist")
    wheel = next(Path("dist").glob("*.whl"))
    session.install(f"{wheel}[gateway,ca,testing,cli]")
    session.run("pytest", "-n", workers(), *session.posargs)


@nox.session(python=PYTHONS[0])
def interop(session: nox.Session) -> None:
    """Real peers agree: SPIRE, the Collector, go-spiffe, built by Go once per machine; what is missing is skipped."""
    session.install("-e", ".[gateway,ca,testing,cli]", *group("tests"), *group("distro"))
    found = Path(session.create_tmp(), "compatibility.json").resolve()
    session.run("pytest", "tests/interop", "-n", "2", *session.posargs, env={"OTEL_SPIFFE_COMPATIBILITY": str(found)})
    if not session.posargs:  # the page has the rows of all tests
        session.run("python", "tests/interop/compatibility.py", "--check", str(found))


@nox.session(default=False, python=PYTHONS)
def bench(session: nox.Session) -> None:
    """Prints how this compares with what a user would use instead, as ratios of one run; scripts on each Python."""
    session.install("-e", ".[gateway,ca,testing,cli]", *group("tests"))
    names = [] if session.python == PYTHONS[0] else ["scripts"]
    session.run("python", "-m", "benchmarks", *(session.posargs or names))
