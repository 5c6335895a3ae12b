# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path

import pytest

from otel_spiffe.sources._watch import Unwatchable, changes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "svids").mkdir()
    return tmp_path / "svids"


class Watch:
    """Stands for watchfiles: does one thing after another and reports a change after each."""

    def __init__(self, *things):
        self.things = things
        self.watched = None

    def __call__(self, *paths, **_how):
        self.watched = paths
        for thing in self.things:
            thing()
            yield set()


def seen(watch, *directories, stop=None):
    return len(list(changes(watch, directories, stop=stop or threading.Event(), every=1.0)))


def nothing():
    pass


def test_each_change_is_reported_for_as_long_as_the_directory_is_the_same_one(folder):
    assert seen(Watch(nothing, nothing, nothing), folder) == 3


def test_a_directory_that_is_removed_and_made_again_is_another_one(folder):
    """It would get the inode of the old one, and look like it, where nobody held that."""

    def again():
        shutil.rmtree(folder)
        folder.mkdir()

    assert seen(Watch(nothing, again, nothing, nothing), folder) == 2


def test_a_directory_that_is_replaced_or_gone_or_appears_ends_it(folder, tmp_path):
    assert seen(Watch(lambda: folder.rename(tmp_path / "old"), nothing), folder, tmp_path) == 1
    assert seen(Watch(folder.mkdir, nothing), folder, tmp_path) == 1


def test_directories_that_are_missing_are_left_out(folder, tmp_path):
    watch = Watch(nothing)
    assert seen(watch, folder, tmp_path / "missing") == 1
    assert watch.watched == (folder,)


def test_where_none_is_there_nothing_can_be_watched(tmp_path):
    with pytest.raises(Unwatchable, match="is there") as caught:
        seen(Watch(), tmp_path / "missing", tmp_path / "missing too")
    assert caught.value.missing


def test_stop_ends_it(folder):
    stop = threading.Event()
    assert seen(Watch(nothing, stop.set, nothing), folder, stop=stop) == 2


def test_a_directory_that_may_not_be_listed_cannot_be_watched(folder):
    def denied():
        raise PermissionError("Permission denied (os error 13)")

    with pytest.raises(Unwatchable, match=r"13\)$"):
        seen(Watch(denied), folder)


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_what_the_watcher_raises_says_what_may_be_used_up(folder, error):
    def full():
        raise error("Too many open files (os error 24)")

    with pytest.raises(Unwatchable, match=r"os error 24\); .* fs\.inotify\.max_user_instances") as caught:
        seen(Watch(full), folder)
    assert not caught.value.missing


def held_open(folder):
    """How many descriptors of this process are that folder; others come and go with what other tests left."""
    found = 0
    for each in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):  # the look itself, or one that went
            found += os.path.samestat(os.fstat(int(each.name)), folder.stat())
    return found


def test_no_descriptor_is_left(folder):
    watching = changes(Watch(nothing, nothing), (folder,), stop=threading.Event(), every=1.0)
    next(watching)
    assert held_open(folder) == 1
    watching.close()
    assert held_open(folder) == 0
