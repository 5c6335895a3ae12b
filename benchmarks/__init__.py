# SPDX-License-Identifier: Apache-2.0
"""Figures, taken in one run: this library beside what a user would use instead. ``python -m benchmarks -h``."""
