"""The system's ssh, which carries SFTP: with its configuration, agent, keys, jump hosts and known hosts.

ssh asks nobody anything. A host key that it does not know, or that has changed, is an error.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from volferry.errors import StoreUnreachable, reason
from volferry.interrupts import held_back
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from volferry.store_config import StoreConfig
    from volferry.stores.places import Remote

_CONNECT_SECONDS = 30
_ALIVE_SECONDS = 15  # between questions whether the other end is still there
_ALIVE_QUESTIONS = 4
_MOST_WORDS = 400
_UNKNOWN_KEY = ("host key is known for", "authenticity of host", "Host key verification failed")
# What another attempt does not change.
_FINAL = (
    "Permission denied",
    "Too many authentication failures",
    "Could not resolve hostname",
    "Bad configuration option",
    "Bad owner or permissions",
    "no matching",
    "No user exists",
    "Connection to UNKNOWN",
)
# Of ssh's configuration, what is good for a terminal and in the way of SFTP: what is harmless, and what is said in its place.
# Versions of ssh that do not know one never have it, and would refuse it.
_IN_THE_WAY = {
    "RemoteCommand": ({"none"}, "none"),
    "StdinNull": ({"no"}, "no"),
    "ForkAfterAuthentication": ({"no"}, "no"),
    # Its words are what a user is told.
    "LogLevel": ({"INFO", "ERROR"}, "INFO"),
    "VisualHostKey": ({"no", "false"}, "no"),
}


class Why(NamedTuple):
    """Of a connection that has ended."""

    text: str  # a sentence's end
    may_pass: bool


class Ssh:
    """How one account on one server is reached."""

    def __init__(self, remote: Remote, settings: StoreConfig) -> None:
        self._remote = remote
        self._settings = settings
        self._askpass: int | None = None

    def __del__(self) -> None:
        if self._askpass is not None:
            os.close(self._askpass)

    def start(self) -> subprocess.Popen[bytes]:
        """One connection, with SFTP on its stdin and stdout. Raises StoreUnreachable, ConfigError."""
        arguments = [
            *(self._program, "-T", "-x", "-a", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"),
            *("-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no"),
            # One that is shared with others would end, or fill up, with them.
            *("-o", "ControlMaster=no", "-S", "none"),
            *self._options,
            *(*self._given, "-s", "--", self._remote.host, "sftp"),
        ]
        try:
            with held_back():
                return subprocess.Popen(
                    arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C is for us, and there is no terminal to ask on
                )
        except OSError as error:
            raise StoreUnreachable(f"cannot run {self._program}: {reason(error)}") from error

    def why(self, words: bytes, code: int) -> Why:
        """What ssh's stderr means, in one line, with what to do."""
        lines = [printable(line.strip()) for line in words.splitlines()]
        kept = [line for line in lines if line and not line.startswith(("**", "@@", "Warning: Permanently"))]
        said = " ".join(kept)[-_MOST_WORDS:].rstrip(".")
        if "IDENTIFICATION HAS CHANGED" in said or any(
            "IDENTIFICATION HAS CHANGED" in line for line in lines
        ):
            name = f"[{self._remote.host}]:{self._remote.port}" if self._remote.port else self._remote.host
            where = f"-f {self._settings.known_hosts} " if self._settings.known_hosts else ""
            return Why(
                "its host key is another one than before: somebody may be in between. If the server is known to have a new one, "
                f"forget the old one with: ssh-keygen {where}-R {shlex.quote(name)}",
                may_pass=False,
            )
        if any(each in said for each in _UNKNOWN_KEY):
            return Why(
                "its host key is not known here: compare it with the server's, and accept it with: "
                f"{self.command_for_people}",
                may_pass=False,
            )
        if "Permission denied" in said or "Too many authentication failures" in said:
            how = "key or password" if self._password is not None else "key"
            return Why(f"it accepts no {how} that ssh has here for this account: {said}", may_pass=False)
        if "subsystem request failed" in said:
            return Why("it has no SFTP, or not for this account", may_pass=False)
        final = any(each in said for each in _FINAL) and "Temporary failure" not in said
        return Why(said or f"ssh ended without a word ({code})", may_pass=not final)

    @property
    def command_for_people(self) -> str:
        """By which a person answers what ssh asks."""
        known = self._settings.known_hosts
        options = ["-o", f"UserKnownHostsFile={known}"] if known else []
        port = ["-P", str(self._remote.port)] if self._remote.port else []
        user = f"{self._remote.user}@" if self._remote.user else ""
        return shlex.join(["sftp", *options, *port, f"{user}{self._remote.host}"])

    @cached_property
    def _program(self) -> str:
        found = shutil.which("ssh")
        if found is None:
            raise StoreUnreachable(
                f"{self._remote.url}: this machine has no ssh: install it (openssh-client)"
            )
        return found

    @cached_property
    def _given(self) -> list[str]:
        """What the URL and the settings say. Raises StoreUnreachable."""
        found = ["-l", self._remote.user] if self._remote.user else []
        if self._remote.port:
            found += ["-p", str(self._remote.port)]
        if (identity := self._settings.identity_file) is not None:
            self._readable(identity, "identity_file")
            found += ["-o", f"IdentityFile={_quoted(identity)}", "-o", "IdentitiesOnly=yes"]
        if (known := self._settings.known_hosts) is not None:
            self._readable(known, "known_hosts")
            found += ["-o", f"UserKnownHostsFile={_quoted(known)}"]
        return found

    def _readable(self, path: Path, key: str) -> None:
        """Of a file that it cannot read, ssh says little, and goes on without."""
        try:
            path.open("rb").close()
        except OSError as error:
            raise StoreUnreachable(
                f"{self._remote.url}: cannot read {key} {path}: {reason(error)}"
            ) from error

    @cached_property
    def _configured(self) -> Mapping[str, str]:
        """What ssh's own configuration makes of it."""
        said = subprocess.run(
            [self._program, "-G", *self._given, "--", self._remote.host],
            capture_output=True,
            text=True,
            check=False,
            errors="replace",
        )
        return dict(line.partition(" ")[::2] for line in said.stdout.splitlines())

    @cached_property
    def _options(self) -> list[str]:
        """What is said in the configuration of ssh is left alone, but for what is in the way, and for questions: nobody is there to
        answer.
        """
        found = []
        for name, (harmless, instead) in _IN_THE_WAY.items():
            if self._configured.get(name.lower(), instead) not in harmless:
                found += ["-o", f"{name}={instead}"]
        if self._configured.get("serveraliveinterval", "0") == "0":
            found += ["-o", f"ServerAliveInterval={_ALIVE_SECONDS}"]
            found += ["-o", f"ServerAliveCountMax={_ALIVE_QUESTIONS}"]
        if self._configured.get("stricthostkeychecking", "ask") == "ask":
            found += ["-o", "StrictHostKeyChecking=yes"]
        if self._password is None:
            return [*found, "-o", "BatchMode=yes"]
        return [*found, "-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=1"]

    @cached_property
    def _password(self) -> str | None:
        return self._settings.sftp_password

    @cached_property
    def _environment(self) -> dict[str, str]:
        found = {name: value for name, value in os.environ.items() if not name.startswith("VOLFERRY_")}
        if self._password is not None:
            self._askpass = _in_memory(self._script(self._password))
            found |= {
                "SSH_ASKPASS": f"/proc/{os.getpid()}/fd/{self._askpass}",
                "SSH_ASKPASS_REQUIRE": "force",
                "DISPLAY": found.get("DISPLAY") or "none",  # before OpenSSH 8.4
            }
        return found

    def _script(self, password: str) -> str:
        """Tells ssh the password, if it is asked for that of this account: on the way there may be others, of jump hosts."""
        configured = self._configured
        alias = configured.get("hostkeyalias", "none")
        host = configured.get("hostname", self._remote.host) if alias == "none" else alias
        account = f"{configured.get('user', self._remote.user)}@{host}"
        direct = all(configured.get(each, "none") == "none" for each in ("proxyjump", "proxycommand"))
        any_password = "*[Pp]assword*|" if direct else ""
        return (
            "#!/bin/sh\n"
            'case "$1" in\n'
            "*[Pp]assphrase*|*yes/no*) exit 1;;\n"
            f"{any_password}*{shlex.quote(account)}*) printf '%s\\n' {shlex.quote(password)};;\n"
            "*) exit 1;;\n"
            "esac\n"
        )


def _quoted(path: Path) -> str:
    """As ssh_config(5) has a path: in quotes, and with no token in it."""
    return '"' + str(path).replace("%", "%%") + '"'


def _in_memory(script: str) -> int:
    """A descriptor of a program that is on no disk: secrets are on none then, and temporary directories may be mounted without `exec`."""
    writable = os.memfd_create("volferry-askpass")
    try:
        os.write(writable, script.encode())
        # What somebody may still write to is not run (ETXTBSY).
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)
