import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tasks.params.train import TrainConfig
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parameters", ROOT / "docs" / "parameters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_table_is_up_to_date(script: ModuleType) -> None:
    page = Path(script.PAGE).read_text(encoding="utf-8")
    assert script.insert_table(page) == page, "run: python docs/parameters.py"


def test_format_table_lists_every_key_with_default_and_values(script: ModuleType) -> None:
    rows = script.format_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(TrainConfig.model_fields)
    cells = {row.split("`")[1]: [cell.strip() for cell in row.split("|")[2:4]] for row in rows}
    assert cells["lr_schedule"] == ["`constant`", "`constant`, `cosine`, `linear`"]
    assert cells["flip"] == ["`false`", "`false`, `true`, `alternating`"]
    assert cells["ema_decay"] == ["`0.0`", "≥ 0, < 1"]
    assert cells["translate"] == ["`0`", "≥ 0, ≤ 512"]
    assert cells["lr"] == ["`0.001`", "> 0, ≤ 1,000"]
    assert cells["seed"] == ["", "≥ 0, < 4,294,967,296"]
