"""Call a URL when a flow run ends, as dead man's switches expect it: they alarm where the call stays out.

Off by default. `CIFARFLOW_SUCCESS_URL` is called after a run that ended well, also after one that found
nothing to do, and `CIFARFLOW_FAILURE_URL` after one that failed. Where a URL has the part `{flow}`, it is
called for each flow, with the flow's name in its place; where it has not, only for `retrain`, since the
success of another flow says nothing about retraining.
"""

import os
import threading
import urllib.request
from urllib.parse import urlsplit

from tasks.status.run_log import RunRecord

SUCCESS_URL, FAILURE_URL = "CIFARFLOW_SUCCESS_URL", "CIFARFLOW_FAILURE_URL"
FLOW = "retrain"
TIMEOUT_S = 5.0
"""time for the service to accept the connection, and again for it to answer"""
TOTAL_TIMEOUT_S = 10.0
"""time after which the run goes on whatever the service does"""


def ping(record: RunRecord) -> str:
    """Call the URL that is set for such an end, and return what went wrong in one line; empty if nothing did.

    The line does not show the URL, since whoever knows it can call it. Nothing is raised.
    """
    name = SUCCESS_URL if record.ended_well else FAILURE_URL if record.ended_badly else ""
    url = os.environ.get(name, "")
    if not url or ("{flow}" not in url and record.flow != FLOW):
        return ""
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        return f"{name} is not called: it is no URL"
    if scheme not in {"http", "https"}:
        return f"{name} is not called: it is no http or https URL"
    problems = [f"no answer in {TOTAL_TIMEOUT_S:.0f} s"]
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        url.replace("{flow}", record.flow),
        data=f"{record.flow} {record.run}: {record.state}\n{record.message}\n".encode(errors="replace"),
        headers={"Content-Type": "text/plain; charset=utf-8", "User-Agent": "cifarflow"},
    )
    # A service that sends its answer byte by byte keeps within any time-out of the socket.
    thread = threading.Thread(target=_send, args=(request, problems), daemon=True)
    thread.start()
    thread.join(TOTAL_TIMEOUT_S)
    return f"{name} could not be called: {problems[-1]}" if problems[-1] else ""


def _send(request: urllib.request.Request, problems: list[str]) -> None:
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - the scheme was checked
            problems.append("")
    except Exception as error:  # noqa: BLE001 - whatever the service does, the run goes on
        reason = getattr(error, "reason", None) or type(error).__name__
        problems.append(" ".join(str(reason).split())[:200])
