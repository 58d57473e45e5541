import json
import os
import subprocess
import sys

import pytest

from tasks import OPENMP_SETTINGS
from tests.conftest import ROOT

PRINT = "import json, os, {0}; print(json.dumps({{name: os.environ.get(name) for name in {1}}}))"


def read_settings(package: str, **env: str) -> object:
    own = {
        name: value for name, value in os.environ.items() if name not in {*OPENMP_SETTINGS, "OMP_WAIT_POLICY"}
    }
    code = PRINT.format(package, list(OPENMP_SETTINGS))
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=own | env, capture_output=True, text=True, check=True
    )
    settings: object = json.loads(process.stdout)
    return settings


@pytest.mark.parametrize("package", ["tasks", "flows"])
def test_threads_spin_little_by_default(package: str) -> None:
    assert read_settings(package) == OPENMP_SETTINGS


def test_what_the_user_set_stays() -> None:
    assert read_settings("tasks", GOMP_SPINCOUNT="7") == OPENMP_SETTINGS | {"GOMP_SPINCOUNT": "7"}
    assert read_settings("tasks", OMP_WAIT_POLICY="ACTIVE") == dict.fromkeys(OPENMP_SETTINGS)
