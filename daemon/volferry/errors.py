"""Every error that volferry raises on purpose, with the exit code that it ends a command with.

    VolferryError                      1
    ├── UsageError                     2   a value on the command line cannot be used
    │   └── ConfigError                2   the configuration cannot be used
    ├── VolumeBusy                     1   another run is at work on the same volume's backups
    ├── DaemonRuns                     1   another daemon works with the same state directory
    ├── PathExists                     1   what would be restored is in its place already
    ├── DamagedArchive                 1   what is to be imported is no tar, or a damaged one
    ├── DowntimeExceeded               1   services were brought back before the backup was done
    ├── HookFailed                     1   a command before or after a backup failed
    ├── DumpFailed                     1   a command whose output is part of a backup failed
    ├── EngineError                    1   the Docker engine said no, or is not there
    │   ├── NoSuchEngine               2   what is no engine's address, and no Docker context
    │   ├── EngineUnreachable
    │   ├── EngineBusy                     another volferry has containers of it stopped
    │   ├── NoSuchVolume
    │   ├── NoSuchContainer
    │   ├── NotUp                          what was stopped is gone, and does not come back
    │   ├── Disturbed                      what was to stand still did not
    │   ├── NotRunning                     a container in which a command was to be run is off, or gone
    │   ├── VolumeInUse
    │   ├── VolumeNotEmpty
    │   ├── SameData                       what is to be written is what is to be read
    │   ├── HelperImageError               no image for the helper can be had
    │   ├── HelperDied                     the helper ended before its work did
    │   └── CommandFailed                  a command in the helper failed
    │       ├── BeginAgain                 all is to be listed and read again
    │       │   ├── NeverRead              at an entry at which `tar` does not go on
    │       │   └── HiddenNames            a directory has names that `find` does not see
    │       └── Unfinished                 the volume holds the rest of what was interrupted
    ├── StoreError                     1   the store cannot be read or written
    │   ├── NoSuchStore
    │   │   └── UnknownStore           2   there never was one at the place that was named
    │   ├── StoreGone                      there was one at this place, and is none any longer
    │   ├── NoSuchObject
    │   ├── ObjectTooLarge                 no object of that kind has so many bytes
    │   ├── StoreUnreachable               wrong credentials, bucket, endpoint or clock
    │   ├── ObjectExists
    │   └── ObjectLocked                   under retention: it cannot be deleted yet
    │       └── DeletionDenied             nor ever, by this account
    └── RepositoryError                1   what the store holds does not give what was asked for
        ├── NoSuchBackup
        ├── AmbiguousBackup
        ├── SuspiciousBackup               one that nobody has named does not empty a volume
        ├── NoSuchPath                     a backup does not hold it
        ├── DamagedObject                  bytes that are not those that were written
        ├── NewerFormat                    written by a later version of volferry
        └── RestoreMismatch                what was restored is not what was backed up
    Interrupted                      130   SIGINT, SIGTERM or SIGHUP

A message says what happened, to what, and what to do; it is one line, since a person reads it in a log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Not an error: done, with something that a person should look at (as restic's 3).
FINDINGS_EXIT_CODE = 3


class VolferryError(Exception):
    """Base of all. `str(error)` is the line that a user sees.

    `advice` is no part of that: it is for the person whose command ends with the error.
    """

    exit_code = 1
    advice = ""


def reason(error: OSError) -> str:
    """Why the system refused something, in its words, to stand at the end of a message."""
    return (error.strerror or str(error)).lower()


def described(error: Exception) -> str:
    """Any error in one line. One that nobody has raised on purpose says where it comes from, for whoever is to mend it."""
    if isinstance(error, VolferryError):
        return str(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    import traceback  # noqa: PLC0415 -- slow to import, and rarely needed

    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"unexpected {text} ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})"
        if frames
        else text
    )


class UsageError(VolferryError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class Interrupted(BaseException):
    """Not an Exception: libraries, botocore and urllib3 among them, take those for failures, and try again."""

    exit_code = 130


class VolumeBusy(VolferryError):
    pass


class DaemonRuns(VolferryError):
    pass


class PathExists(VolferryError):
    pass


class DamagedArchive(VolferryError):
    pass


class HookFailed(VolferryError):
    pass


class DumpFailed(VolferryError):
    pass


class EngineError(VolferryError):
    pass


class NoSuchEngine(EngineError):
    exit_code = UsageError.exit_code


class EngineUnreachable(EngineError):
    pass


class EngineBusy(EngineError):
    pass


class NotRunning(EngineError):
    pass


class NoSuchVolume(EngineError):
    pass


class NoSuchContainer(EngineError):
    pass


class NotUp(EngineError):
    def __init__(self, message: str, *, may_pass: bool) -> None:
        """`may_pass` if it is worth waiting for."""
        super().__init__(message)
        self.may_pass = may_pass


class Disturbed(EngineError):
    pass


class DowntimeExceeded(VolferryError):
    pass


class VolumeInUse(EngineError):
    pass


class VolumeNotEmpty(EngineError):
    pass


class SameData(EngineError):
    pass


class NoRoom(EngineError):
    pass


class HelperImageError(EngineError):
    pass


class HelperDied(EngineError):
    pass


class CommandFailed(EngineError):
    pass


class Unfinished(CommandFailed):
    pass


class BeginAgain(CommandFailed):
    """By what is known of its file system now."""


class HiddenNames(BeginAgain):
    pass


class NeverRead(BeginAgain):
    """Of entries at which `tar` does not go on, by their paths, each with what it is called then."""

    def __init__(self, details: Mapping[bytes, str], message: str) -> None:
        super().__init__(message)
        self.details = details


class StoreError(VolferryError):
    pass


class ObjectTooLarge(StoreError):
    pass


class StoreUnreachable(StoreError):
    """Wrong credentials, bucket, endpoint or clock, or no way to the server: nothing can be done with the store."""


class ObjectLocked(StoreError):
    pass


class DeletionDenied(ObjectLocked):
    pass


class NoSuchStore(StoreError):
    pass


class UnknownStore(NoSuchStore):
    exit_code = UsageError.exit_code


class StoreGone(StoreError):
    """Not a NoSuchStore, which is no failure where nothing was ever backed up."""


class NoSuchObject(StoreError):
    pass


class ObjectExists(StoreError):
    pass


class RepositoryError(VolferryError):
    pass


class NoSuchBackup(RepositoryError):
    pass


class AmbiguousBackup(RepositoryError):
    pass


class SuspiciousBackup(RepositoryError):
    pass


class NoSuchPath(RepositoryError):
    pass


class DamagedObject(RepositoryError):
    """Names the object and what is wrong with it: on one line, whatever of the object's own text is in the reason."""

    def __init__(self, key: str, reason: str, advice: str = "") -> None:
        if not reason.isprintable():
            reason = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in reason)
        super().__init__(f"{key} is damaged: {reason}")
        self.key = key
        self.reason = reason
        self.advice = advice


class NewerFormat(RepositoryError):
    pass


class RestoreMismatch(RepositoryError):
    pass
