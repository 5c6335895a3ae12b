# SPDX-License-Identifier: Apache-2.0
"""Where the files of a `FileSource` are, and how they are read together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.sources._fault import BadUpdate, Fault
from otel_spiffe.sources._file_set import FileSet
from otel_spiffe.sources._layout import LAYOUTS, Layout
from otel_spiffe.sources._read import Content, Directory, directory, read_file

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from spiffe import TrustDomain

    from otel_spiffe.sources._limits import Limits

__all__ = ["Paths", "paths_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """One set of files.

    Attributes:
        root: the directory in which `layouts` are looked for, or None.
        layouts: those that may be there; the first whose X509-SVID is found counts.
        named: files by what they hold: ``svid``, ``key`` and ``bundle``.
        bundles: files by the trust domain whose bundle they hold.
    """

    root: Path | None = None
    layouts: tuple[Layout, ...] = ()
    named: Mapping[str, Path] = field(default_factory=dict[str, Path])
    bundles: Mapping[TrustDomain, Path] = field(default_factory=dict["TrustDomain", Path])

    def __str__(self) -> str:
        if self.root is not None:
            return str(self.root)
        return ", ".join(map(str, self.named.values()))

    def with_bundles(self, bundles: Mapping[TrustDomain, Path]) -> Paths:
        """Return these, and bundles of other trust domains."""
        return replace(self, bundles=bundles)

    @property
    def may_hold_svid(self) -> bool:
        """There is a name for an X509-SVID."""
        return "svid" in self.named or any(each.svid is not None for each in self.layouts)

    @property
    def directories(self) -> tuple[Path, ...]:
        """The directories to watch."""
        files = (*self.named.values(), *self.bundles.values())
        roots = (self.root,) if self.root is not None else ()
        return tuple(dict.fromkeys((*roots, *(each.parent for each in files))))

    def read(self, stack: ExitStack, limits: Limits) -> tuple[FileSet, bool]:
        """Return the files' bytes, and whether all of them change at one stroke.

        Args:
            stack: closes what is opened.
            limits: how much of a file is taken.

        Raises:
            BadUpdate: a file is missing, cannot be read or is too large; bundles by trust domain do not raise it.
        """
        opened: dict[Path, Directory] = {}

        def opened_at(path: Path) -> Directory:
            if path not in opened:
                opened[path] = stack.enter_context(directory(path))
            return opened[path]

        def named(path: Path) -> Content:
            return read_file(opened_at(path.parent), path.name, max_bytes=limits.file_bytes)

        single: dict[str, Callable[[], Content]] = {what: partial(named, path) for what, path in self.named.items()}
        several: dict[TrustDomain, Callable[[], Content]] = {
            domain: partial(named, path) for domain, path in self.bundles.items()
        }
        if self.root is not None:
            found, more = self._in_root(opened_at(self.root), limits)
            single, several = {**single, **found}, {**more, **several}
        contents = {what: read() for what, read in single.items()}
        bundles, unread = _each(several)
        files = FileSet(
            svid=contents.get("svid"),
            key=contents.get("key"),
            bundle=contents.get("bundle"),
            bundles=bundles,
            unread=unread,
        )
        return files, len(opened) == 1 and all(each.atomic for each in opened.values())

    def _in_root(
        self, root: Directory, limits: Limits
    ) -> tuple[dict[str, Callable[[], Content]], dict[TrustDomain, Callable[[], Content]]]:
        layout = self._layout(root)
        wanted = {"svid": layout.svid, "key": layout.key, "bundle": layout.bundle}

        def read(name: str) -> Callable[[], Content]:
            return partial(read_file, root, name, max_bytes=limits.file_bytes)

        # A directory need not be one that may be listed, where no name in it is to be found out.
        several = layout.bundle_names(root.names()) if layout.bundles is not None else {}
        if len(several) > limits.bundles:
            raise BadUpdate(
                Fault.LIMIT_EXCEEDED, f"{root.path} holds {len(several)} bundles, {limits.bundles} are taken"
            )
        bundles = {domain: read(name) for domain, name in several.items()}
        return {what: read(name) for what, name in wanted.items() if name is not None}, bundles

    def _layout(self, root: Directory) -> Layout:
        if len(self.layouts) == 1:
            return self.layouts[0]
        # Two presets share tls.crt: the bundle tells them apart.
        whole = [each for each in self.layouts if all(map(root.has, each.names))]
        if len(whole) == 1:
            return whole[0]
        looked = "; ".join(", ".join(each.names) for each in (whole or self.layouts))
        if whole:
            raise BadUpdate(
                Fault.INCONSISTENT_FILES,
                f"{self.root} holds several sets of files: {looked}",
                fix="name one by layout=",
            )
        raise BadUpdate(
            Fault.MISSING_FILE,
            f"{self.root} holds none of these sets of files: {looked}",
            fix="see that whoever writes them runs, or name the files by layout=",
        )


def _each(
    bundles: Mapping[TrustDomain, Callable[[], Content]],
) -> tuple[dict[TrustDomain, Content], dict[TrustDomain, BadUpdate]]:
    found: dict[TrustDomain, Content] = {}
    unread: dict[TrustDomain, BadUpdate] = {}
    for domain, read in bundles.items():
        try:
            found[domain] = read()
        except BadUpdate as bad:
            if bad.problem.fault is Fault.INCONSISTENT_FILES:
                raise  # it is being written: a moment later it can be read
            unread[domain] = bad
    return found, unread


def paths_of(directory: str | os.PathLike[str] | None, layout: Layout | None, named: Mapping[str, Path]) -> Paths:
    """Return where the files are.

    Raises:
        InvalidConfiguration: both a directory and files are named, or neither, or half of a set.
    """
    if directory is not None:
        if named:
            raise InvalidConfiguration(
                "directory", "single files are named beside it", fix="name the directory, with layout=, or the files"
            )
        return Paths(root=Path(directory).absolute(), layouts=LAYOUTS if layout is None else (layout,))
    if layout is not None:
        raise InvalidConfiguration("layout", "there is no directory to look for its names in", fix="name one")
    if "bundle" not in named:
        missing = "bundle_file" if named else "directory, svid_file, bundle_file"
        raise InvalidConfiguration(missing, "it is not given, so no peer could be verified", fix="name it")
    if "key" in named and "svid" not in named:
        raise InvalidConfiguration("svid_file", "there is a key and no X509-SVID", fix="name it")
    return Paths(named={what: path.absolute() for what, path in named.items()})
