"""The flow `search`: hyperparameters by validation accuracy; the best become a recipe."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.run.flow_run import exclusive_workspace, fail_in_one_line, read_params_with
from flows.trainings.search_trials import SearchTrials
from flows.trainings.trainings import Cluster, training_cluster
from tasks.overrides import RECIPES, Overrides
from tasks.search.report import check_overwrite, result_markdown, save_result, write_recipe
from tasks.search.space import parse_space
from tasks.search.study import check_sampler

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
        address: of a Dask scheduler, such as tls://host:8786, to train on its workers
        overrides: parameters for this search only; params.yaml does not change
        wait: wait for another run in the workspace to finish instead of failing
        workspace: the folder with params.yaml and, in artifacts/, the splits
    """
    with exclusive_workspace(workspace, wait=wait):
        params = read_params_with(overrides)
        recipe = RECIPES / f"{recipe_name}.yaml"
        check_overwrite(recipe)
        num_trials = check_sampler(sampler, parse_space(space), num_trials)
        fixed = {"batch": batch, "prune": prune}
        trials = SearchTrials(params, space, sampler, storage, fixed, address)
        with ExitStack() as stack:
            cluster: Cluster | None = None  # opened when there is something to train
            while (proposed := trials.study.next_batch(batch, num_trials)) or trials.winner() is None:
                if cluster is None:
                    cluster = stack.enter_context(training_cluster(jobs, address, trials.files))
                if proposed:
                    trials.run_batch(cluster, proposed, prune=prune)
                else:
                    trials.evaluate_best(cluster)
        best, winner = trials.study.best(), trials.winner()
        assert winner is not None
        write_recipe(recipe, trials.config_of(best).model_dump(), winner)
        result = save_result(Path(params.paths.search), trials.study, best, winner, trials.description)
        create_markdown_artifact(result_markdown(result), key="search")
        message = (
            f"{recipe}: trial {best.number} of {num_trials}, validation {winner['val_accuracy']:.2%}, "
            f"test {winner['test_accuracy']:.2%}"
        )
        print(message)
    return Completed(message=message)
