"""The `volferry` command: its sub-commands, its exit codes, and what an error looks like."""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module

import typer

from volferry.cli import output
from volferry.errors import Interrupted, VolferryError, reason

# Module of volferry.cli, and what it has: a function, or the app of further commands. In the order of the help.
_COMMANDS = {
    "volumes": ("volumes", "volumes"),
    "backup": ("backup", "backup"),
    "list": ("inspect", "list_backups"),
    "show": ("show", "show"),
    "ls": ("ls", "ls"),
    "find": ("find", "find"),
    "diff": ("diff", "diff"),
    "restore": ("restore", "restore"),
    "export": ("export", "export"),
    "migrate": ("migrate", "migrate"),
    "import": ("importing", "import_volume"),
    "verify": ("verify", "verify"),
    "copy": ("copy", "copy"),
    "accept": ("accept", "accept"),
    "forget": ("prune", "forget"),
    "prune": ("prune", "prune"),
    "recover": ("recover", "recover"),
    "daemon": ("daemon", "daemon"),
    "status": ("status", "status"),
    "doctor": ("doctor", "doctor"),
    "config": ("config", "app"),
}


def build_app(only: str | None = None) -> typer.Typer:
    """The command line. With the name of a command, that one alone: the others need not be imported."""
    app = typer.Typer(
        name="volferry",
        help="Backs up and restores the data of Docker volumes.",
        epilog="Exit codes: 0 done; 1 failed; 2 bad usage or configuration; 3 done, with findings; 130 interrupted; 141 nobody reads stdout any longer.",
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_main)
    for name in [only] if only in _COMMANDS else _COMMANDS:
        module, attribute = _COMMANDS[name]
        found = getattr(import_module(f"volferry.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def _main(
    *, version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True)
) -> None:
    if version:
        from volferry import __version__  # noqa: PLC0415 -- only here

        print(f"volferry {__version__}")
        raise typer.Exit


def exit_code() -> int:
    """Runs the command of `sys.argv`. No traceback reaches a user."""
    # What was imported stays, and entries of a listing come and go without cycles: looking for cycles more often
    # than this took a tenth of a backup's time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    gc.enable()
    # The thread that starts the helper must not wait for the one that imports.
    sys.setswitchinterval(0.0005)
    try:
        output.prepare()
        code = _run()
        sys.stdout.flush()
    except VolferryError as error:
        if isinstance(error, output.OutputFailed):
            output.give_up()
        _complain(f"{error}: {error.advice}" if error.advice else str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        return Interrupted.exit_code
    except output.NobodyReads:  # as if the signal had ended us, as it ends others
        output.give_up()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if os.environ.get("VOLFERRY_DEBUG"):
            raise
        where = f": {error.filename}" if error.filename else ""
        _complain(f"{reason(error)}{where}")
        return 1
    except Exception as error:
        if os.environ.get("VOLFERRY_DEBUG"):
            raise
        _complain(
            f"internal error, please report it: {type(error).__name__}: {error} (VOLFERRY_DEBUG=1 shows where)"
        )
        return 1
    return code if isinstance(code, int) else 0


def _run() -> object:
    """Runs the command, and returns its exit code. Prints the line about a mistake in the command line."""
    try:
        return build_app(sys.argv[1] if len(sys.argv) > 1 else None)(standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "volferry"
        message = error.format_message()
        if context is not None and message == context.get_help():  # no arguments at all
            print(message)
            return 2
        _complain(f"{message.rstrip('.')} (see `{path} --help`)")
        return error.exit_code if error.exit_code > 1 else 2


def _complain(message: str) -> None:
    print(output.plain(f"volferry: {' '.join(message.split())}"), file=sys.stderr, flush=True)
