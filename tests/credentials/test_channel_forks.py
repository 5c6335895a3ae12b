# SPDX-License-Identifier: Apache-2.0
"""Channels of forked children; each fork in an interpreter of its own."""

import sys

import pytest
from own_interpreter import python, python_with_world

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="channels survive forks on Linux alone")


SERVER = """
import os, sys, threading, grpc
from concurrent.futures import ThreadPoolExecutor

port_in, port_out = os.pipe()
serving = os.fork()  # before gRPC is used: the server has a process of its own
if serving == 0:
    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    os.write(port_out, str(port).encode())
    os.close(port_in)
    threading.Event().wait(100)
    os._exit(0)
port = int(os.read(port_in, 10))
echo = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/test/Echo")
echo(b"before", timeout=30)
failed = 0
for _ in range(20):
    child = os.fork()
    if child == 0:
        try:
            echo(b"child", timeout=30)
        except grpc.RpcError as error:
            print(error.details(), flush=True)
            os._exit(1)
        os._exit(0)
    echo(b"parent", timeout=30)
    failed += os.waitpid(child, 0)[1] != 0
os.kill(serving, 9)
os.waitpid(serving, 0)
print("failed:", failed, flush=True)
os._exit(0)
"""


def test_canary_a_stock_channel_still_fails_a_first_call_in_a_forked_child():
    """When this fails, `SpiffeChannel` can do without `_channel_forks`."""
    done = python(SERVER)
    assert "Stream removed" in done.stdout, done.stdout
    assert not done.stdout.endswith("failed: 0\n")


CLOSED = """
channel = secure_channel("127.0.0.1:9", world.source(), authorize=authorize_any())
echo = channel.unary_unary("/test/Echo")
channel.close()
child = os.fork()
if child == 0:
    for call in (echo, lambda request: channel.unary_unary("/test/Echo")(request)):
        try:
            call(b"")
        except ValueError as error:
            print(error, flush=True)
    channel.close()
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1] >> 8)
"""


def test_a_channel_that_was_closed_before_a_fork_is_closed_in_the_child():
    done = python_with_world(CLOSED)
    assert done.stdout.count("closed channel") == 2, done.stdout


OWN = """
import os, sys, threading
from otel_spiffe.credentials._channel_forks import PerProcess

at_once = threading.Barrier(4)
made = []

def make():
    if made:
        at_once.wait(30)
    made.append(object())
    return made[-1]

own = PerProcess(make)
assert own() is own() is made[0]
child = os.fork()
if child == 0:
    got = []
    threads = [threading.Thread(target=lambda: got.append(own())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 4, got
    assert set(got) == {own()}
    assert own() is not made[0]
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert own() is made[0]
assert len(made) == 1
"""


def test_each_process_has_its_own_and_threads_that_ask_at_once_get_the_same():
    python(OWN)
