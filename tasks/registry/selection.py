"""Find how many candidates were compared on the validation images before a model was chosen by them.

A search trains many models and keeps the one with the best validation accuracy, which is partly luck on these
very images. Any of them could have become the challenger, so the first decision about a model of that recipe
shares its error out among them. Later models of the recipe are new trainings, which nobody has chosen.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tasks.overrides import recipe_defaults
from tasks.params.train import TrainConfig


def find_selection(
    metadata: Mapping[str, Any], val_sha256: str, sweep: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Return the number of candidates and what identifies the selection; None where nothing was selected.

    Args:
        metadata: what the model's file says about its training
        val_sha256: hash of the validation images on which the model is to be compared
        sweep: the content of `reports/sweep.json`, if there is one
    """
    train = metadata.get("train", {})
    # Seed and machine are no part of a recipe.
    recipe = {name: train[name] for name in recipe_defaults() if name in train}
    selection = metadata.get("selection", {})
    is_here = selection.get("val_sha256") in {"", val_sha256}
    candidates = int(selection["candidates"]) if is_here else 0
    if sweep is not None and recipe.items() <= sweep["train"].items():
        best = max(sweep["seeds"], key=lambda row: row["val_accuracy"])
        # Whoever takes another seed than the best has not chosen it for its luck.
        candidates += len(sweep["seeds"]) * (best["seed"] == metadata["seed"])
    if candidates <= 1:
        return None
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return {"candidates": candidates, "val_sha256": val_sha256, "recipe_sha256": digest}


def count_candidates(config: TrainConfig, num_trials: int, val_sha256: str) -> dict[str, Any]:
    """Return the parameters that say of how many candidates a search has chosen its recipe.

    Where the search began at a recipe that was chosen by the same images, the candidates add up.
    """
    earlier = config.candidates if config.candidates_val_sha256 in {"", val_sha256} else 1
    return {"candidates": num_trials + earlier - 1, "candidates_val_sha256": val_sha256}
