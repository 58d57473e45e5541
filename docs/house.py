"""Count the figures that CONTRIBUTING names: `python docs/house.py`, in the project's root.

A line of code is neither blank nor a comment nor part of a docstring. The closure of a stage is its own file
and every module of the project that its imports reach.
"""

import ast
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

from tasks.stages import STAGES
from tasks.workspace.code import import_closure

TOP = ("flows", "tasks", "models")
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
}
MAIN_PATH = [Path("flows/pipeline.py"), *(Path("tasks", f"{stage}.py") for stage in STAGES)]


def list_modules() -> list[Path]:
    return sorted(path for top in TOP for path in Path(top).rglob("*.py"))


def count_code_lines(module: Path) -> int:
    """Count the lines that hold a token which is not a comment, without those of docstrings."""
    with module.open("rb") as source:
        tokens = [token for token in tokenize.tokenize(source.readline) if token.type not in LAYOUT]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1) if token.string}
    tree = ast.parse(module.read_bytes())
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def list_functions(module: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the length in lines and the number of parameters of each function."""
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len(arguments) - bool(arguments and arguments[0].arg in {"self", "cls"})
            yield (
                f"{module}:{node.lineno} {node.name}",
                (node.end_lineno or node.lineno) - node.lineno + 1,
                count,
            )


def main() -> None:
    modules = list_modules()
    functions = [function for module in modules for function in list_functions(module)]
    rooms = Counter(module.parent for module in modules if module.name != "__init__.py")
    print(f"Python files in flows, tasks and models: {len(modules)}")
    print(f"lines of code: {sum(count_code_lines(module) for module in modules)}")
    lines = sum(len(module.read_text(encoding="utf-8").splitlines()) for module in MAIN_PATH)
    print(f"lines of the pipeline and its stages: {lines}")
    for stage in STAGES:
        print(f"modules in the closure of {stage}: {len(import_closure(stage))}")
    print("modules per package:", ", ".join(f"{room} {n}" for room, n in rooms.most_common(8)))
    for name, length, parameters in functions:
        if length > 60 or parameters > 8:
            print(f"{name}: {length} lines, {parameters} parameters")


if __name__ == "__main__":
    main()
