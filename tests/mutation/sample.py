"""Draw a seeded sample of mutants of the modules that decide, measure and split, as JSON on standard output.

Cosmic Ray makes the mutants. `make mutants` runs this file in an environment of Cosmic Ray's own, and pipes
the sample to `tests/mutation/run.py`.
"""

import argparse
import ast
import json
import random
import sys
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

if TYPE_CHECKING:
    from cosmic_ray.work_item import MutationSpec

TESTS = {
    "tasks/split.py": "test_split*.py",
    "tasks/evaluate.py": "test_evaluate*.py",
    "tasks/quantize.py": "test_quantize*.py",
    "tasks/benchmarking/backend_process.py": "test_backend_process*.py",
    "tasks/benchmarking/scenarios.py": "test_scenarios*.py",
    "tasks/confidence/answers.py": "test_answers*.py",
    "tasks/drift/shift.py": "test_shift*.py",
    "tasks/onnx/qdq.py": "test_qdq*.py",
    "tasks/registry/compare.py": "test_compare*.py",
    "tasks/registry/earlier_models.py": "test_earlier_models*.py",
    "tasks/registry/evidence.py": "test_compare*.py test_evidence*.py",
    "tasks/registry/ledger.py": "test_ledger*.py",
    "tasks/registry/ledger_lines.py": "test_ledger*.py",
    "tasks/registry/selection.py": "test_selection*.py",
    "tasks/registry/sensitivity.py": "test_sensitivity*.py",
    "tasks/registry/significance.py": "test_significance*.py",
    "tasks/training/loader.py": "test_loader*.py",
    "tasks/training/metrics.py": "test_metrics*.py",
    "tasks/training/trainer.py": "test_trainer*.py",
}
"""what decides, measures and splits, and its tests in the folder of tests/ that mirrors the module's"""

LEFT_OUT = ("*_Is", "*_IsNot", "*_RShift", "*_LShift", "*_BitXor", "*_BitAnd", "*Binary*_BitOr")
"""operators of Cosmic Ray: `is` for `==` changes nothing or fails at once, as do bit operations on numbers"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", action="append", choices=TESTS, help="only this one; may be repeated")
    args = parser.parse_args()
    mutants = draw_sample(args.module or list(TESTS), args.count, args.seed)
    json.dump(mutants, sys.stdout)


def draw_sample(modules: list[str], count: int, seed: int) -> list[dict[str, object]]:
    """Draw places in the code, and one of the mutants of each, so that a `*` counts as often as a `not`."""
    places: dict[tuple[str, tuple[int, int]], list[MutationSpec]] = defaultdict(list)
    for item in _all_work_items(map(Path, modules), {}):
        (mutation,) = item.mutations
        if not any(fnmatch(mutation.operator_name, pattern) for pattern in LEFT_OUT):
            places[str(mutation.module_path), mutation.start_pos].append(mutation)
    generator = random.Random(seed)
    order = sorted(places)
    generator.shuffle(order)
    mutants: list[dict[str, object]] = []
    for place in order:
        if len(mutants) == count:
            break
        mutation = generator.choice(places[place])
        source = Path(mutation.module_path).read_text(encoding="utf-8")
        operator = get_operator(mutation.operator_name)(**mutation.operator_args)
        mutated = mutate_code(source, operator, mutation.occurrence)
        folder = Path("tests", Path(mutation.module_path).parent)
        if mutated and dump_code(mutated) not in {"", dump_code(source)}:
            mutants.append(
                {
                    "module": str(mutation.module_path),
                    "function": mutation.definition_name or "the module",
                    "line": mutation.start_pos[0],
                    "tests": " ".join(str(folder / pattern) for pattern in TESTS[place[0]].split()),
                    "code": mutated,
                }
            )
    return mutants


def dump_code(source: str) -> str:
    """Dump the syntax tree without annotations, which no test can notice; empty if it is not Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, ast.Constant(None))
    return ast.dump(tree)


if __name__ == "__main__":
    main()
