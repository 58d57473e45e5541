"""The flow `search`: hyperparameters by validation accuracy; the best become a recipe."""

import contextlib
import hashlib
import io
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field
from ruamel.yaml import YAML

from flows.runtime.flow_run import PARAMS, exclusive_workspace, fail_in_one_line
from flows.runtime.trainings import ROW, Cluster, Training, run_trainings, training_cluster
from tasks.overrides import Overrides, recipe_defaults, with_overrides
from tasks.params import Params, read_params
from tasks.search.report import result_markdown, save_result
from tasks.search.space import check_space, parse_space
from tasks.search.study import Study, Trial, check_sampler, plan_rungs, promote_trials
from tasks.training.checkpoints import training_fingerprint
from tasks.training.device import resolve_device
from tasks.training.pretrained import find_pretrained
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write, read_json, write_json
from tasks.workspace.splits import load_splits

Count = Annotated[int, Field(ge=1, le=100_000)]
RecipeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


@flow(name="search", log_prints=True)
@fail_in_one_line
def search(
    space: list[str],
    num_trials: Count = 32,
    batch: Count = 4,
    sampler: Literal["tpe", "random", "grid"] = "tpe",
    prune: bool = False,
    recipe_name: RecipeName = "found",
    storage: str | None = None,
    jobs: Annotated[int, Field(ge=1, le=64)] = 1,
    address: str | None = None,
    overrides: Overrides | None = None,
    wait: bool = True,
    workspace: Path = Path(),
) -> State[Any]:
    """Search hyperparameters by validation accuracy. The same search gives the same trials, and resumes.

    Args:
        space: what to vary, such as train.lr=log:0.001..0.02
        num_trials: how many combinations to train
        batch: how many are proposed at once
        sampler: who proposes them; tpe is Optuna's default
        prune: stop the worse two thirds of a batch early, twice (successive halving)
        recipe_name: of the recipe to write
        storage: URL of a database for the study; by default a file in artifacts/
        jobs: number of parallel trainings
        address: of a Dask scheduler, such as tcp://host:8786, to train on its workers
        overrides: parameters for this search only; params.yaml does not change
        wait: wait for another run in the workspace to finish instead of failing
        workspace: the folder with params.yaml and, in artifacts/, the splits
    """
    with exclusive_workspace(workspace, wait=wait):
        params = read_params(PARAMS)
        if overrides is not None:
            params = with_overrides(params, overrides)
        trials = SearchTrials(params, space, sampler, address, storage, {"batch": batch, "prune": prune})
        num_trials = check_sampler(sampler, trials.space, num_trials)
        with ExitStack() as stack:
            cluster: Cluster | None = None  # opened when there is something to train
            while (proposed := trials.study.next_batch(batch, num_trials)) or trials.winner() is None:
                if cluster is None:
                    opened = training_cluster(jobs, address, Path(params.paths.splits))
                    cluster = stack.enter_context(opened)
                if proposed:
                    trials.run_batch(cluster, proposed, prune=prune)
                else:
                    trials.evaluate_best(cluster)
        best, winner = trials.study.best(), trials.winner()
        assert winner is not None
        recipe = Path(params.paths.recipes, f"{recipe_name}.yaml")
        write_recipe(recipe, trials.config_of(best).model_dump(), winner)
        result = save_result(Path(params.paths.search), trials.study, best, winner, trials.describe())
        create_markdown_artifact(result_markdown(result), key="search")
        message = (
            f"{recipe}: trial {best.number} of {num_trials}, validation {winner['val_accuracy']:.2%}, "
            f"test {winner['test_accuracy']:.2%}"
        )
        print(message)
    return Completed(message=message)


class SearchTrials:
    """The trainings of a search. `fixed` is what else decides which trials come."""

    def __init__(
        self,
        params: Params,
        space: list[str],
        sampler: str,
        address: str | None,
        storage: str | None,
        fixed: dict[str, Any],
    ) -> None:
        self.space = parse_space(space)
        check_space(params, self.space)
        check_sampler(sampler, self.space, 1)
        self._params = params
        device = resolve_device(params.train.device)
        splits = Path(params.paths.splits)
        load_splits(splits)
        weights = params.train.weights
        self._pretrained = Path(params.paths.pretrained)
        file = find_pretrained(self._pretrained, weights) if weights else None
        if file is not None and address is not None:
            raise InputError("train.weights needs a local cluster; leave --on away")
        config = params.train.model_dump()
        self._described = {"space": sorted(space), "sampler": sampler, **fixed, "train": config}
        fingerprint = training_fingerprint(splits, self._described, device, file)
        folder = Path(params.paths.weights).with_name("search") / fingerprint
        self._folder = folder
        self.study = Study(
            storage or str(folder / "study.log"), fingerprint, self.space, sampler, params.train.seed
        )

    def describe(self) -> dict[str, Any]:
        return {
            **self._described,
            "dataset": load_splits(Path(self._params.paths.splits)).metadata["dataset"],
        }

    def config_of(self, trial: Trial) -> Any:
        config = self._params.train
        return type(config).model_validate(config.model_dump() | trial.values)

    def run_batch(self, cluster: Cluster, batch: list[Trial], *, prune: bool) -> None:
        """Train the batch, with `prune` in rungs, and tell the study, in the order of the trials."""
        accuracies: dict[int, float | None] = {}
        alive = self._valid(batch, accuracies)
        rungs = plan_rungs(min(self.config_of(trial).epochs for trial in alive)) if prune and alive else [0]
        for rung in rungs:
            until = rung if prune and rung != rungs[-1] else None
            trainings = [self._training(trial, until=until) for trial in alive]
            by_name = {training.name: trial for training, trial in zip(trainings, alive, strict=True)}
            reached: dict[int, float] = {}
            for training, outcome in run_trainings(cluster, trainings):
                trial = by_name[training.name]
                if isinstance(outcome, str):
                    print(f"trial {trial.number} failed: {outcome}")
                    accuracies[trial.number] = None
                else:
                    reached[trial.number] = outcome["val_accuracy"]
                    ends = f"after {until} epochs" if until else "in the end"
                    accuracy = f"validation {outcome['val_accuracy']:.4f} {ends}"
                    print(f"trial {trial.number}: {accuracy}, {trial.values}")
            if until is None:
                accuracies |= reached
                break
            promoted = promote_trials(reached)
            alive = [trial for trial in alive if trial.number in promoted]
        for trial in batch:
            pruned = trial.number not in accuracies
            self.study.tell(trial, accuracies.get(trial.number), pruned=pruned)
        self._delete_losers()

    def winner(self) -> dict[str, Any] | None:
        """The row of the best trial with its test accuracy, once there is one."""
        file = self._folder / f"trial-{self.study.best().number}" / ROW
        row: dict[str, Any] = read_json(file) if file.is_file() else {}
        return row if "test_accuracy" in row else None

    def evaluate_best(self, cluster: Cluster) -> None:
        """The one look at the test split."""
        training = self._training(self.study.best(), test=True)
        ((_, outcome),) = run_trainings(cluster, [training])
        if isinstance(outcome, str):
            raise RunError(f"{training.name}, the best, failed when it was evaluated: {outcome}")
        write_json(training.folder / ROW, outcome, indent=None)

    def _delete_losers(self) -> None:
        """Weights and checkpoints of all but the best trial so far, where they are on this machine."""
        with contextlib.suppress(RunError):  # none has been trained to its end
            best = self.study.best().number
            for trial in self.study.finished():
                if trial.number != best:
                    folder = self._folder / f"trial-{trial.number}"
                    (folder / "model.safetensors").unlink(missing_ok=True)
                    shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def _valid(self, batch: list[Trial], accuracies: dict[int, float | None]) -> list[Trial]:
        """Those whose parameters go together; the others count as failed."""
        valid = []
        for trial in batch:
            try:
                self.config_of(trial)
            except ValueError as error:
                print(f"trial {trial.number} makes no training: {str(error).splitlines()[2].strip()}")
                accuracies[trial.number] = None
            else:
                valid.append(trial)
        return valid

    def _training(self, trial: Trial, *, until: int | None = None, test: bool = False) -> Training:
        params = self._params
        return Training(
            f"trial {trial.number}",
            self.config_of(trial),
            params.evaluate,
            Path(params.paths.splits),
            self._folder / f"trial-{trial.number}",
            self._pretrained,
            until=until,
            test=test,
        )


def write_recipe(file: Path, values: dict[str, Any], winner: dict[str, Any]) -> None:
    """What differs from the defaults, as recipes do."""
    defaults = recipe_defaults()
    chosen = {key: values[key] for key, default in defaults.items() if values[key] != default}
    text = io.StringIO()
    YAML().dump({"train": chosen}, text)
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]
    head = (
        f"# Found by cifarflow search ({digest}): {winner['val_accuracy']:.2%} on validation, "
        f"{winner['test_accuracy']:.2%} on test.\n# What it does not set is as in talk.yaml.\n"
    )
    with atomic_write(file) as temp_path:
        temp_path.write_text(head + text.getvalue(), encoding="utf-8")
