"""The command line: `cifarflow`."""


def main() -> None:
    raise SystemExit(2)
