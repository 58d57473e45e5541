"""What a decision records, and what it must not."""

import json
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.reproduce.record import read_data_file, record_inputs
from tasks.overrides import parse_overrides, write_overrides
from tasks.params import PARAMS, read_params
from tasks.registry.ledger import LedgerEntry, append, read_ledger
from tests.shipped_params import PARAMS_FILE


@pytest.fixture(autouse=True)
def _enter_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARFLOW_CACHE", str(tmp_path / "home-cache"))
    monkeypatch.chdir(tmp_path)
    PARAMS.write_bytes(PARAMS_FILE.read_bytes())
    with Repo.init(no_scm=True):
        pass
    environment = {"cpu": "Z80", "flags": ["avx"], "versions": {"torch": "2"}, "cores": 8}
    for name, content in (("benchmark", {"environment": environment}), ("metrics", {"device": "cuda"})):
        file = Path("reports", f"{name}.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))


def test_record_has_parameters_data_and_machine_and_comes_back_from_the_ledger() -> None:
    Path("data.dvc").write_text("outs:\n- md5: aa.dir\n  path: data\n")
    params = read_params(PARAMS)
    with Repo() as repo:
        record = record_inputs(repo, params, {"pretrained_sha256": "ab"})
    assert record["machine"] == {"device": "cuda", "cpu": "Z80", "flags": ["avx"], "versions": {"torch": "2"}}
    append(LedgerEntry("promoted", "", "a" * 32, 1, "owl", "id", {}, {}, reproduction=record))
    (entry,) = read_ledger()
    assert entry.reproduction == record
    assert type(params).model_validate(record["params"]) == params
    assert read_data_file(entry) == Path("data.dvc").read_text()


def test_secrets_in_urls_do_not_enter_the_record() -> None:
    overrides = ["download.sources=['https://ada:s3cret@a.org/x.tar', 'https://b.org/y.tar?token=s3cret']"]
    write_overrides(PARAMS, parse_overrides(overrides))
    Path("data.dvc").write_text("deps:\n- path: https://ada:s3cret@a.org/z\nouts:\n- path: data\n")
    with Repo(config={"core": {"no_scm": True}}) as repo:
        record = record_inputs(repo, read_params(PARAMS), {})
    text = json.dumps(record)
    assert "s3cret" not in text
    assert text.count("***") == 3
