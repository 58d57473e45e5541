"""The flow `search` searches hyperparameters by validation accuracy, and makes the best ones a recipe."""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.parameters import SearchParameters
from flows.run.flow_run import exclusive_workspace, read_params_with, workspace_flow
from flows.trainings.cluster import find_machine
from flows.trainings.trainings import ROW, Cluster, Tracking, Training, run_trainings, training_cluster
from tasks.overrides import RECIPES
from tasks.params import Params
from tasks.params.train import TrainConfig
from tasks.registry.evidence import hash_own_val
from tasks.registry.selection import count_candidates
from tasks.search.report import check_overwrite, result_markdown, save_result, write_recipe
from tasks.search.study import (
    Study,
    Trial,
    check_sampler,
    check_space,
    parse_space,
    plan_rungs,
    promote_trials,
)
from tasks.training.checkpoints import training_fingerprint
from tasks.training.network import find_pretrained
from tasks.workspace.errors import RunError
from tasks.workspace.files import read_json, write_json
from tasks.workspace.splits import load_splits


@workspace_flow("search")
def search(parameters: SearchParameters) -> State[Any]:
    """Search hyperparameters by validation accuracy. The same search gives the same trials, and resumes."""
    batch, prune = parameters.batch, parameters.prune
    with exclusive_workspace(parameters):
        params = read_params_with(parameters.overrides)
        recipe = RECIPES / f"{parameters.recipe_name}.yaml"
        check_overwrite(recipe)
        num_trials = check_sampler(parameters.sampler, parse_space(parameters.space), parameters.num_trials)
        fixed = {"batch": batch, "prune": prune}
        trials = SearchTrials(
            params, parameters.space, parameters.sampler, parameters.storage, fixed, parameters.address
        )
        with ExitStack() as stack:
            cluster: Cluster | None = None  # It is opened when there is something to train.
            while (proposed := trials.study.next_batch(batch, num_trials)) or trials.winner() is None:
                if cluster is None:
                    cluster = stack.enter_context(
                        training_cluster(parameters.jobs, parameters.address, trials.files)
                    )
                if proposed:
                    trials.run_batch(cluster, proposed, prune=prune)
                else:
                    trials.evaluate_best(cluster)
        best, winner = trials.study.best(), trials.winner()
        assert winner is not None
        val_sha256 = hash_own_val(load_splits(Path(params.paths.splits)))
        chosen = count_candidates(params.train, len(trials.study.finished()), val_sha256)
        values = trials.config_of(best).model_dump() | chosen
        write_recipe(recipe, values, winner)
        result = save_result(Path(params.paths.search), trials.study, best, winner, trials.description)
        create_markdown_artifact(result_markdown(result), key="search")
        message = (
            f"{recipe}: trial {best.number} of {num_trials}, validation {winner['val_accuracy']:.2%}, "
            f"test {winner['test_accuracy']:.2%}"
        )
        print(message)
    return Completed(message=message)


class SearchTrials:
    """The trainings of a search, on this machine or on the Dask cluster at `address`.

    `fixed` holds what else decides which trials come, so that a search with other values is another search.
    """

    def __init__(
        self,
        params: Params,
        space: list[str],
        sampler: str,
        storage: str | None,
        fixed: dict[str, Any],
        address: str | None = None,
    ) -> None:
        distributions = parse_space(space)
        check_space(params, distributions)
        self._params = params
        self._machine = find_machine(_with_fast_path(params.train, distributions), address)
        splits = Path(params.paths.splits)
        dataset = load_splits(splits).metadata["dataset"]
        self._pretrained = Path(params.paths.pretrained)
        file = find_pretrained(self._pretrained, params.train.weights)
        self.files = [splits] if file is None else [splits, file]
        config = params.train.model_dump()
        searched = {"space": sorted(space), "sampler": sampler, **fixed, "train": config}
        self.description = {"dataset": dataset, **searched}
        fingerprint = training_fingerprint(splits, searched, self._machine, file)
        folder = Path(params.paths.weights).with_name("search") / fingerprint
        self._folder = folder
        self.study = Study(
            storage or str(folder / "study.log"), fingerprint, distributions, sampler, params.train.seed
        )

    def config_of(self, trial: Trial) -> TrainConfig:
        config = self._params.train
        return type(config).model_validate(config.model_dump() | trial.values)

    def run_batch(self, cluster: Cluster, batch: Sequence[Trial], *, prune: bool) -> None:
        """Train the batch, with `prune` in rungs, and tell the study, in the order of the trials."""
        valid = self._valid(batch)
        epochs = min((self.config_of(trial).epochs for trial in valid), default=1)
        pruned: set[int] = set()
        alive = valid
        for rung in plan_rungs(epochs)[:-1] if prune else []:
            reached = self._train(cluster, alive, until=rung)
            promoted = promote_trials(reached)
            pruned |= reached.keys() - set(promoted)
            alive = [trial for trial in alive if trial.number in promoted]
        accuracies = self._train(cluster, alive)
        for trial in batch:
            self.study.tell(trial, accuracies.get(trial.number), pruned=trial.number in pruned)
        self._delete_losers()

    def _train(self, cluster: Cluster, trials: Sequence[Trial], until: int | None = None) -> dict[int, float]:
        """Train the trials; return the validation accuracy of each that did not fail, by its number."""
        numbers = {f"trial {trial.number}": trial for trial in trials}
        trainings = [self._training(trial, until=until) for trial in trials]
        reached: dict[int, float] = {}
        for training, outcome in run_trainings(cluster, trainings):
            trial = numbers[training.name]
            if isinstance(outcome, str):
                print(f"{training.name} failed: {outcome}")
                continue
            reached[trial.number] = outcome["val_accuracy"]
            ends = f"after {until} epochs" if until else "in the end"
            print(f"{training.name}: validation {outcome['val_accuracy']:.2%} {ends}, {trial.values}")
        return reached

    def winner(self) -> dict[str, Any] | None:
        """Return the row of the best trial, which has its test accuracy; None while there is none."""
        file = self._folder / f"trial-{self.study.best().number}" / ROW
        row: dict[str, Any] = read_json(file) if file.is_file() else {}
        return row if "test_accuracy" in row else None

    def evaluate_best(self, cluster: Cluster) -> None:
        """Evaluate the best trial on the test split, which no other trial is shown."""
        training = self._training(self.study.best(), test=True)
        ((_, outcome),) = run_trainings(cluster, [training])
        if isinstance(outcome, str):
            raise RunError(f"{training.name}, the best, failed when it was evaluated: {outcome}")
        write_json(training.folder / ROW, outcome, indent=None)

    def _delete_losers(self) -> None:
        """Delete weights and checkpoints of all but the best trial so far, where they are on this machine."""
        with contextlib.suppress(RunError):  # No trial has been trained to its end.
            best = self.study.best().number
            for trial in self.study.finished():
                if trial.number != best:
                    folder = self._folder / f"trial-{trial.number}"
                    (folder / "model.safetensors").unlink(missing_ok=True)
                    shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def _valid(self, batch: Sequence[Trial]) -> list[Trial]:
        """Return the trials whose parameters fit together; the others count as failed."""
        valid = []
        for trial in batch:
            try:
                self.config_of(trial)
            except ValueError as error:
                print(f"trial {trial.number} makes no training: {str(error).splitlines()[2].strip()}")
            else:
                valid.append(trial)
        return valid

    def _training(self, trial: Trial, *, until: int | None = None, test: bool = False) -> Training:
        params = self._params
        return Training(
            f"trial {trial.number}",
            self._machine.resolve(self.config_of(trial)),
            params.evaluate,
            Path(params.paths.splits),
            self._folder / f"trial-{trial.number}",
            self._pretrained,
            until=until,
            test=test,
            tracking=Tracking(params, f"search {self.study.name}"),
        )


def _with_fast_path(config: TrainConfig, space: Mapping[str, BaseDistribution]) -> TrainConfig:
    """Return a configuration that operators in C++ can train, if any trial of the space has one."""
    names = ("network", "precision")
    choices = [getattr(space.get(name), "choices", [getattr(config, name)]) for name in names]
    updates = [dict(zip(names, values, strict=True)) for values in product(*choices)]
    configs = [config.model_copy(update=update) for update in updates]
    return next((each for each in configs if each.has_fast_path), config)
