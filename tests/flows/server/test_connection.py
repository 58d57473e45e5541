"""A connection that is lost is one line; any other error keeps its traceback."""

import httpx
import pytest

from flows.server.connection import _lost_connection_as_run_error
from tasks.workspace.errors import RunError


@pytest.mark.parametrize(
    "error",
    [httpx.ConnectError("refused"), RuntimeError("No flow run. Failed to reach API at http://x/api.")],
)
def test_lost_connection_is_a_run_error_of_one_line(error: Exception) -> None:
    message = r"the Prefect server stopped responding \(.*\); finished"
    with pytest.raises(RunError, match=message), _lost_connection_as_run_error():
        raise error


def test_another_runtime_error_stays_as_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), _lost_connection_as_run_error():
        raise RuntimeError("shapes differ")
