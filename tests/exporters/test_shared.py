# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from otel_spiffe.exporters._shared import Shared


class Thing:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_one_key_has_one_value_and_the_last_lease_closes_it():
    shared: Shared[Thing] = Shared()
    first, second = shared.lease("k", Thing), shared.lease("k", Thing)
    assert first.value is second.value
    first.close()
    first.close()
    assert second.value.closed == 0
    second.close()
    assert second.value.closed == 1
    assert len(shared) == 0


def test_other_keys_and_later_leases_have_values_of_their_own():
    shared: Shared[Thing] = Shared()
    with shared.lease("k", Thing) as k, shared.lease("l", Thing) as other:
        assert k.value is not other.value
    with shared.lease("k", Thing) as later:
        assert later.value is not k.value
        assert later.value.closed == 0


def test_a_value_that_cannot_be_opened_is_not_held():
    shared: Shared[Thing] = Shared()

    def refuse() -> Thing:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 -- it is ours
        shared.lease("k", refuse)
    with shared.lease("k", Thing) as lease:
        assert lease.value.closed == 0
