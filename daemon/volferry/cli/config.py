"""`volferry config check` and `volferry config show`."""

from __future__ import annotations

import typer

from volferry.checked import document_of
from volferry.cli.options import ConfigOption, JsonOption
from volferry.cli.session import print_json
from volferry.config import config_path, load_config

app = typer.Typer(help="Check or show the configuration.", no_args_is_help=True, rich_markup_mode=None)


@app.command("check")
def check(*, json: JsonOption = False, config: ConfigOption = None) -> int:
    """Check the configuration file and the environment; exit code 2 if they cannot be used."""
    from volferry.stores.factory import open_store  # noqa: PLC0415

    path = config_path(config)
    settings = load_config(path)
    for store in settings.stores.values():
        open_store(store)
    open_store(settings.store_config)
    where = str(path) if path else "no file; defaults and the environment"
    if json:
        print_json({"ok": True, "file": str(path) if path else None})
    else:
        print(f"ok: {where}")
    return 0


@app.command("show")
def show(*, json: JsonOption = False, config: ConfigOption = None) -> int:
    """Show every setting as it is in force: defaults, file and environment together."""
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
