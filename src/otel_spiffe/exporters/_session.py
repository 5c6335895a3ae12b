# SPDX-License-Identifier: Apache-2.0
"""The `requests.Session` of the HTTP exporters: it owns its share of the source, and says when sending fails."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from requests.adapters import BaseAdapter
from requests.exceptions import RequestException

from otel_spiffe.credentials import http_session
from otel_spiffe.exporters._parties import choose_parties

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests
    from requests import PreparedRequest, Response

__all__ = ["open_session"]

_log = logging.getLogger("otel_spiffe.exporters")

IDENTITY_SECONDS: Final = 3.0
"""How long a request waits for the first identity: an export has 10 s, and tries once more at once."""


def open_session(keywords: dict[str, Any]) -> requests.Session:
    """Return a session for what `keywords` and the environment ask for; its `close` gives a shared source back.

    Raises:
        InvalidConfiguration: who we are or who the peer may be is not said, or not clearly.
    """
    with ExitStack() as leases:
        parties = choose_parties(keywords, leases)
        session = http_session(parties.source, authorize=parties.authorize, identity_timeout=IDENTITY_SECONDS)
        sending = session.get_adapter("https://")
        session.mount("https://", _Watched(sending, on_close=leases.pop_all().close))
    return session


class _Watched(BaseAdapter):
    """Sends by another adapter, and logs each change between failing and not.

    The stock exporter names the reason in its retries alone: its last line is "Failed to export spans batch due to
    timeout, max retries or shutdown."
    """

    def __init__(self, sending: BaseAdapter, *, on_close: Callable[[], None]) -> None:
        super().__init__()
        self._sending = sending
        self._on_close = on_close
        self._failing: type[BaseException] | None = None

    def send(self, request: PreparedRequest, *arguments: Any, **keywords: Any) -> Response:  # noqa: ANN401 -- passed on
        try:
            response = self._sending.send(request, *arguments, **keywords)
        except RequestException as error:
            self._note(request, error)
            raise
        self._note(request, None)
        return response

    def close(self) -> None:
        self._sending.close()
        self._on_close()

    def _note(self, request: PreparedRequest, error: RequestException | None) -> None:
        cause = None if error is None else type(error.__cause__ or error)  # their texts count seconds, for example
        if cause is self._failing:
            return
        self._failing = cause
        if error is None:
            _log.info("export to %s works again", request.url)
        else:
            _log.warning("export to %s fails: %s", request.url, error)
