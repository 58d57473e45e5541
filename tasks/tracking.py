"""Weights & Biases as a view of a run. Files in `reports/` are the truth; no stage fails by W&B.

A run of the pipeline is one W&B run, also where its stages are separate processes: the training opens it, and
the stages after it go on with the run of the training that made their weights.
"""

from __future__ import annotations

import hashlib
import json
import netrc
import os
import secrets
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.workspace.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.params import Params, TrackingConfig

TIMEOUT_S = 5.0  # for a server to take the run; then it is kept offline
UPLOAD_TIMEOUT_S = 30.0  # at a stage's end
STATE_FILE = "tracking.json"  # beside the weights
WANDB_CLOUD_URL = "https://api.wandb.ai"


def resolve_mode(tracking: TrackingConfig) -> str:
    """`disabled`, `offline` or `online`; for `auto`, `WANDB_MODE` decides, then whether a key is set."""
    if tracking.mode == "auto":
        return os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")
    return tracking.mode


def has_api_key() -> bool:
    """Whether a key is set for W&B, by `WANDB_API_KEY` or by `wandb login`."""
    if "WANDB_API_KEY" in os.environ:
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_CLOUD_URL)).hostname
    try:
        return host is not None and netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class Tracker:
    """Opens the W&B run for a stage."""

    def __init__(self, params: Params) -> None:
        self._params = params
        self._mode = resolve_mode(params.tracking)
        self._state_file = Path(params.paths.weights).with_name(STATE_FILE)

    @contextmanager
    def start_run(self, stage: str, about: dict[str, Any], *, resumes: bool = False) -> Iterator[WandbRun]:
        """The run for the stage that trains; with `resumes`, the one of the training that was broken off.

        `about` is written into the run's configuration, beside all parameters.
        """
        state = self._state()
        if not resumes or "run" not in state:
            state = {"run": secrets.token_hex(4)}
        self._save_state(state)
        with self._open_run(stage, state, about) as run:
            yield run

    @contextmanager
    def resume_run(self, weights: Path, stage: str, about: dict[str, Any]) -> Iterator[WandbRun]:
        """The run of the training that made the weights; a new one where that is not known."""
        digest = _sha256(weights)
        state = self._state()
        if state.get("weights") != digest:
            state = {"run": secrets.token_hex(4), "weights": digest}
            self._save_state(state)
        with self._open_run(stage, state, about) as run:
            yield run

    def link_weights(self, weights: Path) -> None:
        """The training wrote its weights: by them the later stages know its run."""
        self._save_state(self._state() | {"weights": _sha256(weights)})

    @contextmanager
    def _open_run(self, stage: str, state: dict[str, Any], about: dict[str, Any]) -> Iterator[WandbRun]:
        run = WandbRun()
        if self._mode != "disabled":
            config = self._params.model_dump() | about | {"git_commit": _git_commit(), f"stage_{stage}": True}
            online = self._mode == "online" and not state.get("unreachable")
            if online:
                run._guard("no run there", lambda: run.open(self._settings(state, stage, "online"), config))
                if run.failed:
                    print("W&B does not answer, or refuses the key; this run is kept offline, in wandb/")
                    self._save_state(state | {"unreachable": True})  # later stages do not try again
                    online = False
                    run = WandbRun()
                    run._guard("no end to it", _teardown)
            if not online:
                run._guard("no run", lambda: run.open(self._settings(state, stage, "offline"), config))
                if run.failed:
                    print("W&B keeps no run here; going on without it")
        try:
            yield run
        finally:
            run.close()

    def _settings(self, state: dict[str, Any], stage: str, mode: str) -> dict[str, Any]:
        return {
            "project": self._params.tracking.project,
            "id": state["run"],
            "resume": "allow",
            "mode": mode,
            "job_type": stage,
            "dir": str(Path.cwd()),  # W&B's own process may have another current folder
        }

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state_file.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}  # nothing is lost by it but the link between two stages
        return state if isinstance(state, dict) else {}

    def _save_state(self, state: dict[str, Any]) -> None:
        if self._mode != "disabled":
            with atomic_write(self._state_file) as partial:
                partial.write_text(json.dumps(state), encoding="utf-8")


class WandbRun:
    """A W&B run that is open, or none: what is logged then goes nowhere.

    What fails in W&B costs one line and ends the tracking, never the stage.
    """

    def __init__(self) -> None:
        self.failed = False
        self._why = ""
        self._run: Any = None

    def open(self, settings: dict[str, Any], config: dict[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # read at import; else the server's address is printed
        import wandb

        self._run = wandb.init(
            **settings,
            config=config,
            settings=wandb.Settings(
                silent=True,
                console="off",
                host="-",  # else this machine's name
                init_timeout=TIMEOUT_S,
                login_timeout=TIMEOUT_S,
                finish_timeout=UPLOAD_TIMEOUT_S,
                disable_git=True,  # the remote's address is nobody's business
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )

    def log(self, values: dict[str, Any], step: int) -> None:
        self._guarded("a row is lost", lambda: self._run.log(values, step=step))

    def log_summary(self, values: dict[str, Any]) -> None:
        self._guarded("a summary is lost", lambda: self._run.summary.update(values))

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """A table; cells that are uint8 arrays `(H, W, 3)` are pictures."""

        def log() -> None:
            import wandb

            table = wandb.Table(columns=[*columns])
            for row in rows:
                table.add_data(*(wandb.Image(cell) if hasattr(cell, "shape") else cell for cell in row))
            self._run.log({name: table}, step=step)

        self._guarded("a table is lost", log)

    def log_confusion_matrix(
        self, actual: list[int], predicted: list[int], classes: list[str], step: int
    ) -> None:
        def logged() -> None:
            import wandb

            plot = wandb.plot.confusion_matrix(y_true=actual, preds=predicted, class_names=classes)
            self._run.log({"confusion": plot}, step=step)

        self._guarded("the confusion matrix is lost", logged)

    def log_model(self, file: Path, about: dict[str, Any], name: str = "cifar10-classifier") -> None:
        """The file as a model artifact, another version of those of the same name."""

        def logged() -> None:
            import wandb

            artifact = wandb.Artifact(name, type="model", metadata=about)
            artifact.add_file(str(file))
            self._run.log_artifact(artifact)

        self._guarded("the model is not with it", logged)

    def close(self) -> None:
        if self._run is not None:
            self._guarded("it is not all uploaded; wandb sync does that", self._run.finish)
        self._run = None

    def _guard(self, on_failure: str, call: Callable[[], None]) -> None:
        """Call; what goes wrong makes this run `failed`, and is not raised."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop a training
            self.failed = True
            self._run = None
            self._why = f"{type(error).__name__}: {on_failure}"

    def _guarded(self, consequence: str, call: Callable[[], None]) -> None:
        if self._run is None:
            return
        self._guard(consequence, call)
        if self.failed:
            print(f"W&B failed ({self._why}); going on without it")


def _teardown() -> None:
    """A run that could not be opened still holds its id."""
    import wandb

    wandb.teardown()


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _git_commit() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    found = subprocess.run(  # noqa: S603 - git as it was found, and no argument from outside
        [git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None
