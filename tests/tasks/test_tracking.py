"""Tracking with the real W&B client: the content of offline runs; servers that refuse or never respond."""

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from tasks import tracking
from tasks.params import Params
from tasks.stages import run_stage
from tasks.tracking import Tracker, resolve_mode
from tests.shipped_params import PARAMS_FILE

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef" * 2 + "01234567"  # of a key's form, and nobody's


@pytest.fixture(scope="module", autouse=True)
def stop_wandb_service() -> Iterator[None]:
    """End W&B's own process, which would otherwise be found dead when this one exits."""
    yield
    wandb.teardown()


@pytest.fixture
def params(small_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Those of a small run, with what the stages from the training on make in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    values = small_run.model_dump()
    for name in ("weights", "onnx_model", "history", "metrics", "predictions"):
        values["paths"][name] = str(tmp_path / Path(values["paths"][name]).name)
    return Params.model_validate(values)


def read_records(file: Path) -> Iterator[Record]:
    """What a run's own file holds: LevelDB's log format after a header of 7 bytes, a protobuf a record."""
    content = file.read_bytes()
    assert not content or content[:4] == b":W&B"
    block, place, whole = 32 * 1024, 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # whole, or the last of several parts
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def read_finished_run(file: Path) -> list[Record]:
    """The records of a finished run; W&B's own process may still be writing the last of them."""
    for _ in range(100):
        found = list(read_records(file))
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.1)
    pytest.fail(f"{file} has no end")


def read_runs(folder: Path) -> dict[str, Any]:
    """Runs, configuration, rows, summary and artifacts of all files under `folder`."""
    found: dict[str, Any] = {"runs": set(), "names": set(), "config": {}, "rows": [], "summary": {}}
    found["artifacts"] = []
    for file in sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime):
        for record in read_finished_run(file):
            if record.HasField("run"):
                assert record.run.host == "-"  # and no machine's name
                found["runs"].add(record.run.run_id)
                found["names"].add((record.run.run_group, record.run.display_name))
                for item in record.run.config.update:
                    found["config"][item.key] = json.loads(item.value_json)
            elif record.HasField("history"):
                items = record.history.item
                found["rows"].append(
                    {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                )
            elif record.HasField("summary"):
                for item in record.summary.update:
                    key = "/".join(item.nested_key) or item.key
                    found["summary"][key] = json.loads(item.value_json)
            elif record.HasField("artifact"):
                found["artifacts"].append(record.artifact)
    return found


def test_tracker_logs_all_stages_into_one_run(params: Params, tmp_path: Path) -> None:
    for stage in ("train", "evaluate", "export"):
        run_stage(stage, params)
    found = read_runs(tmp_path)
    assert len(found["runs"]) == 1
    assert {key: found["config"][key] for key in params.model_dump()} == params.model_dump()
    assert len(found["config"]["data_md5"]) == 32
    assert {"stage_train", "stage_evaluate", "stage_export", "git_commit"} <= found["config"].keys()

    epochs = [row for row in found["rows"] if "train_loss" in row]
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert {"val_loss", "val_accuracy", "learning_rate", "epoch_seconds", "images_per_second"} <= epochs[
        0
    ].keys()
    logged = {key for row in found["rows"] for key in row}
    assert any(key.startswith("confusion") for key in logged)
    assert {"per class", "most confident errors"} <= {key.split("/")[0] for key in logged}
    metrics = json.loads(Path(params.paths.metrics).read_text())
    assert json.dumps(metrics["test"]["accuracy"]) in json.dumps(found["summary"])
    models = [artifact for artifact in found["artifacts"] if artifact.type == "model"]
    assert [artifact.manifest.contents[0].path for artifact in models] == ["model.onnx"]
    (errors,) = (artifact for artifact in found["artifacts"] if "mostconfidenterrors" in artifact.name)
    images = [entry for entry in errors.manifest.contents if entry.path.endswith(".png")]
    assert len(images) == 24
    assert all(Path(entry.local_path).read_bytes().startswith(b"\x89PNG") for entry in images)


def test_tracker_starts_a_new_run_per_training(params: Params, tmp_path: Path) -> None:
    run_stage("train", params)
    run_stage("train", params)
    assert len(read_runs(tmp_path)["runs"]) == 2


def test_start_run_with_resume_continues_the_run(params: Params, tmp_path: Path) -> None:
    tracker = Tracker(params)
    with tracker.start_run("train", {}) as run:
        run.log({"val_loss": 2.0}, step=1)
    with Tracker(params).start_run("train", {}, resume=True) as run:
        run.log({"val_loss": 1.0}, step=2)
    found = read_runs(tmp_path)
    assert len(found["runs"]) == 1
    assert [row["val_loss"] for row in found["rows"]] == [2.0, 1.0]


def test_tracker_of_a_training_of_many_has_a_group(params: Params, tmp_path: Path) -> None:
    for name in ("trial 0", "trial 1"):
        tracker = Tracker(params, tmp_path / name, group="search a", name=name)
        with tracker.start_run("train", {}):
            pass
    assert read_runs(tmp_path)["names"] == {("search a", "trial 0"), ("search a", "trial 1")}


def test_resume_run_of_unknown_weights_starts_a_new_run(params: Params, tmp_path: Path) -> None:
    run_stage("train", params)
    with Path(params.paths.weights).open("ab") as weights:
        weights.write(b" ")
    with Tracker(params).resume_run(Path(params.paths.weights), "evaluate", {}) as run:
        run.log_summary({"accuracy": 0.5})
    assert len(read_runs(tmp_path)["runs"]) == 2


def test_tracker_disabled_writes_nothing(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run_stage("train", params)
    assert not list(tmp_path.glob("wandb*"))
    assert not (tmp_path / "tracking.json").exists()


@pytest.mark.parametrize("answers", [False, True], ids=["refuses", "never answers"])
def test_tracker_with_an_unreachable_server_prints_one_line(
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    *,
    answers: bool,
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setattr(tracking, "TIMEOUT_S", 2.0)
        began = time.perf_counter()
        for stage in ("train", "evaluate", "export"):
            run_stage(stage, params)
        assert time.perf_counter() - began < 90  # W&B alone waits 90 s for a server, and would at each stage
    out, err = capfd.readouterr()
    assert (out + err).count("W&B") == 1
    assert "logging offline" in out
    assert address not in out + err
    assert KEY not in out + err
    found = read_runs(tmp_path)
    assert [row["epoch"] for row in found["rows"] if "train_loss" in row] == [1, 2]
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("wandb/**/*") if file.is_file())
    assert KEY.encode() not in written


def test_run_log_failure_prints_one_line(
    params: Params, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with Tracker(params).start_run("train", {}) as run:
        monkeypatch.setattr(run._run, "log", full)
        run.log({"val_loss": 1.0}, step=1)
        run.log({"val_loss": 1.0}, step=2)
    assert (
        capfd.readouterr().out.count("W&B failed (OSError: log call dropped); continuing without tracking")
        == 1
    )


@pytest.mark.parametrize("home", ["/proc/nowhere", None])
def test_start_run_without_a_home_prints_nothing(tmp_path: Path, home: str | None) -> None:
    """In a process of its own: W&B's service lives as long as the process that started it."""
    program = (
        "import sys; from pathlib import Path; from tasks.params import read_params;"
        "from tasks.tracking import Tracker; params = read_params(Path(sys.argv[1]));\n"
        "with Tracker(params).start_run('train', {}) as run: run.log({'loss': 1.0}, step=1)"
    )
    env = os.environ | {"WANDB_MODE": "offline", "HOME": home or ""}
    env.pop("XDG_CACHE_HOME", None)
    if home is None:
        del env["HOME"]
    done = subprocess.run(
        [sys.executable, "-c", program, PARAMS_FILE],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    ("environment", "mode"),
    [({}, "offline"), ({"WANDB_API_KEY": KEY}, "online"), ({"WANDB_MODE": "disabled"}, "disabled")],
)
def test_resolve_mode_follows_environment_then_params(
    params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], mode: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # with no netrc
    monkeypatch.delenv("WANDB_MODE")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_mode(params.tracking) == mode
    assert resolve_mode(params.tracking.model_copy(update={"mode": "offline"})) == "offline"
