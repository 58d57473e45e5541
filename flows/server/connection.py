"""The Prefect server of a command: the one that Prefect's settings name, or a local one."""

import contextlib
import os
from collections.abc import Iterator, Sequence

import httpx

from flows.server.api import check_api, load_settings
from flows.server.local import local_server
from tasks.workspace.errors import RunError


@contextlib.contextmanager
def connect_to_server(preload: Sequence[str] = (), port: int | None = None) -> Iterator[str]:
    """The API's URL, of a server that responds and with which Prefect's client works in the block.

    While a server starts, the modules `preload` are imported. `RunError` or `InputError` in one line if
    there is no such server.
    """
    settings = load_settings()
    if settings.api.url:
        check_api(settings)
        with _lost_connection_as_run_error():
            yield settings.api.url
        return
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    with local_server(settings, preload, port) as server:
        password = settings.server.api.auth_string or settings.api.auth_string
        local = {PREFECT_API_URL: server.api_url, PREFECT_API_AUTH_STRING: password}
        os.environ["PREFECT_API_URL"] = server.api_url  # for processes that are started in the block
        try:
            with temporary_settings(local), _lost_connection_as_run_error():
                yield server.api_url
        finally:
            del os.environ["PREFECT_API_URL"]


@contextlib.contextmanager
def _lost_connection_as_run_error() -> Iterator[None]:
    """What Prefect's client raises when its retries are used up, as one line."""
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(
            f"the Prefect server stopped responding ({reason:.200}); finished stages are kept: run again"
        ) from error
