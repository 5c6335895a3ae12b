# SPDX-License-Identifier: Apache-2.0
"""The program's arguments."""

import subprocess
import sys

import pytest

from otel_spiffe.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: command"),
        (["dance"], "invalid choice: 'dance'"),
        (["demo", "--seconds", "1"], "'1' is no number of seconds from 4 to 3600"),
        (["demo", "--seconds", "nan"], "'nan' is no number of seconds"),
        (["demo", "--seconds", "soon"], "'soon' is no number of seconds"),
    ],
)
def test_wrong_arguments_are_named_and_exit_with_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["--version"]])
def test_help_and_version_are_given(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "otel-spiffe" in capsys.readouterr().out


def test_help_loads_no_grpc():
    code = "import sys\ntry: import otel_spiffe.cli as c; c.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "grpc" not in out.split()
