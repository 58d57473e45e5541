"""Check that Prefect's client can work with its server; otherwise say in one line which setting is wrong."""

import contextlib
import io
import os
import ssl
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from tasks.workspace.errors import InputError, RunError

if TYPE_CHECKING:
    from prefect.settings import Settings

TIMEOUT_S = 10.0
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


def load_settings() -> "Settings":
    """Load Prefect's settings; `InputError` if they, or the files that they come from, are invalid."""
    for variable in CERTIFICATE_VARIABLES:
        if not Path(os.environ.get(variable, "/")).exists():
            raise InputError(f"{variable} names a file that does not exist: {os.environ[variable]}")
    if url := os.environ.get("PREFECT_API_URL"):
        _parse_address(url, "PREFECT_API_URL")
    output = io.StringIO()  # Prefect also prints the traceback of an invalid setting.
    try:
        with contextlib.redirect_stderr(output), warnings.catch_warnings(action="ignore"):
            from prefect.settings import get_current_settings

            settings = get_current_settings()
    except ValidationError as error:
        raise InputError(f"Prefect's setting {_describe_invalid_setting(error)}") from None
    except Exception as error:
        raise InputError(f"Prefect's settings cannot be read: {_one_line(error)[:300]}") from error
    print(output.getvalue(), end="", file=sys.stderr)
    return settings


def _describe_invalid_setting(error: ValidationError) -> str:
    details = error.errors()[0]
    field, value = str(details["loc"][-1] if details["loc"] else ""), details["input"]
    names = [
        name
        for name in os.environ
        if name.startswith("PREFECT_") and name.endswith(field.upper()) and os.environ[name] == value
    ]
    reason = details["msg"].removeprefix("Value error, ")
    return f"{names[0] if names else field} is invalid: {reason}, not {value!r:.80}"


def _parse_address(url: str, origin: str) -> str:
    """Return host and port, without a password that the URL may hold; `InputError` if it is not a URL."""
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    except ValueError:
        pass
    raise InputError(
        f"{origin} is not a URL: {url!r:.80}; it should be like http://127.0.0.1:4200/api, or unset"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def find_origin(setting: str) -> str:
    """Say where the setting comes from: an environment variable, a profile or a file."""
    if setting in os.environ:
        return setting
    from prefect.settings import get_current_settings, load_profiles

    profiles = load_profiles(include_defaults=False)
    name = os.environ.get("PREFECT_PROFILE") or profiles.active_name
    if name in profiles.names and any(key.name == setting for key in profiles[name].settings):
        return f"{setting} in the profile {name} of {get_current_settings().profiles_path}"
    for file in (".env", "prefect.toml", "pyproject.toml"):
        if Path(file).is_file() and "prefect" in Path(file).read_text("utf-8", errors="replace").lower():
            return f"{setting} in {file}"
    return setting


def check_api(settings: "Settings") -> str:
    """Return host and port of the configured server; `RunError` if Prefect's client cannot use it."""
    url = str(settings.api.url)
    origin = find_origin("PREFECT_API_URL")
    address = _parse_address(url, origin)
    certificate = settings.api.ssl_cert_file
    if certificate and url.startswith("https") and not Path(certificate).exists():
        name = find_origin("PREFECT_API_SSL_CERT_FILE")
        raise InputError(f"{name} names a file that does not exist: {certificate}")
    proxy = _proxy_variable(url)
    if proxy and os.environ[proxy].startswith("socks"):
        raise InputError(
            f"{proxy} names a SOCKS proxy, through which Prefect's client sends no events; if {address} is "
            "reached without it, list the host in no_proxy"
        )
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True, httpx_settings={"timeout": TIMEOUT_S}) as client:
            response = client.request("GET", "/admin/version")
            version = str(response.json())
    except httpx.HTTPStatusError as error:
        raise _explain_status(error.response.status_code, address, origin) from error
    except ValueError as error:
        if "proxy" in str(error).lower() and proxy:
            raise InputError(f"{proxy} is not the URL of a proxy: {os.environ[proxy]!r:.80}") from error
        raise RunError(
            f"what responds at {address} is not a Prefect API ({origin}); its URL ends in /api"
        ) from error
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        raise _explain_connection(error, url, address, origin) from error
    import prefect

    if version.split(".", maxsplit=1)[0] != prefect.__version__.split(".")[0]:
        raise RunError(
            f"the Prefect server at {address} has version {version}, this project Prefect "
            f"{prefect.__version__} ({origin}); their major versions must match"
        )
    return address


def takes_anybodys_requests(url: str) -> bool:
    """Return whether the server at this URL answers without a password."""
    try:
        return httpx.get(f"{url.rstrip('/')}/admin/version", timeout=TIMEOUT_S).is_success
    except (httpx.HTTPError, OSError, ValueError):  # Its certificate or a proxy may forbid any answer.
        return False


def _explain_status(status: int, address: str, origin: str) -> RunError:
    if status in {401, 403}:
        return RunError(
            f"the Prefect server at {address} rejects the password; set PREFECT_API_AUTH_STRING to its "
            "user:password (on Prefect Cloud: PREFECT_API_KEY)"
        )
    if status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
        return RunError(f"the proxy on the way to the Prefect server at {address} asks for a password")
    if status >= 500:
        return RunError(f"the Prefect server at {address} has an error of its own ({status}); see its log")
    return RunError(
        f"what responds at {address} is not a Prefect API ({status}; {origin}); its URL ends in /api"
    )


def _explain_connection(error: Exception, url: str, address: str, origin: str) -> RunError:
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return RunError(
            f"the certificate of the Prefect server at {address} is not trusted; set "
            "PREFECT_API_SSL_CERT_FILE to the CA's file"
        )
    if any("incompatible versions" in str(cause) for cause in causes):
        return RunError(f"{_one_line(error)} (the server at {address}, {origin})")
    proxy = _proxy_variable(url)
    if proxy:
        return RunError(f"the Prefect server at {address} does not respond through the proxy of {proxy}")
    return RunError(
        f"no Prefect server responds at {address} ({origin}); start it with `prefect server start`, or unset "
        "the variable or setting to use a local server"
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _proxy_variable(url: str) -> str | None:
    """Return the variable that names the proxy for a URL, if there is one."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    for scheme in (parts.scheme, "all"):
        if scheme in getproxies():
            return next((v for v in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY") if v in os.environ), None)
    return None


STARTUP_FAILURES = {  # The keys are texts that the server's log holds then.
    "Can't locate revision": "a newer Prefect wrote its database; upgrade, or set another PREFECT_HOME",
    "file is not a database": "its database is corrupt; move it away",
    "database disk image is malformed": "its database is corrupt; move it away",
    "readonly database": "its database cannot be written",
    "unable to open database": "its database cannot be opened",
    "disk is full": "the disk is full",
    "No space left": "the disk is full",
    "address already in use": "its port is in use",
}


def describe_startup_failure(log: Path) -> str:
    """Read in its log why the local server did not start, and say it in one line."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    reasons = [reason for sign, reason in STARTUP_FAILURES.items() if any(sign in line for line in lines)]
    reason = reasons[0] if reasons else (lines[-1][:200] if lines else "no output")
    return f"the local Prefect server did not start: {reason} (log: {log})"
