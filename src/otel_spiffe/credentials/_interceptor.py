# SPDX-License-Identifier: Apache-2.0
"""The interceptors that let only verified and authorized clients reach a gRPC server's handlers."""

from __future__ import annotations

import functools
import inspect
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
import grpc.aio

from otel_spiffe.credentials._interceptor_verdict import Judge, calls, connection_of
from otel_spiffe.errors import OtelSpiffeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from otel_spiffe.credentials._interceptor_verdict import Connection
    from otel_spiffe.identity import Authorizer, Source

__all__ = ["AioAuthorizationInterceptor", "AuthorizationInterceptor"]


_UNKNOWN_METHOD = "Method not found!"  # as gRPC itself answers


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AuthorizationInterceptor(grpc.ServerInterceptor):
    """Refuses each call whose client does not verify (UNAUTHENTICATED) or is not authorized (PERMISSION_DENIED).

    gRPC verified the client against the authorities of all trust domains together, once, at the handshake. This
    verifies it against those of its own trust domain, at every call, so a connection ends being useful when the
    client's X509-SVID expires or its authority is withdrawn. Calls of unknown methods are refused the same way.

    Put it first in the server's `interceptors`: what stands before it sees unverified clients.

    Args:
        source: of the bundles; the one that `server_credentials` has.
        authorize: which clients to accept; asked at every call.
        clock: returns the time, aware.
    """

    def __init__(self, source: Source, *, authorize: Authorizer, clock: Callable[[], datetime] = _utc_now) -> None:
        self._judge = Judge(source, authorize, clock)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401 -- grpc has no types
        """Return the method's handler behind the check."""
        return _behind(continuation(handler_call_details) or _not_found_handler(_not_found), self._guard)

    def _guard(self, behavior: Callable[..., Any], *, streams: bool) -> Callable[..., Any]:
        del streams

        @functools.wraps(behavior)
        def checked(request: object, context: Any, *rest: object) -> Any:  # noqa: ANN401
            connection = _judge(self._judge, context)
            if not context.add_callback(functools.partial(calls.end, connection)):
                calls.end(connection)  # the call is over already
            return behavior(request, context, *rest)

        return checked


class AioAuthorizationInterceptor(grpc.aio.ServerInterceptor):
    """`AuthorizationInterceptor` for `grpc.aio` servers.

    Handlers are coroutines, async generators, plain functions or plain generators; the last two run, and are refused,
    on a thread of the server's pool.

    Args:
        source: of the bundles; the one that `server_credentials` has.
        authorize: which clients to accept; asked at every call, on the event loop.
        clock: returns the time, aware.
    """

    def __init__(self, source: Source, *, authorize: Authorizer, clock: Callable[[], datetime] = _utc_now) -> None:
        self._judge = Judge(source, authorize, clock)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401
        """Return the method's handler behind the check."""
        return _behind(await continuation(handler_call_details) or _not_found_handler(_aio_not_found), self._guard)

    def _guard(self, behavior: Callable[..., Any], *, streams: bool) -> Callable[..., Any]:
        # grpc.aio tells these four apart by inspection, so what stands before each must be of its kind.
        @functools.wraps(behavior)
        async def awaited(request: object, context: Any) -> Any:  # noqa: ANN401
            await self._enter(context)
            return await behavior(request, context)

        @functools.wraps(behavior)
        async def iterated(request: object, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401
            await self._enter(context)
            async for response in behavior(request, context):
                yield response

        @functools.wraps(behavior)
        def called(request: object, context: Any) -> Any:  # noqa: ANN401 -- grpc runs it on a thread
            connection = _judge(self._judge, context)
            try:
                return behavior(request, context)
            finally:
                calls.end(connection)

        @functools.wraps(behavior)
        def generated(request: object, context: Any) -> Iterator[Any]:  # noqa: ANN401 -- on a thread, too
            connection = _judge(self._judge, context)
            try:
                yield from behavior(request, context)
            finally:
                calls.end(connection)

        if inspect.isasyncgenfunction(behavior):
            return iterated
        if inspect.iscoroutinefunction(behavior):
            return awaited
        return generated if streams else called

    async def _enter(self, context: Any) -> None:  # noqa: ANN401
        connection = connection_of(context)
        try:
            peer = self._judge.judge(connection)
        except OtelSpiffeError as error:
            await context.abort(*self._judge.refuse(error))
            raise  # abort has raised; were it to return, nothing may run
        calls.begin(connection, peer)
        context.add_done_callback(functools.partial(_ended, connection))


def _ended(connection: Connection, _context: object) -> None:
    calls.end(connection)


def _judge(judge: Judge, context: Any) -> Connection:  # noqa: ANN401 -- grpc's two sync contexts share no type
    connection = connection_of(context)
    try:
        peer = judge.judge(connection)
    except OtelSpiffeError as error:
        context.abort(*judge.refuse(error))
        raise  # abort has raised; were it to return, nothing may run
    calls.begin(connection, peer)
    return connection


def _not_found(_: object, context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, _UNKNOWN_METHOD)


async def _aio_not_found(_: object, context: Any) -> NoReturn:  # noqa: ANN401
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, _UNKNOWN_METHOD)
    raise AssertionError  # abort has raised


def _not_found_handler(behavior: Callable[..., Any]) -> Any:  # noqa: ANN401
    # Fits any kind of call: it reads nothing.
    return cast("Any", grpc.stream_stream_rpc_method_handler(behavior))


def _behind(handler: Any, guard: Callable[..., Callable[..., Any]]) -> Any:  # noqa: ANN401
    streams = bool(handler.response_streaming)
    make, behavior = _KINDS[bool(handler.request_streaming), streams]
    return make(
        guard(getattr(handler, behavior), streams=streams),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


_KINDS: dict[tuple[bool, bool], tuple[Callable[..., Any], str]] = {
    (False, False): (grpc.unary_unary_rpc_method_handler, "unary_unary"),
    (False, True): (grpc.unary_stream_rpc_method_handler, "unary_stream"),
    (True, False): (grpc.stream_unary_rpc_method_handler, "stream_unary"),
    (True, True): (grpc.stream_stream_rpc_method_handler, "stream_stream"),
}
