"""volferry: backs up and restores the data of Docker volumes."""


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: that takes a tenth of a second, which most commands save."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("volferry")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
