"""Simulate what the rule of promotions promotes by chance, what it finds, and how far margins let it slip.

    python benchmarks/promotion_rules.py [--years 100] [--accuracy 0.64] [--discordance 0.26] [--images 5000]
    python benchmarks/promotion_rules.py --measure RECIPE

With `--measure`, a recipe is trained with two seeds in a workspace that has its splits, and the share of the
held-out images that only one of both classifies correctly is printed: what `--discordance` stands for.

An image has a difficulty: the probability that a newly trained model is right about it. Given the
difficulties, models are independent, as trainings with different seeds are. A better model has a higher logit
on every image. The validation images stay the same for a year, and all tables are of 52 looks, one a week.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit

from tasks.overrides import read_recipe, with_overrides
from tasks.params import PARAMS, read_params
from tasks.registry.evidence import find_lost_classes
from tasks.registry.significance import (
    RESERVE,
    YEAR,
    compute_power,
    count_discordant,
    margin_p_value,
    mcnemar_exact,
)
from tasks.train import train
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier

LOOKS = 52
ERROR = 0.05
WEEKLY = ERROR * (YEAR / LOOKS / (YEAR + RESERVE))
"""error of a weekly look"""
DUNNETT = 0.00148
"""threshold of a weekly look in earlier versions, which counted no candidates and asked one question"""
MAX_LOSS = 0.02
"""`compare.max_loss`"""
Mask = NDArray[np.bool_]


class Population:
    """Images whose difficulties follow a beta distribution, on a share of which two equal models differ."""

    def __init__(self, accuracy: float, discordance: float, seed: int = 0) -> None:
        # Of a beta distribution with this mean and size, two draws of one probability differ with the
        # probability 2 * accuracy * (1 - accuracy) * size / (size + 1).
        size = discordance / (2 * accuracy * (1 - accuracy) - discordance)
        self._shape = accuracy * size, (1 - accuracy) * size
        self.generator = np.random.default_rng(seed)
        # A table from shifts of all logits to gains of accuracy, which `draw` reads backwards.
        everything = self.draw_logits(20_000)
        self._shifts = np.linspace(-3, 3, 301)
        self._gains = np.array([expit(everything + by).mean() for by in self._shifts])
        self._gains -= expit(everything).mean()

    def draw_logits(self, n: int) -> NDArray[np.float64]:
        """Draw the difficulties of `n` images."""
        return np.asarray(logit(self.generator.beta(*self._shape, n).clip(1e-9, 1 - 1e-9)))

    def draw(self, logits: NDArray[np.float64], gain: float = 0.0, count: int = 1) -> Mask:
        """Draw `count` models of a true gain, by whether they are right about the images, `(count, n)`."""
        correct = expit(logits + np.interp(gain, self._gains, self._shifts))
        return np.asarray(self.generator.random((count, len(logits))) < correct)


def simulate_false_years(args: argparse.Namespace, candidates: int, *, every_look: bool) -> list[str]:
    """Return the shares of years with a false promotion: of one threshold, of others, of this rule.

    All models are equally good. A search has chosen the challenger of the first look, or of every one, as the
    best of so many candidates.
    """
    thresholds = {"each at 5%": (ERROR, 1), "before": (DUNNETT, 1), "this rule": (WEEKLY, candidates)}
    false = dict.fromkeys(thresholds, 0)
    population = Population(args.accuracy, args.discordance)
    for _ in range(args.years):
        images = population.draw_logits(args.images)
        champion = population.draw(images)[0]
        promoted = set()
        for look in range(LOOKS):
            is_search = look == 0 or every_look
            drawn = population.draw(images, count=candidates if is_search else 1)
            challenger = drawn[drawn.mean(1).argmax()]
            p_value = mcnemar_exact(*count_discordant((challenger, champion)))
            for name, (threshold, shared_by) in thresholds.items():
                if p_value <= threshold / (shared_by if is_search else 1):
                    promoted.add(name)
        for name in promoted:
            false[name] += 1
    return [f"{count / args.years:.1%}" for count in false.values()]


def simulate_slips(
    args: argparse.Namespace, step: float, margin: float, *, is_fixed: bool
) -> NDArray[np.float64]:
    """Return the true gains of the last champions `(years,)` where each challenger has lost a `step`.

    The margin is measured against the first champion, as the rule does, or (not `is_fixed`) against the last.
    """
    gains = []
    population = Population(args.accuracy, args.discordance)
    for _ in range(args.years):
        images = population.draw_logits(args.images)
        gain, reference = 0.0, population.draw(images)[0]
        for _ in range(LOOKS):
            challenger = population.draw(images, gain - step)[0]
            counts = count_discordant((challenger, reference))
            # The rule not_worse shares its error out among two questions.
            if margin_p_value(*counts, args.images, -margin) <= WEEKLY / 2:
                gain -= step
                reference = reference if is_fixed else challenger
        gains.append(gain)
    return np.array(gains)


def simulate_class_guard(args: argparse.Namespace, loss: float, per_class: int) -> float:
    """Return the share of challengers that are rejected for one of ten classes, which has lost so much."""
    params = read_params(PARAMS).compare
    labels = np.repeat(np.arange(10), per_class)
    draws = np.random.default_rng(0).random((args.years * 5, len(labels)))
    shift = np.where(labels == 3, loss, 0.0)
    wins = np.maximum((args.discordance - shift) / 2, 0)
    pairs = zip(draws < wins, draws > 1 - wins - shift, strict=True)
    return float(np.mean([bool(find_lost_classes(pair, labels, params)) for pair in pairs]))


def simulate_added_images(own: int, added: int, discordance: float, draws: int) -> tuple[float, float]:
    """Return the shares of weekly looks that promote, before and now, for a gain on the added images only.

    The champion is right on 40% of these images and the challenger on 70%, independently of each other. On
    the data set's own images both are equally good.
    """
    generator = np.random.default_rng(0)
    before, now = 0, 0
    for _ in range(draws):
        own_counts = generator.multinomial(own, (discordance / 2, discordance / 2, 1 - discordance))[:2]
        added_counts = generator.multinomial(added, (0.7 * 0.6, 0.3 * 0.4, 0.46))[:2]
        p_all = mcnemar_exact(*(own_counts + added_counts).tolist())
        p_added = mcnemar_exact(*added_counts.tolist())
        is_safe = margin_p_value(*own_counts.tolist(), own, -MAX_LOSS) <= ERROR
        before += p_all <= DUNNETT
        now += p_all <= WEEKLY / 2 or (p_added <= WEEKLY / 2 and is_safe)
    return before / draws, now / draws


def measure(recipe: str) -> None:
    """Train a recipe with two seeds and print how many held-out images only one of them gets right."""
    params = with_overrides(read_params(PARAMS), read_recipe(recipe))
    data = load_splits(Path(params.paths.splits))
    correct = []
    for seed in range(2):
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "model.safetensors"
            config = params.train.model_copy(update={"seed": seed})
            train(Path(params.paths.splits), weights, weights.with_name("history.csv"), config)
            classifier, _ = load_classifier(weights)
        held_out = [(split.images, split.labels) for split in (data.val, data.test)]
        with torch.inference_mode():
            right = [
                classifier(batch).argmax(1).numpy() == labels.numpy()
                for images, all_labels in held_out
                for batch, labels in zip(images.split(500), all_labels.split(500), strict=True)
            ]
        correct.append(np.concatenate(right))
    accuracy, discordance = np.mean(correct), np.mean(correct[0] != correct[1])
    print(f"{recipe}: accuracy {accuracy:.1%}, discordance {discordance:.1%} of {len(correct[0]):,} images")


def print_tables(args: argparse.Namespace) -> None:
    """Print the tables of docs/promotion.md."""
    print("| challengers | each look at 5% | before | this rule |\n| --- | ---: | ---: | ---: |")
    for name, candidates, every_look in (
        ("52 trainings", 1, False),
        ("a search of 32, then 51 trainings", 32, False),
        ("52 searches of 32", 32, True),
    ):
        cells = simulate_false_years(args, candidates, every_look=every_look)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\n| validation images, added | models differ on | promoted, before | promoted, now |")
    print("| ---: | ---: | ---: | ---: |")
    for own, added, discordance in (
        (4900, 30, 0.11),
        (4900, 100, 0.11),
        (4900, 200, 0.11),
        (4900, 100, args.discordance),
        (4900, 200, args.discordance),
        (1000, 100, args.discordance),
        (1000, 200, args.discordance),
    ):
        shares = simulate_added_images(own, added, discordance, 20 * args.years)
        print(f"| {own:,} + {added} | {discordance:.0%} | {shares[0]:.0%} | {shares[1]:.0%} |", flush=True)
    print("\n| images | discordance | +1 | +2 | +3 | +5 | +10 |\n| ---: | ---: |" + " ---: |" * 5)
    for n in (100, 300, 1000, 2000, 5000):
        for discordance in (0.11, args.discordance):
            cells = [
                " → ".join(f"{compute_power(gain, n, discordance, level):.0%}" for level in (DUNNETT, WEEKLY))
                for gain in (0.01, 0.02, 0.03, 0.05, 0.1)
            ]
            print(f"| {n:,} | {discordance:.0%} | {' | '.join(cells)} |")
    print("\n| each challenger loses | margin against the last champion | against the reference |")
    print("| ---: | ---: | ---: |")
    for step in (0.001, 0.005):
        slips = [simulate_slips(args, step, 0.03, is_fixed=is_fixed) for is_fixed in (False, True)]
        cells = [f"{100 * gains.mean():+.1f} ({100 * gains.min():+.1f})" for gains in slips]
        print(f"| {100 * step:.1f} | {' | '.join(cells)} |", flush=True)
    print("\n| images per class | 0 | 5 | 10 | 15 | 20 |\n| ---: |" + " ---: |" * 5)
    for per_class in (10, 100, 500):
        losses = (0, 0.05, 0.1, 0.15, 0.2)
        cells = [f"{simulate_class_guard(args, loss, per_class):.1%}" for loss in losses]
        print(f"| {per_class} | {' | '.join(cells)} |", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--years", type=int, default=100, help="number of years that are simulated")
    parser.add_argument("--accuracy", type=float, default=0.64, help="accuracy of the first champion")
    parser.add_argument(
        "--discordance", type=float, default=0.26, help="share of the images on which two equal models differ"
    )
    parser.add_argument("--images", type=int, default=5000, help="images of the validation split")
    parser.add_argument("--measure", metavar="RECIPE", help="train this recipe twice instead")
    args = parser.parse_args(arguments)
    if args.measure:
        measure(args.measure)
    else:
        print_tables(args)


if __name__ == "__main__":
    main()
