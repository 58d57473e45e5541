"""Say what has changed between two models: data, parameters, code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.registry.ledger import LedgerEntry

NOT_IN_RECIPE = {"num_threads"}
"""training parameters that say how fast a training runs, not what it makes"""


@dataclass(frozen=True)
class CodeChange:
    """The commits between the code of two models."""

    commit: str = ""
    """the challenger's commit, with `-dirty` where files of the code differed from it; empty without Git"""
    champion_commit: str = ""
    subjects: Sequence[str] = ()
    """hash and subject of the commits since the champion's that changed the code, the newest first"""
    note: str = ""
    """why the commits are not known"""


@dataclass(frozen=True)
class ClassGrowth:
    """By how many images a class has grown since the champion was compared; below zero, it has shrunk."""

    name: str
    train: int
    val: int


@dataclass(frozen=True)
class Changes:
    """What has changed since the champion was made."""

    data: str
    """a sentence about the data"""
    growth: Sequence[ClassGrowth]
    parameters: Sequence[tuple[str, str, str]]
    """name, the champion's value and the challenger's value of each parameter that differs"""
    other_parameters: bool
    """whether parameters differ that are not part of the training"""
    same_code: bool
    """whether the code of all stages is the same"""
    code: CodeChange


def find_changes(
    entry: LedgerEntry,
    champion: LedgerEntry,
    metadata: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    code: CodeChange,
) -> Changes:
    """Compare the challenger's `entry` and the champion's; `metadata` is that of both models' files."""
    growth = find_growth(entry.evidence, champion.evidence, classes)
    same = {name: value == champion.provenance.get(name) for name, value in entry.provenance.items() if value}
    parameters = diff_parameters(*metadata)
    return Changes(
        data=_describe_data(champion, growth, same_data=same.get("data", False)),
        growth=growth or (),
        parameters=parameters,
        other_parameters=not parameters and not same.get("params", False),
        same_code=same.get("code", False),
        code=code,
    )


def find_growth(
    now: Mapping[str, Any], before: Mapping[str, Any], classes: Sequence[str]
) -> list[ClassGrowth] | None:
    """Return the classes whose number of images has changed; None where the champion's were not counted."""
    counts, earlier = now.get("images_by_class"), before.get("images_by_class")
    if not counts or not earlier or len(earlier["train"]) != len(classes):
        return None
    train, val = ([a - b for a, b in zip(counts[s], earlier[s], strict=True)] for s in ("train", "val"))
    return [ClassGrowth(*row) for row in zip(classes, train, val, strict=True) if row[1] or row[2]]


def _describe_data(champion: LedgerEntry, growth: Sequence[ClassGrowth] | None, *, same_data: bool) -> str:
    if same_data:
        return "The data are the same."
    if growth is None:
        return f"The data differ; version {champion.version} did not count its images by class."
    if not growth:
        return (
            "The data differ, although every class has as many images as before: images or labels were "
            "replaced."
        )
    train, val = sum(row.train for row in growth), sum(row.val for row in growth)
    return f"Since then {train:+,} training images and {val:+,} validation images."


def diff_parameters(challenger: Mapping[str, Any], champion: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, the champion's value and the challenger's value of the parameters that differ."""
    now, before = _flatten(challenger), _flatten(champion)
    names = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    return [(name, str(before.get(name, "none")), str(now.get(name, "none"))) for name in names]


def _flatten(metadata: Mapping[str, Any]) -> dict[str, Any]:
    train = {f"train.{k}": v for k, v in metadata.get("train", {}).items() if k not in NOT_IN_RECIPE}
    return train | {name: metadata[name] for name in ("dataset", "network", "seed") if name in metadata}
