"""`volferry config check`, `volferry config show` and `volferry config schema`."""

from __future__ import annotations

import typer

from volferry.checked import document_of
from volferry.cli.options import ConfigOption, JsonOption
from volferry.cli.output import print_json
from volferry.config import Config, config_path, load_config
from volferry.errors import ConfigError, UsageError

app = typer.Typer(help="Check or show the configuration.", no_args_is_help=True, rich_markup_mode=None)


@app.command("check")
def check(*, json: JsonOption = False, config: ConfigOption = None) -> int:
    """Check the configuration file and the environment. Exit code 2 if they cannot be used."""
    from volferry.stores.factory import open_store  # noqa: PLC0415
    from volferry.telling.notifier import check_urls  # noqa: PLC0415

    path = config_path(config)
    settings = load_config(path)
    where = str(path) if path else "no file; defaults and the environment"
    try:
        check_urls(settings.notify)
        _check_patterns(settings)
        for name, store in settings.stores.items():
            try:
                open_store(store)
            except UsageError as error:
                raise ConfigError(f"stores.{name}.url: {error}") from error
        open_store(settings.store_config)
    except UsageError as error:
        raise ConfigError(f"{where}: {error}") from error
    if json:
        print_json({"ok": True, "file": str(path) if path else None})
    else:
        print(f"ok: {where}")
    return 0


def _check_patterns(settings: Config) -> None:
    """Raises ConfigError."""
    from volferry.archive.excludes import Excludes  # noqa: PLC0415 -- slow to import

    rules = [(f"rules.{number}", rule) for number, rule in enumerate(settings.rules)]
    for place, found in [("defaults", settings.defaults), *rules]:
        try:
            Excludes(found.exclude or ()).check()
        except ValueError as error:
            raise ConfigError(f"{place}.exclude: {error}") from error


@app.command("show")
def show(*, json: JsonOption = False, config: ConfigOption = None) -> int:
    """Show every setting in force. Defaults, file and environment count together."""
    path = config_path(config)
    settings = load_config(path)
    document = document_of(settings)
    document["store"] = settings.store_config.url
    if json:
        print_json({"file": str(path) if path else None, **document})
        return 0
    print(f"# {path or 'no configuration file'}")
    for key, value in _flat(document, ""):
        print(f"{key} = {value}")
    return 0


@app.command("schema")
def schema() -> int:
    """Print the JSON schema of the file. Editors complete and check TOML by one."""
    from volferry.config_schema import config_schema  # noqa: PLC0415

    print_json(config_schema())
    return 0


def _flat(document: dict[str, object], prefix: str) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in document.items():
        if isinstance(value, dict):
            lines.extend(_flat(value, f"{prefix}{key}."))
        else:
            text = (
                '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
                if isinstance(value, str)
                else value
            )
            lines.append((f"{prefix}{key}", "(not set)" if value is None else str(text)))
    return lines
