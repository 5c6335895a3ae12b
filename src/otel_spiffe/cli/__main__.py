# SPDX-License-Identifier: Apache-2.0
"""`python -m otel_spiffe.cli`, where the script is not on the PATH."""

from __future__ import annotations

import sys

from otel_spiffe.cli import main

if __name__ == "__main__":
    sys.exit(main())
