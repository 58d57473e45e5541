"""Stages log to Weights & Biases, which shows results; the files in `reports/` are the results.

A failure of W&B never fails a stage. A run of the pipeline is one W&B run, even if its stages are separate
processes: `train` starts it, and later stages resume the run of the training that produced their weights.
"""

from __future__ import annotations

import netrc
import os
import secrets
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.workspace.files import hash_file, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from tasks.params import Params, TrackingConfig
    from tasks.workspace.splits import Split

TIMEOUT_S = 5.0  # time for the server to accept the run, which is logged offline otherwise
UPLOAD_TIMEOUT_S = 30.0  # time to finish the upload at a stage's end
STATE_FILE = "tracking.json"  # file beside the weights that links the stages of a run
WANDB_CLOUD_URL = "https://api.wandb.ai"
MODEL_ARTIFACT = "image-classifier"
CLASS_METRICS = ["precision", "recall", "f1"]
ERROR_COLUMNS = ["image", "actual", "predicted", "probability"]
NUM_LOGGED_ERRORS = 24  # number of wrongly classified images that are logged


def resolve_mode(tracking: TrackingConfig) -> str:
    """Return `disabled`, `offline` or `online`.

    For `auto`, `WANDB_MODE` decides; if it is not set, the mode is `online` if there is an API key.
    """
    if tracking.mode == "auto":
        return os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")
    return tracking.mode


def has_api_key() -> bool:
    """Whether W&B's API key is set, by `WANDB_API_KEY` or by `wandb login`."""
    if "WANDB_API_KEY" in os.environ:
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_CLOUD_URL)).hostname
    try:
        return host is not None and netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class Tracker:
    """A tracker starts and resumes the W&B run of a stage.

    If it is one of many trainings, `grouping` has the `group` and `name` of its W&B run, and `weights` its
    weights file.
    """

    def __init__(self, params: Params, weights: Path | None = None, **grouping: str) -> None:
        self._params = params
        self._mode = resolve_mode(params.tracking)
        self._state_file = (weights or Path(params.paths.weights)).with_name(STATE_FILE)
        self._grouping = grouping

    @contextmanager
    def start_run(self, stage: str, metadata: dict[str, Any], *, resume: bool = False) -> Iterator[WandbRun]:
        """Open a new run for the stage that trains or, with `resume`, the run of the interrupted training.

        `metadata` is added to the run's configuration, which holds all parameters.
        """
        state = self._load_state()
        if not resume or "run" not in state:
            state = {"run": secrets.token_hex(4)}
        self._save_state(state)
        with self._open_run(stage, state, metadata) as run:
            yield run

    @contextmanager
    def resume_run(self, weights: Path, stage: str, metadata: dict[str, Any]) -> Iterator[WandbRun]:
        """Open the run of the training that produced the weights, or a new run if that one is unknown."""
        digest = hash_file(weights, "sha256")
        state = self._load_state()
        if state.get("weights") != digest:
            state = {"run": secrets.token_hex(4), "weights": digest}
            self._save_state(state)
        with self._open_run(stage, state, metadata) as run:
            yield run

    def link_weights(self, weights: Path) -> None:
        """Record the hash of the weights that this run produced, by which later stages find the run."""
        self._save_state(self._load_state() | {"weights": hash_file(weights, "sha256")})

    @contextmanager
    def _open_run(self, stage: str, state: dict[str, Any], metadata: dict[str, Any]) -> Iterator[WandbRun]:
        """Open the run in `state`: online if possible, else offline, else one that logs nothing."""
        run = WandbRun()
        if self._mode != "disabled":
            config = self._params.model_dump() | metadata
            config |= {"git_commit": _git_commit(), f"stage_{stage}": True}
            online = self._mode == "online" and not state.get("unreachable")
            if online:
                run.guard("online run", lambda: run.open(self._settings(state, stage, "online"), config))
                if run.failed:
                    print("W&B is unreachable or rejected the API key; logging offline to wandb/")
                    self._save_state(state | {"unreachable": True})  # later stages do not try again
                    online = False
                    run = WandbRun()
                    # The offline run has the same id, which W&B holds until then.
                    run.guard("teardown", lambda: import_wandb().teardown())
            if not online:
                run.guard("offline run", lambda: run.open(self._settings(state, stage, "offline"), config))
                if run.failed:
                    print("W&B run could not be created; continuing without tracking")
        try:
            yield run
        finally:
            run.close()

    def _settings(self, state: dict[str, Any], stage: str, mode: str) -> dict[str, Any]:
        return {
            "project": self._params.tracking.project,
            "id": state["run"],
            **self._grouping,
            "resume": "allow",
            "mode": mode,
            "job_type": stage,
            "dir": str(Path.cwd()),  # W&B's own process may have another working directory
        }

    def _load_state(self) -> dict[str, Any]:
        try:
            state = read_json(self._state_file)
        except (OSError, ValueError):
            return {}  # the stage then logs to a run of its own
        return state if isinstance(state, dict) else {}

    def _save_state(self, state: dict[str, Any]) -> None:
        if self._mode != "disabled":
            write_json(self._state_file, state)


class WandbRun:
    """Stages log to this W&B run; if it could not be opened or has failed, its methods do nothing.

    A failure in W&B prints one line and ends the tracking, never the stage.
    """

    def __init__(self) -> None:
        self.failed = False
        self._reason = ""
        self._run: Any = None

    def open(self, settings: dict[str, Any], config: dict[str, Any]) -> None:
        wandb = import_wandb()
        self._run = wandb.init(
            **settings,
            config=config,
            settings=wandb.Settings(
                silent=True,
                console="off",
                host="-",  # the default is the name of this machine
                init_timeout=TIMEOUT_S,
                login_timeout=TIMEOUT_S,
                finish_timeout=UPLOAD_TIMEOUT_S,
                disable_git=True,  # do not upload the Git remote's URL
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )

    def log(self, values: dict[str, Any], step: int) -> None:
        self._call("log call dropped", lambda: self._run.log(values, step=step))

    def log_summary(self, values: dict[str, Any]) -> None:
        self._call("summary dropped", lambda: self._run.summary.update(values))

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """Log a table; cells that are uint8 arrays `(H, W, 3)` are shown as images."""

        def log() -> None:
            import wandb

            table = wandb.Table(columns=[*columns])
            for row in rows:
                table.add_data(*(wandb.Image(cell) if hasattr(cell, "shape") else cell for cell in row))
            self._run.log({name: table}, step=step)

        self._call("table dropped", log)

    def log_confusion_matrix(
        self, actual: list[int], predicted: list[int], classes: list[str], step: int
    ) -> None:
        def log() -> None:
            import wandb

            plot = wandb.plot.confusion_matrix(y_true=actual, preds=predicted, class_names=classes)
            self._run.log({"confusion": plot}, step=step)

        self._call("confusion matrix dropped", log)

    def log_evaluation(
        self, results: dict[str, Any], test: Split, probabilities: Tensor, classes: list[str], *, step: int
    ) -> None:
        """Log the metrics of both splits, and the test split's confusions, classes and worst errors."""
        self.log_summary({split: results[split] for split in ("val", "test")})
        self.log_confusion_matrix(test.labels.tolist(), probabilities.argmax(1).tolist(), classes, step)
        per_class = [
            [name, *(values[metric] for metric in CLASS_METRICS)]
            for name, values in results["test"]["per_class"].items()
        ]
        self.log_table("per class", ["class", *CLASS_METRICS], per_class, step)
        confidence, predicted = probabilities.max(1)
        errors = (predicted != test.labels).nonzero().flatten()
        worst = errors[confidence[errors].argsort(descending=True, stable=True)][:NUM_LOGGED_ERRORS]
        rows = [
            [test.images[i].numpy(), classes[test.labels[i]], classes[predicted[i]], confidence[i].item()]
            for i in worst
        ]
        self.log_table("most confident errors", ERROR_COLUMNS, rows, step)

    def log_model(self, file: Path, metadata: dict[str, Any], name: str = MODEL_ARTIFACT) -> None:
        """Log the file as the next version of the model artifact `name`."""

        def log() -> None:
            import wandb

            md5 = hash_file(file, "md5")
            artifact = wandb.Artifact(name, type="model", metadata=metadata | {"md5": md5})
            artifact.add_file(str(file))
            self._run.log_artifact(artifact)

        self._call("model not uploaded", log)

    def close(self) -> None:
        if self._run is not None:
            self._call("upload incomplete; finish it with: wandb sync", self._run.finish)
        self._run = None

    def guard(self, on_failure: str, call: Callable[[], None]) -> None:
        """Call the function; if it raises, mark this run as `failed` and do not raise."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - tracking must not stop a training
            self.failed = True
            self._run = None
            self._reason = f"{type(error).__name__}: {on_failure}"

    def _call(self, on_failure: str, call: Callable[[], None]) -> None:
        if self._run is None:
            return
        self.guard(on_failure, call)
        if self.failed:
            print(f"W&B failed ({self._reason}); continuing without tracking")


def import_wandb() -> Any:
    """Import W&B's client, which is then silent and has a folder for its cache."""
    # W&B reads this at import, and would print the server's URL without it.
    os.environ.setdefault("WANDB_SILENT", "true")
    _ensure_cache_dir()
    import wandb

    return wandb


def _ensure_cache_dir() -> None:
    """Let W&B's own process use `wandb/` for its cache if the home folder cannot be used.

    Without a cache, that process prints its log.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "wandb")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return
    except (OSError, RuntimeError):  # RuntimeError means that there is no home folder
        os.environ["XDG_CACHE_HOME"] = str(Path("wandb", "cache").absolute())


def _git_commit() -> str | None:
    """Return the hash of the current commit; None without Git, or outside a repository."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        process = subprocess.run(  # noqa: S603 - no argument from outside
            [git, "rev-parse", "HEAD"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return None
    return process.stdout.strip() or None
