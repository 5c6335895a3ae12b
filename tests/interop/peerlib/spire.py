# SPDX-License-Identifier: Apache-2.0
"""A SPIRE server and agents, with times to live short enough for a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any, Self

from peerlib.build import binary
from peerlib.process import Process, free_port

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SVID_TTL", "Agent", "Server", "SpiffeHelper", "Spire", "start_spire"]

SVID_TTL = "20s"
"""SPIRE sets notBefore 10 s back and rotates at half of the whole, so this is a rotation every 5 s or so."""

_SERVER = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/server.sock"
  trust_domain = "{trust_domain}"
  data_dir = "{folder}/server"
  log_level = "INFO"
  ca_ttl = "24h"
  default_x509_svid_ttl = "{ttl}"
  agent_ttl = "1h"
  experimental {{ cache_reload_interval = "1s" }}
  {federation}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/server.sqlite3" }} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/server-keys.json" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""

_AGENT = """
agent {{
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{socket}"
  trust_bundle_path = "{folder}/agent-bundle.pem"
  trust_domain = "{trust_domain}"
  data_dir = "{folder}/agent"
  log_level = "INFO"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""

_FEDERATION = """federation {{ bundle_endpoint {{
    address = "127.0.0.1"
    port = {port}
    refresh_hint = "60s"
    profile "https_spiffe" {{}}
  }} }}"""


class Server:
    """A SPIRE server: a trust domain."""

    def __init__(self, folder: Path, trust_domain: str, *, federation: bool = False, ttl: str = SVID_TTL) -> None:
        self.folder = folder
        self.trust_domain = trust_domain
        self.port = free_port()
        self.bundle_port = free_port()
        self._process: Process | None = None
        folder.mkdir(parents=True, exist_ok=True)
        endpoint = _FEDERATION.format(port=self.bundle_port) if federation else ""
        text = _SERVER.format(port=self.port, folder=folder, trust_domain=trust_domain, ttl=ttl, federation=endpoint)
        (folder / "server.conf").write_text(text)

    @property
    def log(self) -> str:
        """The end of what it said."""
        return self._process.log if self._process is not None else ""

    @property
    def bundle_url(self) -> str:
        """Of its federation endpoint."""
        return f"https://127.0.0.1:{self.bundle_port}/"

    def start(self) -> Self:
        """Start it, and wait until its API answers."""
        command = [binary("spire", "spire-server"), "run", "-config", self.folder / "server.conf"]
        self._process = Process(command, name=f"SPIRE server of {self.trust_domain}")
        self._process.wait_for_line(r"Starting Server APIs.*uds|Starting Server APIs")
        self._retry("healthcheck")
        return self

    def run(self, *words: str, stdin: str | None = None) -> str:
        """Run a command of `spire-server` and return what it printed."""
        done = subprocess.run(
            [binary("spire", "spire-server"), *words, "-socketPath", str(self.folder / "server.sock")],
            check=False,
            capture_output=True,
            text=True,
            input=stdin,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"spire-server {' '.join(words)}: {done.stdout}{done.stderr}\n{self.log}")
        return done.stdout

    def json(self, *words: str) -> Any:
        """Run a command and return its JSON."""
        return json.loads(self.run(*words, "-output", "json"))

    def entry(
        self, path: str, *, parent: str, hint: str = "", federates_with: str = "", selector: str = "", ttl: int = 0
    ) -> str:
        """Let every process of this user have an X509-SVID; returns the entry's number."""
        words = ["entry", "create", "-parentID", parent, "-spiffeID", f"spiffe://{self.trust_domain}{path}"]
        words += ["-selector", selector or f"unix:uid:{os.getuid()}"]
        words += ["-hint", hint] if hint else []
        words += ["-federatesWith", federates_with] if federates_with else []
        words += ["-x509SVIDTTL", str(ttl)] if ttl else []
        return self.json(*words)["results"][0]["entry"]["id"]

    def change_entry(
        self, number: str, path: str, *, parent: str, hint: str = "", federates_with: str = "", selector: str = ""
    ) -> None:
        """Give an entry other values."""
        words = ["entry", "update", "-entryID", number, "-parentID", parent]
        words += [
            "-spiffeID",
            f"spiffe://{self.trust_domain}{path}",
            "-selector",
            selector or f"unix:uid:{os.getuid()}",
        ]
        words += ["-hint", hint] if hint else []
        words += ["-federatesWith", federates_with] if federates_with else []
        self.run(*words)

    def federate(self, other: Server) -> None:
        """Trust another trust domain by its bundle endpoint, profile https_spiffe."""
        words = ["-trustDomain", other.trust_domain, "-bundleEndpointURL", other.bundle_url]
        words += ["-bundleEndpointProfile", "https_spiffe"]
        words += ["-endpointSpiffeID", f"spiffe://{other.trust_domain}/spire/server"]
        file = self.folder / f"{other.trust_domain}.json"
        file.write_text(other.bundle("spiffe"))
        words += ["-trustDomainBundlePath", str(file), "-trustDomainBundleFormat", "spiffe"]
        self.run("federation", "create", *words)

    def refresh(self, other: Server) -> None:
        """Fetch another trust domain's bundle from its endpoint now."""
        self.run("federation", "refresh", "-id", other.trust_domain)

    def delete_entry(self, number: str) -> None:
        """Take an entry away."""
        self.run("entry", "delete", "-entryID", number)

    def rotate_ca(self) -> str:
        """Prepare another authority and sign with it from now on; returns the old one's number."""
        old = self.json("localauthority", "x509", "show")["active"]["authority_id"]
        new = self.json("localauthority", "x509", "prepare")["prepared_authority"]["authority_id"]
        self.run("localauthority", "x509", "activate", "-authorityID", new)
        return old

    def taint_ca(self, old: str) -> None:
        """Have agents replace what an authority signed that signs no more."""
        self.run("localauthority", "x509", "taint", "-authorityID", old)

    def revoke_ca(self, old: str) -> None:
        """Take a tainted authority out of the bundle."""
        self.run("localauthority", "x509", "revoke", "-authorityID", old)

    def bundle(self, form: str = "pem") -> str:
        """Return the trust domain's bundle."""
        return self.run("bundle", "show", "-format", form)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End it; may be called again."""
        if self._process is not None:
            self._process.stop()

    def _retry(self, *words: str) -> None:
        _until_healthy(lambda: self.run(*words), self._process)


class Agent:
    """A SPIRE agent: a Workload API."""

    def __init__(self, server: Server, folder: Path, *, name: str = "host") -> None:
        self.server = server
        self.folder = folder
        self.socket = folder / "a.sock"
        self.id = f"spiffe://{server.trust_domain}/{name}"
        self._process: Process | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "agent-bundle.pem").write_text(server.bundle())
        text = _AGENT.format(port=server.port, socket=self.socket, folder=folder, trust_domain=server.trust_domain)
        (folder / "agent.conf").write_text(text)

    @property
    def endpoint(self) -> str:
        """For `SPIFFE_ENDPOINT_SOCKET`."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> str:
        """The end of what it said."""
        return self._process.log if self._process is not None else ""

    def start(self) -> Self:
        """Start it, with a new join token the first time, and wait until its Workload API listens."""
        words = [] if self._process is not None else ["-joinToken", self._token()]
        command = [binary("spire", "spire-agent"), "run", "-config", self.folder / "agent.conf", *words]
        self._process = Process(command, name=f"SPIRE agent of {self.server.trust_domain}")
        self._process.wait_for_line("Starting Workload and SDS APIs")
        return self

    def pause(self) -> None:
        """Have it hang, until `go_on`: every thread has come to rest when this returns."""
        if self._process is not None:
            self._process.pause()

    def go_on(self) -> None:
        """End `pause`; may be called again."""
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once: its socket stays behind."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End it; may be called again."""
        if self._process is not None:
            self._process.stop()

    def _token(self) -> str:
        return self.server.json("token", "generate", "-spiffeID", self.id)["value"]


class Spire:
    """A server and an agent of one trust domain."""

    def __init__(self, server: Server, agent: Agent) -> None:
        self.server = server
        self.agent = agent

    @property
    def log(self) -> str:
        """The end of what both said."""
        return f"{self.server.log}\n{self.agent.log}"

    def entry(self, path: str, **more: Any) -> str:
        """Let this user's processes have an X509-SVID from the agent."""
        return self.server.entry(path, parent=self.agent.id, **more)

    def stop(self) -> None:
        """End both."""
        self.agent.stop()
        self.server.stop()


_UPDATED = "X.509 certificates updated"


class SpiffeHelper:
    """Spiffe-helper as a daemon: writes what a Workload API says to files."""

    def __init__(self, endpoint: str, folder: Path, *, hint: str = "") -> None:
        self.folder = folder
        config = folder / "helper.conf"
        config.write_text(
            f"""agent_address = "{endpoint.removeprefix("unix:").removeprefix("//")}"
cert_dir = "{folder}"
svid_file_name = "svid.pem"
svid_key_file_name = "svid_key.pem"
svid_bundle_file_name = "svid_bundle.pem"
hint = "{hint}"
"""
        )
        self._process = Process([binary("spire", "spiffe-helper"), "-config", config], name="spiffe-helper")

    @property
    def log(self) -> str:
        """The end of what it said."""
        return self._process.log

    def wait_for_updates(self, count: int) -> None:
        """Wait until it has written the files so often."""
        seen = 0
        for _ in range(count):
            self._process.wait_for_line(_UPDATED, since=seen)
            seen = 1 + next(i for i, line in enumerate(self._process.lines) if i >= seen and _UPDATED in line)

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_spire(folder: Path, trust_domain: str, *, federation: bool = False, ttl: str = SVID_TTL) -> Spire:
    """Start a server, and an agent that it knows."""
    server = Server(folder, trust_domain, federation=federation, ttl=ttl)
    try:
        return Spire(server.start(), Agent(server, folder).start())
    except BaseException:
        server.stop()
        raise


def _until_healthy(check: Any, process: Process | None) -> None:
    # The API's socket is there a little after the line that announces it; the tool has no "wait".
    for left in range(100, -1, -1):
        try:
            check()
        except RuntimeError:
            if not left or process is None or not process.running:
                raise
        else:
            return
