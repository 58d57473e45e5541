"""The flow `search`: hyperparameters by validation accuracy; the best become a recipe."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.parameters import SearchParameters
from flows.run.flow_run import exclusive_workspace, read_params_with, workspace_flow
from flows.trainings.search_trials import SearchTrials
from flows.trainings.trainings import Cluster, training_cluster
from tasks.overrides import RECIPES
from tasks.registry.evidence import hash_own_val
from tasks.registry.selection import count_candidates
from tasks.search.report import check_overwrite, result_markdown, save_result, write_recipe
from tasks.search.space import parse_space
from tasks.search.study import check_sampler
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
            cluster: Cluster | None = None  # opened when there is something to train
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
