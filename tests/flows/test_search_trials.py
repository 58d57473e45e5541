"""What a search's state belongs to, and what its trainings are told."""

from pathlib import Path
from typing import Any

import pytest

from flows.search import SearchTrials
from tasks.overrides import parse_overrides, with_overrides
from tasks.params import Params, read_params
from tasks.training.compile import Machine
from tests.brightness import build_config
from tests.flows.test_search import OVERRIDES, make_workspace
from tests.shipped_params import PARAMS_FILE


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(make_workspace(tmp_path))
    return with_overrides(read_params(PARAMS_FILE), parse_overrides(OVERRIDES))


def start_search(params: Params, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> SearchTrials:
    monkeypatch.setattr("flows.search.find_machine", lambda *_: machine)
    return SearchTrials(params, ["train.network=net,resnet18"], "grid", None, {})


def test_search_on_other_operators_or_another_device_is_another_search(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [Machine("cpu", fused=True), Machine("cpu", fused=False), Machine("cuda", fused=False)]
    names = [start_search(params, monkeypatch, machine).study.name for machine in machines * 2]
    assert len(set(names)) == 3
    assert names[:3] == names[3:]


def test_search_asks_what_trains_those_of_its_trials_that_can_be_fused(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def find_machine(config: Any, address: str | None) -> Machine:
        asked.append((config.has_fast_path, address))
        return Machine("cpu", fused=False)

    monkeypatch.setattr("flows.search.find_machine", find_machine)
    other = with_overrides(params, parse_overrides(["train.network=resnet18"]))
    for space in ("train.lr=0.1,0.2", "train.network=net,resnet18"):
        SearchTrials(other, [space], "grid", None, {}, "tls://host:8786")
    assert asked == [(False, "tls://host:8786"), (True, "tls://host:8786")]


@pytest.mark.parametrize(
    ("machine", "changes", "expected"),
    [
        (Machine("cpu", fused=True), {}, ("cpu", True)),
        (Machine("cpu", fused=False), {}, ("cpu", False)),
        (Machine("cuda", fused=False), {}, ("cuda", False)),
        (Machine("cpu", fused=True), {"network": "resnet18"}, ("cpu", False)),
        (Machine("cpu", fused=True), {"fused": False}, ("cpu", False)),
        (Machine("cuda", fused=False), {"device": "cpu", "fused": True}, ("cpu", True)),
        (Machine("cpu", fused=True), {"device": "cuda"}, ("cuda", False)),
    ],
)
def test_worker_is_told_what_auto_means(
    machine: Machine, changes: dict[str, object], expected: tuple[str, bool]
) -> None:
    config = machine.resolve(build_config(**{"device": "auto", "fused": "auto"} | changes))
    assert (config.device, config.fused) == expected
