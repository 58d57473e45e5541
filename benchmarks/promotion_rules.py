"""A year of weekly challengers, simulated: what each rule promotes by chance, and what it finds.

    python benchmarks/promotion_rules.py [--years 2000] [--discordance 0.08] [--accuracy 0.94] [--seed 0]

An image has a difficulty: the probability that a newly trained model is right about it. Given these, models
are independent, as trainings with different seeds are: two equal ones differ on `--discordance` of the
images, and a champion that was unlucky on the validation images looks weak beside every challenger, which
correlates the weeks by 1/2. A better model has a higher logit on every image. Each promoted challenger
becomes the champion; the validation images stay the same all year, as in the project. A promotion is false
where the challenger's accuracy on all images that there could be is not above the champion's.
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

from tasks.registry.sequential import allocate_look

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rule = Callable[[int, Ints, Ints], Mask]
"""given week (from 0), discordant_challenger and discordant_champion of each year: which to promote"""

WEEKS = 52
ARRIVAL = 13
"""the week, from 0, from which on there is a real gain: three quarters of the year remain to find it"""
ALPHA = 0.05
BINS = 12


class Population:
    """Images in `BINS` classes of difficulty."""

    def __init__(self, accuracy: float, discordance: float) -> None:
        middles = (np.arange(BINS) + 0.5) / BINS

        def spread(size: float) -> Floats:
            raw = logit(beta.ppf(middles, accuracy * size, (1 - accuracy) * size).clip(1e-9, 1 - 1e-9))
            shift = brentq(lambda by: expit(raw + by).mean() - accuracy, -20, 20)
            return raw + shift

        def excess(size: float) -> float:
            right = expit(spread(size))
            return float((2 * right * (1 - right)).mean() - discordance)

        self.logits = spread(brentq(excess, 0.05, 200))
        steps = np.linspace(-5, 5, 4001)
        self._gains = expit(self.logits + steps[:, None]).mean(1) - accuracy
        self._steps = steps

    def right(self, gain: Floats) -> Floats:
        """Probabilities `(years, BINS)` of models that are better by `gain` `(years,)`."""
        return expit(self.logits + np.interp(gain, self._gains, self._steps)[:, None])


@dataclass
class Year:
    """What happened in each simulated year."""

    false: Ints
    gain: Floats
    """true accuracy of the last champion less the first one's"""
    optimism: Floats
    """the last champion's accuracy on validation less its true one"""
    found: Floats
    """number of the look, from 1 at the arrival of a real gain, that promotes it; infinite where none does"""


def simulate(
    rule: Rule, gains: Floats, population: Population, n: int, generator: np.random.Generator
) -> Year:
    """Let challengers of true `gains` `(years, WEEKS)` over the first champion come, one per week."""
    years = len(gains)
    sizes = generator.multinomial(n, np.full(BINS, 1 / BINS), years)
    champion_gain = np.zeros(years)
    champion = generator.binomial(sizes, population.right(champion_gain))  # right, per class of difficulty
    false, found = np.zeros(years, np.int64), np.full(years, np.inf)
    for week in range(WEEKS):
        right = population.right(gains[:, week])
        both = generator.binomial(champion, right)
        alone = generator.binomial(sizes - champion, right)
        promoted = rule(week, alone.sum(1), (champion - both).sum(1))
        better = gains[:, week] > champion_gain + 1e-12
        false += promoted & ~better
        found = np.where(promoted & better & np.isinf(found), week - ARRIVAL + 1, found)
        champion = np.where(promoted[:, None], both + alone, champion)
        champion_gain = np.where(promoted, gains[:, week], champion_gain)
    truth = population.right(champion_gain).mean(1)
    return Year(false, champion_gain, champion.sum(1) / n - truth, found)


def p_values(better: Ints, worse: Ints) -> Floats:
    return binom.sf(better - 1, better + worse, 0.5)


def log_e_values(better: Ints, worse: Ints) -> Floats:
    """Bets on the challenger at each discordant pair, mixed over chances of winning from 1/2 to 2/3."""
    low, high = (betainc(better + 1, worse + 1, chance) for chance in (1 / 2, 2 / 3))
    mixed = np.log(np.maximum(high - low, 1e-300) * 6) + betaln(better + 1, worse + 1)
    return np.asarray(mixed + (better + worse) * np.log(2))


def levels(alphas: Floats) -> Rule:
    return lambda week, better, worse: p_values(better, worse) <= alphas[week]


def rolling_levels() -> Floats:
    """Of the project's rule, in the second year of weekly looks: the first begins with a full budget."""
    start = dt.datetime(2026, 1, 5, 3, tzinfo=dt.UTC)
    times = [start + dt.timedelta(weeks=week) for week in range(2 * WEEKS)]
    looks = [allocate_look(times[:i], times[i], 1 - ALPHA) for i in range(WEEKS, 2 * WEEKS)]
    return np.array([look.threshold for look in looks])


def e_lond(years: int) -> Rule:
    """Xu and Ramdas (2024): promote where e * alpha * (promotions so far + 1) / WEEKS is 1 or more."""
    promotions = np.zeros(years)

    def rule(_: int, better: Ints, worse: Ints) -> Mask:
        promoted = log_e_values(better, worse) >= np.log(WEEKS / ALPHA / (promotions + 1))
        promotions[promoted] += 1
        return np.asarray(promoted)

    return rule


def e_process(years: int) -> Rule:
    """Wealth carried from one challenger to the next until one is promoted, on the same images always."""
    wealth = np.zeros(years)

    def rule(_: int, better: Ints, worse: Ints) -> Mask:
        np.add(wealth, log_e_values(better, worse), out=wealth)
        promoted = (wealth >= np.log(1 / ALPHA)) & (better > worse)
        wealth[promoted] = 0
        return np.asarray(promoted)

    return rule


def ladder(n: int, step: float | None) -> Rule:
    """Blum and Hardt (2015): a new best by a fixed step or, without parameter, by one standard error."""

    def rule(_: int, better: Ints, worse: Ints) -> Mask:
        gain = (better - worse) / n
        return np.asarray(gain > (np.sqrt(((better + worse) / n - gain**2) / n) if step is None else step))

    return rule


def make_rules(years: int, n: int) -> dict[str, Rule]:
    weeks = np.arange(1, WEEKS + 1)
    return {
        "every look at 5% (before)": levels(np.full(WEEKS, ALPHA)),
        "Ladder, parameter-free": ladder(n, None),
        "Ladder, step 1 point": ladder(n, 0.01),
        "e-process over all challengers": e_process(years),
        "e-value per challenger, e-LOND": e_lond(years),
        "spending 5% as 6/(π²k²)": levels(ALPHA * 6 / np.pi**2 / weeks**2),
        "Bonferroni, 5%/52": levels(np.full(WEEKS, ALPHA / WEEKS)),
        "**Dunnett, rolling year**": levels(rolling_levels()),
    }


def make_scenarios(years: int, generator: np.random.Generator) -> dict[str, Floats]:
    """True gains over the first champion, `(years, WEEKS)`."""
    equal = np.zeros((years, WEEKS))
    scenarios = {"equal": equal, "worse": equal - 0.005}
    for gain in (0.005, 0.01, 0.02):
        one, all_after = equal.copy(), equal.copy()
        one[:, ARRIVAL] = gain
        all_after[:, ARRIVAL:] = gain
        scenarios |= {f"one +{gain:.1%}": one, f"all +{gain:.1%}": all_after}
    steps = equal + 0.02 * (np.arange(WEEKS) // ARRIVAL)
    return scenarios | {"steps": steps, "varied": generator.normal(0, 0.005, (years, WEEKS))}


def make_row(name: str, results: dict[str, Year]) -> str:
    cells = [f"{results[scenario].false.mean():.3f}" for scenario in ("equal", "worse", "steps", "varied")]
    gains = ("0.5%", "1.0%", "2.0%")
    cells += [f"{np.isfinite(results[f'one +{gain}'].found).mean():.0%}" for gain in gains]
    for gain in gains:
        found = results[f"all +{gain}"].found
        median = np.median(found)
        looks = f", {median:.0f}" if np.isfinite(median) else ""
        cells.append(f"{np.isfinite(found).mean():.0%}{looks}")
    cells += [f"{100 * results[scenario].gain.mean():+.2f}" for scenario in ("worse", "varied")]
    cells += [f"{100 * results['equal'].optimism.mean():+.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--years", type=int, default=2000, help="simulated per rule and scenario; 2000")
    parser.add_argument("--discordance", type=float, default=0.08, help="of two equal models; 0.08")
    parser.add_argument("--accuracy", type=float, default=0.94, help="of the first champion; 0.94")
    parser.add_argument("--images", type=int, default=5000, help="of the validation split; 5000")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    population = Population(chosen.accuracy, chosen.discordance)
    print(HEADER)
    scenarios = make_scenarios(chosen.years, np.random.default_rng(chosen.seed))
    for name in make_rules(chosen.years, chosen.images):
        results = {}
        for scenario, gains in scenarios.items():
            rule = make_rules(chosen.years, chosen.images)[name]
            generator = np.random.default_rng(chosen.seed + 1)
            results[scenario] = simulate(rule, gains, population, chosen.images, generator)
        print(make_row(name, results), flush=True)


HEADER = """\
| rule | false/year: equal | worse by 0.5 | steps | varied | one +0.5 | one +1 | one +2 | \
all +0.5 | all +1 | all +2 | accuracy: worse | varied | optimism |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""

if __name__ == "__main__":
    main()
