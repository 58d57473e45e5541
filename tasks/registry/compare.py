"""Compare a challenger with the champion on the validation split, and decide which of them serves.

The test split takes no part in any decision; the accuracy on it is only reported.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tasks.registry.evidence import (
    Comparison,
    ExportedModel,
    Grounds,
    compare_accuracies,
    count_images_by_class,
    find_lost_classes,
    hash_own_val,
    is_correct,
    measure_latency_ratio,
    run_tests,
)
from tasks.registry.selection import find_selection
from tasks.registry.significance import (
    Correct,
    allocate_look,
    compare_with_guessing,
    count_discordant,
    mcnemar_exact,
)
from tasks.workspace.splits import load_splits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tasks.params import CompareConfig
    from tasks.workspace.splits import Splits


@dataclass(frozen=True)
class Decision:
    """Whether to promote the challenger, and why."""

    promote: bool
    reason: str
    evidence: Comparison
    val_probabilities: Sequence[NDArray[np.float32]] = ()
    """`(N, classes)` on the validation images, of the challenger and of the champion if it was compared"""

    @property
    def is_reference(self) -> bool:
        """Return whether margins are to be measured against this challenger, once it is promoted."""
        evidence = self.evidence
        is_better = evidence.p_reference is None or evidence.p_reference <= (evidence.threshold or 0)
        return evidence.grounds in {None, "better"} and is_better


@dataclass(frozen=True)
class History:
    """What earlier decisions mean for a comparison."""

    champion_val_sha256: str | None = None
    """hash of the data set's own validation images when the champion was promoted"""
    looks: Sequence[dt.datetime] = ()
    """times of the comparisons before this one, with any champion"""
    selections: Sequence[Mapping[str, Any]] = ()
    """selections that earlier decisions have paid for"""
    sweep: Mapping[str, Any] | None = None
    """the content of `reports/sweep.json`, if there is one"""


def compare(
    challenger: ExportedModel,
    champion: ExportedModel | None,
    splits: Path,
    parity: dict[str, Any],
    config: CompareConfig,
    *,
    reference: ExportedModel | None = None,
    history: History | None = None,
    now: dt.datetime | None = None,
) -> Decision:
    """Decide whether to promote the challenger.

    It is promoted where all of these are true:

    - Its file agrees with PyTorch (`parity`, as in the benchmark's file).
    - The first model ever has at least `config.min_accuracy` or, without such a floor, is better than
      guessing. Any other has a reason to be promoted (`_find_grounds`), whose test passes this look's
      threshold, which keeps a year without a false promotion at `config.confidence`.
    - No class has lost more than `config.max_class_loss`, by one-sided tests with Holm's correction.
    - Its latency is at most `config.max_latency_ratio` times the champion's.

    Where the data set's own validation images differ from those of the champion's promotion, the models
    cannot be compared, since the champion may have been trained on them. On added images no model was ever
    trained (`tasks.dataset.additions`), so the champion is compared on those that came after it as well.
    `reference` is the model against which margins are measured, by default the champion; `now` is the time.
    """
    data, history = load_splits(splits), history or History()
    val_sha256 = hash_own_val(data)
    images, labels = data.val.images.numpy(), data.val.labels.numpy()
    val_probabilities = [challenger.predict_proba(images)]
    challenger_correct = val_probabilities[0].argmax(1) == labels
    # `values` becomes the evidence. It begins with what is known of the challenger alone.
    values: dict[str, Any] = {
        "val_sha256": val_sha256,
        "val_images": len(labels),
        "images_by_class": count_images_by_class(data, len(challenger.classes)),
        "challenger_val_accuracy": float(challenger_correct.mean()),
        "challenger_test_accuracy": float(is_correct(challenger, data.test).mean()),
        "parity_max_abs_diff": float(parity["max_abs_diff"]),
        "parity_argmax_agreement": float(parity["argmax_agreement"]),
        "selection": find_selection(challenger.metadata, val_sha256, history.sweep),
    }
    is_same_val = history.champion_val_sha256 in {None, val_sha256}
    obstacle = _find_obstacle(
        (challenger, champion), challenger_correct, labels, config, is_same_val=is_same_val
    )
    if champion is not None and obstacle is None:
        models = challenger, champion, reference or champion
        val_probabilities.append(champion.predict_proba(images))
        correct = challenger_correct, val_probabilities[1].argmax(1) == labels
        values |= _compare_on_validation(models, correct, values, data, config, history, now)
    # Without a comparison, the figures of a comparison stay None.
    evidence = Comparison(**values)
    if evidence.p_value is not None:
        evidence = replace(evidence, grounds=_find_grounds(evidence, config))
    rejection = next(_rejection_reasons(evidence, obstacle, config), None)
    reason = rejection or _describe_grounds(evidence, config)
    return Decision(rejection is None, reason, evidence, val_probabilities)


def _compare_on_validation(
    models: tuple[ExportedModel, ExportedModel, ExportedModel],
    correct: Correct,
    found: Mapping[str, Any],
    data: Splits,
    config: CompareConfig,
    history: History,
    now: dt.datetime | None,
) -> dict[str, Any]:
    """Measure and test challenger, champion and reference; return further figures of `Comparison`.

    `correct` is of challenger and champion on the validation images, `found` the evidence so far.
    """
    challenger, champion, reference = models
    values: dict[str, Any] = compare_accuracies(correct, data, challenger.classes, config)
    values["champion_test_accuracy"] = float(is_correct(champion, data.test).mean())
    values["latency_ratio"] = measure_latency_ratio(challenger, champion, data.val.images[:1].numpy())
    look = allocate_look(history.looks, now or dt.datetime.now(dt.UTC), config.confidence)
    values |= {"look": look.number, "error_spent": look.error_spent}
    selection = found["selection"]
    is_paid = selection is None or selection in history.selections
    values["candidates"] = None if is_paid else selection["candidates"]
    if reference is not champion:
        correct = correct[0], is_correct(reference, data.val)
        values["p_reference"] = mcnemar_exact(*count_discordant(correct))
    values |= run_tests(correct, {**found, **values}, data, look.error, config)
    lost_classes = find_lost_classes(correct, data.val.labels.numpy(), config)
    values["lost_classes"] = {challenger.classes[k]: gain for k, gain in lost_classes.items()}
    return values


def _find_obstacle(
    models: tuple[ExportedModel, ExportedModel | None],
    correct: NDArray[np.bool_],
    labels: NDArray[np.int64],
    config: CompareConfig,
    *,
    is_same_val: bool,
) -> str | None:
    """Say why the challenger must not be the first champion, or cannot be compared; None if it may.

    `correct` `(N,)` is the challenger's; `is_same_val` says whether the data set's own validation images are
    those of the champion's promotion.
    """
    challenger, champion = models
    if champion is None:
        return _find_first_obstacle(correct, labels, config)
    if champion.classes != challenger.classes:
        return f"its classes differ from the champion's: {', '.join(challenger.classes)}"
    if not is_same_val:
        return (
            "the data set's own validation images differ from the champion's, whose training images may be "
            "among them, so the models cannot be compared"
        )
    return None


def _find_first_obstacle(
    correct: NDArray[np.bool_], labels: NDArray[np.int64], config: CompareConfig
) -> str | None:
    """Say why a model must not be the first champion, by its correctness `(N,)`; None if it may."""
    accuracy = f"{correct.mean():.2%} on validation"
    if config.min_accuracy:
        too_low = correct.mean() < config.min_accuracy
        return f"{accuracy} is below the required {config.min_accuracy:.2%}" if too_low else None
    guessing, p_value = compare_with_guessing(correct, labels)
    if p_value <= 1 - config.confidence:
        return None
    return (
        f"{accuracy} is not significantly better than guessing the most frequent class, {guessing:.2%} "
        f"(p = {p_value:.2g}, required: {1 - config.confidence:.2g})"
    )


def _rejection_reasons(evidence: Comparison, obstacle: str | None, config: CompareConfig) -> Iterator[str]:
    """Yield the reasons to reject the challenger, the most severe first."""
    # As in the stage `export`: within the tolerance, a class can differ only where rounding decides a tie. A
    # NaN is not within it.
    if not evidence.parity_max_abs_diff <= config.parity_atol:
        yield (
            f"ONNX/PyTorch parity failed: {evidence.parity_argmax_agreement:.2%} of the classes agree, "
            f"probabilities differ by up to {evidence.parity_max_abs_diff:.1e}"
        )
    if obstacle is not None:
        yield obstacle
    # Without a comparison there is nothing else to check.
    if evidence.accuracy_gain is None:
        return
    assert evidence.latency_ratio is not None
    if evidence.grounds is None:
        yield _describe_missing_grounds(evidence, config)
    if evidence.lost_classes:
        lost = ", ".join(f"{name} {gain:+.2%}" for name, gain in evidence.lost_classes.items())
        yield f"classes have lost too much: {lost} (allowed: {-config.max_class_loss:.2%})"
    if evidence.latency_ratio > config.max_latency_ratio:
        yield (
            f"latency is {evidence.latency_ratio:.2f} times the champion's "
            f"(allowed: {config.max_latency_ratio:g})"
        )


def _find_grounds(evidence: Comparison, config: CompareConfig) -> Grounds | None:
    """Return why the challenger may be promoted.

    better: It is better on all validation images, by at least `min_gain`.

    better_on_added: It is better on the images that were added, and not worse than the reference by
    `max_loss` on the data set's own. The gain has to pass the look's threshold, the side condition a
    threshold of its own.

    not_worse: Under this rule, it is not worse than the reference by `max_loss` on all validation images.
    """
    assert evidence.accuracy_gain is not None
    assert evidence.p_value is not None
    assert evidence.threshold is not None
    is_gain = evidence.accuracy_gain > 0 and evidence.accuracy_gain >= config.min_gain
    if is_gain and evidence.p_value <= evidence.threshold:
        return "better"
    if evidence.p_added is not None and evidence.p_added <= evidence.threshold:
        assert evidence.p_own_not_worse is not None
        if evidence.p_own_not_worse <= 1 - config.confidence:
            return "better_on_added"
    if evidence.p_not_worse is not None and evidence.p_not_worse <= evidence.threshold:
        return "not_worse"
    return None


def _describe_grounds(evidence: Comparison, config: CompareConfig) -> str:
    if evidence.grounds is None:
        return "the first model"
    gain = f"{evidence.accuracy_gain:+.2%} on validation"
    if evidence.grounds == "better":
        return f"{gain} ({_describe_test(evidence, evidence.p_value)})"
    if evidence.grounds == "not_worse":
        test = _describe_test(evidence, evidence.p_not_worse)
        return f"{gain}, not worse by {config.max_loss:.2%} ({test})"
    test = _describe_test(evidence, evidence.p_added)
    return f"{_describe_added(evidence)} ({test}), not worse by {config.max_loss:.2%} on the data set's own"


def _describe_missing_grounds(evidence: Comparison, config: CompareConfig) -> str:
    """Say why none of the questions has been answered in the challenger's favor."""
    assert evidence.accuracy_gain is not None
    gain = f"{evidence.accuracy_gain:+.2%} on validation"
    if evidence.accuracy_gain <= 0:
        reasons = [f"{gain} is no gain"]
    elif evidence.accuracy_gain < config.min_gain:
        reasons = [f"{gain} is below the required {config.min_gain:.2%}"]
    else:
        reasons = [f"{gain} is not significant ({_describe_test(evidence, evidence.p_value)})"]
    if evidence.p_added is not None:
        assert evidence.threshold is not None
        if evidence.p_added > evidence.threshold:
            test = _describe_test(evidence, evidence.p_added)
            reasons.append(f"{_describe_added(evidence)} is not significant ({test})")
        else:
            reasons.append(
                f"{_describe_added(evidence)} is significant, but a loss of {config.max_loss:.2%} on the "
                f"data set's own is not excluded (p = {evidence.p_own_not_worse:.2g}, "
                f"required: {1 - config.confidence:.2g})"
            )
    if evidence.p_not_worse is not None:
        test = _describe_test(evidence, evidence.p_not_worse)
        reasons.append(f"a loss of {config.max_loss:.2%} is not excluded ({test})")
    return "; ".join(reasons)


def _describe_added(evidence: Comparison) -> str:
    assert evidence.val_added is not None
    return f"{evidence.val_added.accuracy_gain:+.2%} on {evidence.val_added.images:,} added images"


def _describe_test(evidence: Comparison, p_value: float | None) -> str:
    best = f", the best of {evidence.candidates:,} candidates" if evidence.candidates else ""
    return f"p = {p_value:.2g}, required: {evidence.threshold:.2g} at look {evidence.look} of a year{best}"
