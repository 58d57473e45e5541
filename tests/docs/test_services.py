"""The services of docs/services: what can be checked without Docker and without being PID 1."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.e2e.deployment_server import BIN

FOLDER = ROOT / "docs/services"
UNITS = sorted(FOLDER.glob("*.service"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text()
    assert "/srv/cifarflow/.venv/bin/prefect " in text
    (tmp_path / unit.name).write_text(text.replace("/srv/cifarflow/.venv/bin/prefect", str(BIN / "prefect")))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit.name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, re.findall(rf"{unit.name}:.*", done.stderr)) == (0, [])


def test_units_come_up_again() -> None:
    assert [unit.stem for unit in UNITS] == ["cifarflow-server", "cifarflow-worker"]
    for unit in UNITS:
        lines = unit.read_text().splitlines()
        assert {"Restart=always", "StartLimitIntervalSec=0", "WantedBy=multi-user.target"} <= set(lines)


def test_compose_file_comes_up_again_in_order_and_is_closed() -> None:
    services = YAML(typ="safe").load(FOLDER / "compose.yaml")["services"]
    assert services.keys() == {"postgres", "server", "worker"}
    assert {service["restart"] for service in services.values()} == {"unless-stopped"}
    assert services["worker"]["depends_on"] == {"server": {"condition": "service_healthy"}}
    assert services["server"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert all("healthcheck" in services[name] for name in ("postgres", "server"))
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:4200:4200"]
    text = (FOLDER / "compose.yaml").read_text()
    assert not re.search(r"(PASSWORD|AUTH_STRING): (?!\$\{)", text), "no password stands in the file"
