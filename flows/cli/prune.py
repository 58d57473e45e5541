"""The command `cifarflow prune` removes what no decision, branch or tag needs any more."""

import time

import click

from flows.cli.project import enter_project


@click.command()
@click.option("--apply", is_flag=True, help="Remove it; without this, prune only says how much.")
@click.option(
    "--remote", is_flag=True, help="Prune the DVC remote as well, after fetching all branches and tags."
)
@click.option(
    "--days", type=click.IntRange(30), default=30, help="Keep what is younger (default, and least: 30)."
)
@click.option(
    "--models",
    "num_models",
    type=click.IntRange(0),
    default=10,
    help="Keep this number of the last models, besides all champions and open questions (default: 10).",
)
@click.option(
    "--claim", "is_claim", is_flag=True, help="Mark the cache as this project's alone, and remove nothing."
)
def prune(*, apply: bool, remote: bool, days: int, num_models: int, is_claim: bool) -> None:
    """Say what no decision, branch or tag needs any more, and with --apply remove it.

    It keeps all champions, open questions and the last models, the data that they were made from, and what
    branches and tags name. It never runs beside a run.

    \b
    Examples:
      cifarflow prune
      cifarflow prune --claim     once: no other project uses this cache
      cifarflow prune --apply
    """
    enter_project()
    from flows.prune.prune import claim
    from flows.prune.prune import prune as prune_project

    if is_claim:
        print(f"marked as this project's alone: {', '.join(claim(remote=remote))}")
        return
    pruned, num_kept = prune_project(
        now=time.time(), days=days, num_models=num_models, remote=remote, apply=apply
    )
    verb = "went" if apply else "would go"
    for each in pruned:
        print(
            f"{each.place}: {each.num_files:,} of {each.total_files:,} files {verb}, "
            f"{each.size_bytes / 1e6:,.1f} of {each.total_bytes / 1e6:,.1f} MB"
        )
    print(f"models that stay for the ledger's sake: {num_kept:,}")
    if not apply:
        print("to remove it: cifarflow prune --apply")
