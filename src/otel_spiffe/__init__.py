# SPDX-License-Identifier: Apache-2.0
"""SPIFFE identities for OpenTelemetry that renew themselves."""
