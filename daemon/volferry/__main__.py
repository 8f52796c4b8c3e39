"""`python -m volferry` is `volferry`."""

from volferry.cli.entry import run

if __name__ == "__main__":
    run()
