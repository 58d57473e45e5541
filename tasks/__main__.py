"""`python -m tasks STAGE` runs one stage without Prefect and DVC; `dvc repro` calls it for each stage."""

import sys
from pathlib import Path

try:
    from tasks.params import read_params
    from tasks.processes import exit_with_parent, interrupt_on_termination, normalize_environment
    from tasks.stages import STAGES, run_stage
    from tasks.streams import repair_standard_streams
    from tasks.workspace.code import require_same_code
    from tasks.workspace.errors import InputError, RunError, describe_syntax_error
except ModuleNotFoundError as missing:
    sys.exit(
        f"{sys.executable} has no {missing.name}; activate the project's environment: . .venv/bin/activate"
    )
except SyntaxError as error:
    sys.exit(f"{error.filename}, line {error.lineno}: {error.msg}")


def main(arguments: list[str]) -> int:
    """Run the stage that `arguments` names; return 0, 1 if it failed, 2 for wrong input, 130 for Ctrl-C."""
    if len(arguments) != 1 or arguments[0] not in STAGES:
        print(f"usage: python -m tasks STAGE, where STAGE is one of {', '.join(STAGES)}", file=sys.stderr)
        return InputError.exit_code
    interrupt_on_termination()
    exit_with_parent()
    try:
        normalize_environment()
        require_same_code(arguments[:1])
        run_stage(arguments[0], read_params(Path("params.yaml")))
    except RunError as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return error.exit_code
    except SyntaxError as error:
        print(f"{arguments[0]}: {describe_syntax_error(error)}", file=sys.stderr)
        return RunError.exit_code
    except KeyboardInterrupt:
        print(f"{arguments[0]}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    repair_standard_streams()
    sys.exit(main(sys.argv[1:]))
