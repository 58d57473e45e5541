"""Connect a command to a Prefect server: the one that Prefect's settings name, or a local one."""

import contextlib
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import httpx

from flows.server.api import check_api, load_settings
from flows.server.local import local_server
from flows.server.proxies import LOOPBACK, drop_unusable_proxies
from tasks.processes import set_environment
from tasks.workspace.errors import RunError

TAG = "cifarflow"


@contextlib.contextmanager
def connect_to_server(preload: Sequence[str] = (), port: int | None = None) -> Iterator[str]:
    """Yield the URL of an API that responds, and with which Prefect's client works in the block.

    The block's flow runs have the tag that automations.yaml looks for. While a server starts, the modules
    `preload` are imported. `RunError` or `InputError` in one line if there is no such server.
    """
    settings = load_settings()
    if not settings.api.url or urlsplit(settings.api.url).hostname in LOOPBACK:
        drop_unusable_proxies()
    if settings.api.url:
        check_api(settings)
        from prefect import tags

        with tags(TAG), _lost_connection_as_run_error():
            yield settings.api.url
        return
    from prefect import tags
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    with local_server(settings, preload, port) as server:
        local = {PREFECT_API_URL: server.api_url, PREFECT_API_AUTH_STRING: server.credential}
        # Processes that are started in the block, such as runs and Dask's workers, read them there.
        variables = {setting.name: value for setting, value in local.items()}
        with (
            set_environment(variables),
            temporary_settings(local),
            tags(TAG),
            _lost_connection_as_run_error(),
        ):
            yield server.api_url


@contextlib.contextmanager
def _lost_connection_as_run_error() -> Iterator[None]:
    """Turn what Prefect's client raises when its retries are used up into one line."""
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError) as error:
        # Prefect raises RuntimeError with this text at the start of a flow run.
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(
            f"the Prefect server stopped responding ({reason:.200}); finished stages are kept: run again"
        ) from error
