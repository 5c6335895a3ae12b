# SPDX-License-Identifier: Apache-2.0
"""A program that forks with a source open; `test_fork.py` runs it. It prints one JSON object."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time

import grpc

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.rotation import Backoff
from otel_spiffe.sources import IssuingSource, StaticSource, WorkloadApiSource, _metrics

LONG = 60


def in_child(work):
    """Return what `work` returns in a forked child, or its exit status where it does not come to that."""
    read, write = os.pipe()
    faulthandler.cancel_dump_traceback_later()  # in a fork it would wait for the thread that is not there
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(LONG, exit=True)
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if text else f"exit status {status}"


def later(source, generation):
    """Say whether a generation later than that one comes."""
    came = threading.Event()
    end = source.subscribe(lambda identity: identity.generation > generation and came.set())
    try:
        return came.wait(LONG)
    finally:
        end()


def rotating(endpoint):
    """Fork again and again while the agent rotates; the children's children too."""
    heard = []
    with WorkloadApiSource.open(endpoint) as source:
        source.subscribe(lambda identity: heard.append(identity.generation))
        source.wait(LONG)

        def child(depth=0):
            at_fork = source.identity().generation
            before = len(heard)
            result = {"held": at_fork, "rotates": later(source, at_fork), "ready": source.health().ready}
            result["subscriber called"] = len(heard) > before
            if depth < 1:
                result["grandchild"] = in_child(lambda: child(depth + 1))
            source.close()
            result["threads left"] = [each.name for each in threading.enumerate()][1:]
            return result

        children = [in_child(child) for _ in range(5)]
        return {"children": children, "parent rotates": later(source, source.identity().generation)}


def other_channel(endpoint):
    """Fork while the application has a gRPC channel of its own that has been used."""
    channel = grpc.insecure_channel(endpoint)
    grpc.channel_ready_future(channel).result(LONG)
    with WorkloadApiSource.open(endpoint) as source:
        source.wait(LONG)
        child = in_child(lambda: {"rotates": later(source, source.identity().generation)})
        channel.close()
        return {"child": child, "parent rotates": later(source, source.identity().generation)}


def locks(endpoint):
    """Fork while other threads hold every lock that a source has."""
    with WorkloadApiSource.open(endpoint) as source, StaticSource(source.wait(LONG)) as static:
        source.subscribe(lambda _identity: None)
        held, release = threading.Semaphore(0), threading.Event()
        cells = [source._cell, static._cell]
        conditions = [each._changed for each in cells] + [each._subscribers._changed for each in cells]

        def hold(condition):
            with condition:
                held.release()
                release.wait(LONG)

        threads = [threading.Thread(target=hold, args=(each,)) for each in conditions]
        for thread in threads:
            thread.start()
            held.acquire()
        threading.Timer(0.2, release.set).start()  # the worker needs the cell's lock to come to rest

        def child():
            result = [source.wait(LONG).generation > 0, static.wait(LONG).generation]
            static.subscribe(lambda _identity: None)()
            static.close()
            source.close()
            return result

        # `before_fork` waits for the worker, not for these locks; fork while they are held.
        answer = in_child(child)
        for thread in threads:
            thread.join()
        return {"child": answer}


def closed(endpoint):
    """Fork with a source that was closed, one that is opened in the child alone, and one never used again."""
    first = WorkloadApiSource.open(endpoint)
    first.wait(LONG)
    first.close()

    def child():
        threads = threading.active_count()
        with WorkloadApiSource.open(endpoint) as second:
            return {
                "threads": threads,
                "opened in the child": second.wait(LONG).generation,
                "closed": not first.health().ready,
            }

    return in_child(child)


def many(endpoint):
    """Fork often, with nobody else who uses gRPC."""
    with WorkloadApiSource.open(endpoint) as source:
        source.wait(LONG)
        statuses = []
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            statuses.append(os.waitpid(pid, 0)[1])
            threading.Event().wait(0.01)
        return {"statuses": statuses, "parent rotates": later(source, source.identity().generation)}


def hanging(_endpoint):
    """Fork twice while three issuers do not return."""
    entered, leave = threading.Semaphore(0), threading.Event()

    def issue():
        entered.release()
        leave.wait(LONG)

    sources = [IssuingSource.open(issue) for _ in range(3)]
    for _ in sources:
        entered.acquire()

    def seconds():
        begin = time.monotonic()
        in_child(lambda: None)
        return time.monotonic() - begin

    result = {"first": seconds(), "second": seconds()}
    leave.set()
    for source in sources:
        source.close()
    return result


def metrics(_endpoint):
    """Fork while another thread holds the lock of the instruments, and open a source in the child."""
    identity = CertificateAuthority.in_memory("prod.example").identity("spiffe://prod.example/app")
    held, release = threading.Event(), threading.Event()

    def hold():
        with _metrics._known._lock:
            held.set()
            release.wait(LONG)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def child():
        with StaticSource(identity) as source:
            return str(source.identity().id)

    answer = in_child(child)
    release.set()
    thread.join()
    return {"child": answer}


def outage(endpoint):
    """Fork with a source that waits between two tries: the child keeps what is held and tries by itself."""
    slow = Backoff(minimum=1000, maximum=1000)
    with WorkloadApiSource.open(endpoint, backoff=slow) as source:
        source.wait(LONG)
        sys.stdout.write("now\n")
        sys.stdout.flush()
        sys.stdin.readline()
        while not source.health().failures:
            threading.Event().wait(0.01)
        return in_child(lambda: {"held": source.identity().generation, "problem": bool(source.health().problem)})


if __name__ == "__main__":
    sys.stdout.write(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
