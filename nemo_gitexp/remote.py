"""A machine reached by ssh: programs run there, directories go there and come back. This machine counts as one too.

Everything goes through one connection that is kept open for a minute (multiplexing), by the user's own ssh with his
keys, agent and known hosts; nothing here ever asks for a password.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nemo_gitexp import processes
from nemo_gitexp.errors import RemoteHostError, SettingsError
from nemo_gitexp.processes import Completed
from nemo_gitexp.profiles import TunnelProfile

CONNECT_TIMEOUT_S: Final = 15
SILENCE_TIMEOUT_S: Final = 120
"""So long a transfer may stand still."""

KEPT_OPEN_S: Final = 60
_SSH_FAILED: Final = 255
_VANISHED: Final = 24
"""What rsync answers when a file went away while it looked: of a living run that is no fault."""

_SAID_AT_MOST: Final = 500


@dataclass(frozen=True, slots=True)
class RemoteHost:
    """Where and how to reach a machine.

    Attributes:
        name: as ssh knows it, an alias of its configuration too; None: this machine.
        user: there; None: as ssh's configuration says.
        port: of its sshd; None: as ssh's configuration says.
        identity: a private key; None: as ssh's configuration and agent have it.
        pre_command: shell text that must run there before any program (`module load slurm`).
        config: a configuration file for ssh; None: the user's own.
    """

    name: str | None
    user: str | None = None
    port: int | None = None
    identity: Path | None = None
    pre_command: str | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        """Refuse names that ssh would take for options.

        Raises:
            SettingsError: such a name.
        """
        for word in (self.name, self.user):
            if word is not None and (word.startswith("-") or not word or any(letter.isspace() for letter in word)):
                raise SettingsError(f"no host or user is called {word!r}", setting="tunnel", source="the executor")

    @property
    def address(self) -> str | None:
        """`[user@]host[:port]`, None for this machine."""
        if self.name is None:
            return None
        return self._login + (f":{self.port}" if self.port else "")

    @property
    def _login(self) -> str:
        return f"{self.user}@{self.name}" if self.user else str(self.name)

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = 60, check: bool = True
    ) -> Completed:
        """Run a program there, arguments exactly as given whatever they hold, and return what it said.

        Args:
            argv: program and arguments.
            stdin: all of its input.
            timeout_s: seconds until it is given up; None: never.
            check: a failure is an error.

        Raises:
            RemoteHostError: the machine cannot be reached, or with `check` the program failed.
        """
        if self.name is None:
            whole = list(argv)
        else:
            # ssh hands one text to a shell there.
            line = shlex.join(argv)
            before = f"{self.pre_command} && " if self.pre_command else ""
            whole = [*self._ssh(), "--", self._login, before + line]
        done = self._completed(whole, stdin, timeout_s)
        if done.returncode == _SSH_FAILED and self.name is not None:
            raise self._unreached(done)
        if check and done.returncode != 0:
            said = done.said or done.stdout.decode("utf-8", "replace").strip()
            raise RemoteHostError(
                f"{argv[0]} failed{self._there}: {said[-_SAID_AT_MOST:] or f'exit code {done.returncode}'}",
                host=self.address,
                exit_code=done.returncode,
            )
        return done

    def push(
        self,
        source: Path,
        target: str,
        *,
        files: Iterable[str] | None = None,
        follow_links: bool = False,
        is_final: bool = False,
    ) -> None:
        """Copy a directory's content there, modes and times too; what is there already is not sent again.

        An interrupted copy goes on where it stopped.

        Args:
            source: the directory here.
            target: the directory there, made if need be; its parent must exist.
            files: only these, relative to the source.
            follow_links: links arrive as what they lead to; else as links.
            is_final: files that are there stay as they are, and nobody sees half of one.

        Raises:
            RemoteHostError: it did not arrive.
        """
        links = ["--copy-links"] if follow_links else ["--links"]
        way = ["--ignore-existing"] if is_final else ["--partial"]
        self._rsync([*links, *way], f"{source}/", self._place(f"{target}/"), files)

    def fetch(self, source: str, target: Path, *, files: Iterable[str], filters: Iterable[str] = ()) -> None:
        """Copy files and directories from there, each file whole or not at all; what is here already is not sent.

        Args:
            source: a directory there.
            target: the directory here.
            files: what to copy, relative to the source; directories whole. What is gone meanwhile is left out.
            filters: rules of rsync, anchored at the source, that leave some of it out.

        Raises:
            RemoteHostError: it did not arrive.
        """
        rules = [f"--filter={rule}" for rule in filters]
        self._rsync(
            ["--recursive", "--links", "--ignore-missing-args", *rules], self._place(f"{source}/"), f"{target}/", files
        )

    def close(self) -> None:
        """Close the connection that is kept open, if there is one."""
        if self.name is not None:
            self._completed([*self._ssh(), "-O", "exit", "--", self._login], b"", CONNECT_TIMEOUT_S)

    @property
    def _there(self) -> str:
        return "" if self.name is None else f" on {self._login}"

    def _place(self, path: str) -> str:
        return path if self.name is None else f"{self._login}:{path}"

    def _rsync(self, options: Sequence[str], source: str, target: str, files: Iterable[str] | None) -> None:
        # No owner and no group: they are others there.
        argv = ["rsync", "--perms", "--times", "--protect-args", f"--timeout={SILENCE_TIMEOUT_S}", *options]
        listed = b""
        if files is None:
            argv.append("--recursive")
        else:
            listed = b"".join(os.fsencode(name) + b"\0" for name in files)
            if not listed:
                return
            argv += ["--from0", "--files-from=-"]
        if self.name is not None:
            argv += ["--rsh", shlex.join(self._ssh())]
        done = self._completed([*argv, "--", source, target], listed, None)
        if done.returncode in (0, _VANISHED):
            return
        if done.returncode == _SSH_FAILED:
            raise self._unreached(done)
        is_missing = "not found" in done.said and "rsync" in done.said
        raise RemoteHostError(
            f"the files did not get from {source} to {target}: {done.said[-_SAID_AT_MOST:]}",
            hint=f"install rsync{self._there}" if is_missing else f"df -h{self._there}",
            host=self.address,
            exit_code=done.returncode,
        )

    def _ssh(self) -> list[str]:
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}", "-o", "ServerAliveInterval=15"]
        sockets = _socket_directory()
        if sockets is not None:
            options += ["-o", "ControlMaster=auto", "-o", f"ControlPath={sockets}/%C"]
            options += ["-o", f"ControlPersist={KEPT_OPEN_S}"]
        if self.config is not None:
            options += ["-F", str(self.config)]
        if self.identity is not None:
            options += ["-i", str(self.identity), "-o", "IdentitiesOnly=yes"]
        if self.port is not None:
            options += ["-p", str(self.port)]
        return ["ssh", "-T", *options]

    def _completed(self, argv: Sequence[str], stdin: bytes, timeout_s: float | None) -> Completed:
        try:
            return processes.run(argv, stdin=stdin, timeout_s=timeout_s)
        except subprocess.TimeoutExpired as fault:
            raise RemoteHostError(f"no answer{self._there} within {timeout_s:.0f} s", host=self.address) from fault
        except OSError as fault:
            raise RemoteHostError(
                f"{argv[0]} cannot be started: {fault.strerror}", hint=f"install {argv[0]}", host=self.address
            ) from fault

    def _unreached(self, done: Completed) -> RemoteHostError:
        said = done.said[-_SAID_AT_MOST:]
        port = f"-p {self.port} " if self.port else ""
        hints = {
            "Host key verification failed": f"ssh-keyscan {port}{self.name} >> ~/.ssh/known_hosts, once you trust it",
            "Permission denied": f"ssh-copy-id {port}{self._login}, or name the key: identity in the tunnel's table",
        }
        hint = next((text for word, text in hints.items() if word in said), f"ssh {port}{self._login} true")
        return RemoteHostError(f"cannot reach {self._login}: {said}", hint=hint, host=self.address)


THIS_MACHINE: Final = RemoteHost(None)


def host_of(tunnel: TunnelProfile | None, *, config: Path | None = None) -> RemoteHost:
    """Return the machine that a bound profile's tunnel leads to.

    Args:
        tunnel: of the profile; none, or a local one, is this machine.
        config: a configuration file for ssh instead of the user's own.
    """
    if tunnel is None or tunnel.kind == "local":
        return THIS_MACHINE
    identity = None if tunnel.identity is None else Path(tunnel.identity).expanduser()
    return RemoteHost(tunnel.host or "localhost", tunnel.user, tunnel.port, identity, tunnel.pre_command, config)


def _socket_directory() -> Path | None:
    """Return a directory for connections that nobody else can use, its path short: sockets' paths end at 104 bytes."""
    place = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), f"gitexp-{os.getuid()}")
    if len(os.fsencode(place)) > 104 - 1 - 40 - 18:  # ssh's name for it, and what it appends while it makes it
        return None
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        state = place.lstat()
    except OSError:
        return None
    is_ours = place.is_dir() and not place.is_symlink() and state.st_uid == os.getuid()
    return place if is_ours and state.st_mode & 0o077 == 0 else None
