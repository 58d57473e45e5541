"""Show the champion in Weights & Biases (W&B): its version of the model artifact has the alias `champion`.

The ledger alone decides which model that is. So a failure of W&B prints one line and stops nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.tracking import MODEL_ARTIFACT, TIMEOUT_S, has_api_key, import_wandb, resolve_mode

if TYPE_CHECKING:
    from tasks.params import TrackingConfig

ALIAS = "champion"


def alias_champion(model_md5: str, config: TrackingConfig) -> None:
    """Move the alias to the version with this model, and link it to the collection `config.registry`.

    This happens only in the mode `online`. Nothing is uploaded: the stage `export` has logged the model,
    unless it was tracked offline.
    """
    if resolve_mode(config) != "online" or not has_api_key():
        return
    try:
        version = _find_version(model_md5, config.project)
        if version is None:
            print(f"W&B has no {MODEL_ARTIFACT} with the champion's MD5; it was not tracked online")
            return
        version.aliases.append(ALIAS)
        version.save()
        if config.registry:
            version.link(config.registry, aliases=[ALIAS])
    except Exception as error:  # noqa: BLE001 - The decision stands, whatever W&B's client raises.
        print(
            f"W&B failed ({type(error).__name__}): the champion lacks its alias or link; the decision stands"
        )
    else:
        linked = f", linked to {config.registry}" if config.registry else ""
        print(f"W&B: {version.name} has the alias {ALIAS}{linked}")


def _find_version(model_md5: str, project: str) -> Any:
    api = import_wandb().Api(timeout=int(TIMEOUT_S))
    versions = api.artifacts("model", f"{project}/{MODEL_ARTIFACT}")
    return next((version for version in versions if version.metadata.get("md5") == model_md5), None)
