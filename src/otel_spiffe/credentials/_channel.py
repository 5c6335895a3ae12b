# SPDX-License-Identifier: Apache-2.0
"""gRPC channels over SPIFFE mTLS: a relay, and a channel that dials it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from otel_spiffe.credentials._channel_forks import ManyResponses, OneResponse, PerProcess, forks
from otel_spiffe.credentials._relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from otel_spiffe.credentials._relay import OutboundRelay
    from otel_spiffe.identity import Authorizer, Source

__all__ = ["AioSpiffeChannel", "SpiffeChannel", "aio_secure_channel", "secure_channel"]

Option = tuple[str, Any]

_FORKS = "otel_spiffe.forks"


def secure_channel(
    target: str,
    source: Source,
    *,
    authorize: Authorizer,
    present_svid: bool = True,
    options: Sequence[Option] = (),
    compression: grpc.Compression | None = None,
    **relay: Any,  # noqa: ANN401 -- what Relay.outbound takes
) -> SpiffeChannel:
    """Open a gRPC channel to a server over SPIFFE mTLS; its `close` ends all that belongs to it.

    A connection that cannot be had, or that either side refuses, ends calls with UNAVAILABLE and the sentence of
    this library's error as their `details()`. The channel works in forked children, too (Linux).

    Args:
        target: the server's ``host:port``.
        source: of the X509-SVID to present and of the bundles; asked at every handshake.
        authorize: which servers to accept.
        present_svid: False presents no certificate.
        options: channel arguments of gRPC; they go before ours.
        compression: of the requests.
        relay: the further keywords of `Relay.outbound`.

    Raises:
        InvalidConfiguration: as `Relay.outbound`.
    """
    opened = Relay.outbound(target, source, authorize=authorize, present_svid=present_svid, **relay)

    def dial() -> grpc.Channel:
        # Channels of equal arguments share their connections: the number keeps a child from its parent's.
        ours = channel_options(opened, (*options, (_FORKS, forks())))
        return grpc.insecure_channel(opened.target, ours, compression)

    try:
        return SpiffeChannel(dial, opened)
    except BaseException:
        opened.close()
        raise


def aio_secure_channel(
    target: str,
    source: Source,
    *,
    authorize: Authorizer,
    present_svid: bool = True,
    options: Sequence[Option] = (),
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    **relay: Any,  # noqa: ANN401 -- what Relay.outbound takes
) -> AioSpiffeChannel:
    """Open a `grpc.aio.Channel` to a server over SPIFFE mTLS, as `secure_channel` does; not for forked children.

    Args:
        target: the server's ``host:port``.
        source: of the X509-SVID to present and of the bundles; asked at every handshake.
        authorize: which servers to accept.
        present_svid: False presents no certificate.
        options: channel arguments of gRPC; they go before ours.
        compression: of the requests.
        interceptors: as of `grpc.aio.insecure_channel`.
        relay: the further keywords of `Relay.outbound`.

    Raises:
        InvalidConfiguration: as `Relay.outbound`.
    """
    opened = Relay.outbound(target, source, authorize=authorize, present_svid=present_svid, **relay)
    try:
        channel = grpc.aio.insecure_channel(
            opened.target, channel_options(opened, options), compression, interceptors=interceptors
        )
    except BaseException:
        opened.close()
        raise
    return AioSpiffeChannel(channel, opened)


def channel_options(relay: OutboundRelay, options: Sequence[Option]) -> tuple[Option, ...]:
    """Return the arguments of a channel that dials `relay`; of a name given twice gRPC takes the last."""
    return (("grpc.default_authority", relay.authority), *options)


class SpiffeChannel(grpc.Channel):
    """A `grpc.Channel` with the relay that it goes through; `secure_channel` opens it."""

    def __init__(self, dial: Callable[[], grpc.Channel], relay: OutboundRelay) -> None:
        self._channel: Callable[[], grpc.Channel] = PerProcess(dial)
        self._relay = relay

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool = False,  # noqa: FBT001, FBT002 -- grpc's signature
    ) -> None:
        """Have `callback` told the state of the connection to the relay, as `grpc.Channel.subscribe`."""
        self._channel().subscribe(callback, try_to_connect=try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """End a subscription, as `grpc.Channel.unsubscribe`."""
        self._channel().unsubscribe(callback)

    # Passed on as they come: generated stubs hand over keywords that grpc's typed signatures do not have.
    def unary_unary(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Return a callable, as `grpc.Channel.unary_unary`."""
        return OneResponse(lambda: self._channel().unary_unary(*arguments, **keywords))

    def unary_stream(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Return a callable, as `grpc.Channel.unary_stream`."""
        return ManyResponses(lambda: self._channel().unary_stream(*arguments, **keywords))

    def stream_unary(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Return a callable, as `grpc.Channel.stream_unary`."""
        return OneResponse(lambda: self._channel().stream_unary(*arguments, **keywords))

    def stream_stream(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Return a callable, as `grpc.Channel.stream_stream`."""
        return ManyResponses(lambda: self._channel().stream_stream(*arguments, **keywords))

    def close(self) -> None:
        """End the channel and its relay; calls under way end as CANCELLED. May be called again."""
        channel = self._channel()
        channel.close()
        self._channel = lambda: channel  # closed in forked children, too
        self._relay.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AioSpiffeChannel(grpc.aio.Channel):
    """A `grpc.aio.Channel` with the relay that it goes through; `aio_secure_channel` opens it."""

    def __init__(self, channel: grpc.aio.Channel, relay: OutboundRelay) -> None:
        self._channel = channel
        self._relay = relay

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 -- grpc's
        """Return the state of the connection to the relay, as `grpc.aio.Channel.get_state`."""
        return self._channel.get_state(try_to_connect=try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when the state is another, as `grpc.aio.Channel.wait_for_state_change`."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return when the relay has answered, as `grpc.aio.Channel.channel_ready`; it also answers to refuse."""
        await self._channel.channel_ready()

    def unary_unary(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Return a callable, as `grpc.aio.Channel.unary_unary`."""
        return self._channel.unary_unary(*arguments, **keywords)

    def unary_stream(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Return a callable, as `grpc.aio.Channel.unary_stream`."""
        return self._channel.unary_stream(*arguments, **keywords)

    def stream_unary(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Return a callable, as `grpc.aio.Channel.stream_unary`."""
        return self._channel.stream_unary(*arguments, **keywords)

    def stream_stream(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Return a callable, as `grpc.aio.Channel.stream_stream`."""
        return self._channel.stream_stream(*arguments, **keywords)

    async def close(self, grace: float | None = None) -> None:
        """End the channel, then its relay; calls under way have `grace` seconds. May be called again."""
        try:
            await self._channel.close(grace)
        finally:
            self._relay.close()

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
