"""The command `cifarflow server` shows or stops the local Prefect server that commands share."""

import shlex

import click

from flows.server.local import find_local_server, stop_local_server
from tasks.workspace.errors import RunError


@click.command()
@click.argument("action", type=click.Choice(["status", "env", "stop"]), default="status")
def server(action: str) -> None:
    """Show or stop the local Prefect server, which commands start and share, or print how to use it.

    `env` prints its address and its password as variables for a shell in which Prefect's own commands are to
    use it. The password is new each time that the server starts; the dashboard asks for it.

    It ends by itself when no command has used it for 15 minutes (CIFARFLOW_SERVER_IDLE_MINUTES). With
    CIFARFLOW_SERVER=temporary, each command has its own instead.

    \b
    Examples:
      cifarflow server
      eval "$(cifarflow server env)"
      cifarflow server stop
    """
    if action == "stop":
        print("the local server is stopped" if stop_local_server() else "no local server is running")
        return
    running = find_local_server()
    if action == "env":
        if running is None:
            raise RunError("no local server is running; start one with: cifarflow serve")
        print(f"export PREFECT_API_URL={shlex.quote(running.api_url)}")
        print(f"export PREFECT_API_AUTH_STRING={shlex.quote(running.credential)}")
    else:
        print(f"the local server runs at {running.dashboard}" if running else "no local server is running")
