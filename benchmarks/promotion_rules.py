"""Simulate years of challengers: what each rule promotes by chance, what it finds, and how soon.

    python benchmarks/promotion_rules.py [--years 1000] [--looks 52] [--accuracy 0.9] [--discordance 0.11]

A look is a comparison of a challenger with the champion. An image has a difficulty: the probability that a
newly trained model is right about it. Given the difficulties, models are independent, as trainings with
different seeds are: two equal ones differ on `--discordance` of the images, and a champion that was unlucky
on the validation images looks weak beside every challenger, which correlates the looks by 1/2. A better model
has a higher logit on every image. Each promoted challenger becomes the champion; the validation images stay
the same all year. A promotion is false where the challenger's accuracy on the whole population of images is
not above the champion's.
"""

import argparse
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaln, expit, logit
from scipy.stats import beta, binom

from tasks.registry.sequential import YEAR_DAYS, allocate_look

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rule = Callable[[int, Ints, Ints], Mask]
"""function from look (from 0 on), discordant_challenger and discordant_champion `(years,)` to promotions"""

ALPHA = 0.05
BINS = 12
QUARTERS = 4
"""number of quarters of a year; a real gain arrives after the first"""


class Population:
    """A population of images in `BINS` classes of difficulty."""

    def __init__(self, accuracy: float, discordance: float) -> None:
        # Difficulties follow a beta distribution with the mean `accuracy`, by its quantiles. Its size, which
        # sets the spread, is the one at which two equal models differ on the share `discordance` of the
        # images.
        middles = (np.arange(BINS) + 0.5) / BINS

        def spread(size: float) -> Floats:
            # A few quantiles miss the mean slightly, so all logits are shifted until it is right.
            raw = logit(beta.ppf(middles, accuracy * size, (1 - accuracy) * size).clip(1e-9, 1 - 1e-9))
            shift = brentq(lambda by: expit(raw + by).mean() - accuracy, -20, 20)
            return np.asarray(raw + shift)

        def excess(size: float) -> float:
            correct = expit(spread(size))
            return float((2 * correct * (1 - correct)).mean() - discordance)

        self.logits = spread(brentq(excess, 0.05, 200))
        # A table from shifts of all logits to gains of accuracy, which `correct` reads backwards.
        self._steps = np.linspace(-5, 5, 4001)
        self._gains = expit(self.logits + self._steps[:, None]).mean(1) - accuracy

    def correct(self, gain: Floats) -> Floats:
        """Return the probabilities `(years, BINS)` that models with a `gain` `(years,)` are correct."""
        return np.asarray(expit(self.logits + np.interp(gain, self._gains, self._steps)[:, None]))


@dataclass
class Outcome:
    """The results of the simulated years, each `(years,)`."""

    false: Ints
    """number of false promotions"""
    gain: Floats
    """true accuracy of the last champion minus that of the first"""
    optimism: Floats
    """accuracy of the last champion on validation minus its true accuracy"""
    found: Floats
    """number of looks from the arrival of a real gain up to its promotion; infinite where there is none"""


def simulate(
    rule: Rule, gains: Floats, population: Population, n: int, generator: np.random.Generator
) -> Outcome:
    """Compare one challenger per look, of true `gains` `(years, looks)` over the first champion.

    All comparisons are on the same `n` validation images.
    """
    years, looks = gains.shape
    sizes = generator.multinomial(n, np.full(BINS, 1 / BINS), years)
    champion_gain = np.zeros(years)
    # The number of images that the champion classifies correctly, by difficulty, is all that has to be known.
    champion = generator.binomial(sizes, population.correct(champion_gain))
    false, found = np.zeros(years, np.int64), np.full(years, np.inf)
    for look in range(looks):
        correct = population.correct(gains[:, look])
        # A challenger is right independently of the champion, given the difficulty of an image.
        both = generator.binomial(champion, correct)
        challenger_only = generator.binomial(sizes - champion, correct)
        promoted = rule(look, challenger_only.sum(1), (champion - both).sum(1))
        better = gains[:, look] > champion_gain + 1e-12
        false += promoted & ~better
        found = np.where(promoted & better & np.isinf(found), look - looks // QUARTERS + 1, found)
        champion = np.where(promoted[:, None], both + challenger_only, champion)
        champion_gain = np.where(promoted, gains[:, look], champion_gain)
    truth = population.correct(champion_gain).mean(1)
    return Outcome(false, champion_gain, champion.sum(1) / n - truth, found)


def log_e_values(better: Ints, worse: Ints) -> Floats:
    """Return log e-values of bets on the challenger at each discordant image, `(years,)`.

    The bets are a mixture over the challenger's chances of winning from 1/2 to 2/3.
    """
    low, high = (betainc(better + 1, worse + 1, chance) for chance in (1 / 2, 2 / 3))
    mixed = np.log(np.maximum(high - low, 1e-300) * 6) + betaln(better + 1, worse + 1)
    return np.asarray(mixed + (better + worse) * np.log(2))


def test_at(levels: Floats) -> Rule:
    """Return the rule that applies McNemar's exact test with the level of each look."""
    return lambda look, better, worse: np.asarray(
        binom.sf(better - 1, better + worse, 0.5) <= levels[look], bool
    )


def project_levels(looks: int) -> Floats:
    """Return the levels of the project's rule for a year of looks at a steady pace.

    It is the second year, since the first one begins with a full budget.
    """
    start = dt.datetime(2026, 1, 5, 3, tzinfo=dt.UTC)
    times = [start + dt.timedelta(days=YEAR_DAYS * look / looks) for look in range(2 * looks)]
    allocated = [allocate_look(times[:i], times[i], 1 - ALPHA) for i in range(looks, 2 * looks)]
    return np.array([look.threshold for look in allocated])


def e_lond(years: int, looks: int) -> Rule:
    """Return the rule e-LOND of Xu and Ramdas (2024).

    It promotes where e * alpha * (promotions so far + 1) / looks is 1 or more.
    """
    promotions = np.zeros(years)

    def rule(_: int, better: Ints, worse: Ints) -> Mask:
        promoted = log_e_values(better, worse) >= np.log(looks / ALPHA / (promotions + 1))
        promotions[promoted] += 1
        return np.asarray(promoted)

    return rule


def e_process(years: int) -> Rule:
    """Return the rule that carries its wealth from challenger to challenger until one is promoted.

    All challengers are compared on the same images.
    """
    wealth = np.zeros(years)

    def rule(_: int, better: Ints, worse: Ints) -> Mask:
        np.add(wealth, log_e_values(better, worse), out=wealth)
        promoted = (wealth >= np.log(1 / ALPHA)) & (better > worse)
        wealth[promoted] = 0
        return np.asarray(promoted)

    return rule


def ladder(n: int, step: float | None) -> Rule:
    """Return the Ladder of Blum and Hardt (2015), which promotes a gain of more than `step`.

    Without a step, it is parameter-free: the gain has to be more than one standard error.
    """

    def rule(_: int, better: Ints, worse: Ints) -> Mask:
        gain = (better - worse) / n
        return np.asarray(gain > (np.sqrt(((better + worse) / n - gain**2) / n) if step is None else step))

    return rule


def make_rules(years: int, n: int, levels: Floats) -> dict[str, Rule]:
    """Make all rules; each scenario needs new ones, since some have a state.

    `levels` `(looks,)` are those of the project's rule.
    """
    looks = len(levels)
    numbers = np.arange(1, looks + 1)
    return {
        "every look at 5%": test_at(np.full(looks, ALPHA)),
        "Ladder, parameter-free": ladder(n, None),
        "Ladder, step 1 point": ladder(n, 0.01),
        "betting e-process over all challengers": e_process(years),
        "e-value per challenger, e-LOND": e_lond(years, looks),
        "alpha spending, 6/(π²k²) of 5% at look k": test_at(ALPHA * 6 / np.pi**2 / numbers**2),
        "alpha spending, equal shares (Bonferroni)": test_at(np.full(looks, ALPHA / looks)),
        "**Dunnett, budget of days (the project's)**": test_at(levels),
    }


def make_scenarios(years: int, looks: int, generator: np.random.Generator) -> dict[str, Floats]:
    """Make the scenarios: true gains over the first champion, `(years, looks)`, by name."""
    equal, arrival = np.zeros((years, looks)), looks // QUARTERS
    scenarios = {"equal": equal, "worse": equal - 0.005}
    for gain in (0.005, 0.01, 0.02):
        one, all_after = equal.copy(), equal.copy()
        one[:, arrival] = gain
        all_after[:, arrival:] = gain
        scenarios |= {f"one {gain}": one, f"all {gain}": all_after}
    steps = equal + 0.02 * (np.arange(looks) // arrival)
    return scenarios | {"steps": steps, "varied": generator.normal(0, 0.005, (years, looks))}


def make_row(name: str, outcomes: dict[str, Outcome]) -> str:
    """Return a row of the table, in the order of `HEADER`, from the outcomes of the scenarios."""
    cells = [f"{(outcomes[scenario].false > 0).mean():.1%}" for scenario in ("equal", "worse", "steps")]
    gains = (0.005, 0.01, 0.02)
    cells += [f"{np.isfinite(outcomes[f'one {gain}'].found).mean():.0%}" for gain in gains]
    for gain in gains:
        found = outcomes[f"all {gain}"].found
        median = np.median(found)
        looks = f", {median:.0f}" if np.isfinite(median) else ""
        cells.append(f"{np.isfinite(found).mean():.0%}{looks}")
    cells += [f"{100 * outcomes[scenario].gain.mean():+.2f}" for scenario in ("worse", "varied")]
    cells += [f"{100 * outcomes['equal'].optimism.mean():+.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


HEADER = """\
| rule | false: equal | worse by 0.5 | steps of 2 | one +0.5 | one +1 | one +2 | all +0.5 | all +1 | \
all +2 | drift: worse | varied | optimism |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--years", type=int, default=1000, help="years simulated per rule and scenario")
    parser.add_argument("--looks", type=int, default=52, help="looks per year")
    parser.add_argument(
        "--discordance", type=float, default=0.11, help="share of the images on which two equal models differ"
    )
    parser.add_argument("--accuracy", type=float, default=0.9, help="accuracy of the first champion")
    parser.add_argument("--images", type=int, default=5000, help="images of the validation split")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    population = Population(args.accuracy, args.discordance)
    scenarios = make_scenarios(args.years, args.looks, np.random.default_rng(args.seed))
    levels = project_levels(args.looks)
    print(HEADER)
    for name in make_rules(args.years, args.images, levels):
        outcomes = {}
        for scenario, gains in scenarios.items():
            rule = make_rules(args.years, args.images, levels)[name]
            generator = np.random.default_rng(args.seed + 1)
            outcomes[scenario] = simulate(rule, gains, population, args.images, generator)
        print(make_row(name, outcomes), flush=True)


if __name__ == "__main__":
    main()
