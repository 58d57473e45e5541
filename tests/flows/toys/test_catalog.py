"""The list of toys: what each entry stands for, and that listing them is cheap."""

import inspect
import subprocess
import sys
from importlib import import_module

import pytest
from prefect.utilities.callables import parameter_schema

from flows.toys.catalog import TOYS, load_flow, validate_name
from tasks.workspace.errors import InputError
from tests.conftest import ROOT

SHARED = {"__init__", "base", "catalog"}


def test_toy_name_is_used_consistently() -> None:
    """A toy's module, deployment and test have its name."""
    assert {file.stem for file in (ROOT / "flows" / "toys").glob("*.py")} == {*TOYS, *SHARED}
    prefect_yaml = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    for name in TOYS:
        assert (ROOT / "tests" / "flows" / "toys" / f"test_{name}.py").is_file()
        assert f"entrypoint: flows/toys/{name}.py:{name}\n" in prefect_yaml
        assert f"    {name}.fn()\n" in (ROOT / "flows" / "toys" / f"{name}.py").read_text(encoding="utf-8")


def test_docs_explain_a_toy_and_show_its_figure() -> None:
    figures = {file.stem for file in (ROOT / "reports" / "toys").glob("*.svg")}
    text = (ROOT / "docs" / "toys.md").read_text(encoding="utf-8")
    sections = {section.split("\n", 1)[0]: section for section in text.split("\n## ")[1:]}
    assert sections.keys() == figures
    assert sections.keys() <= TOYS.keys()
    for name, section in sections.items():
        assert f"../reports/toys/{name}.svg" in section
    for name in TOYS:
        assert import_module(f"flows.toys.{name}").__doc__, "what docs/toys.md would say in short"


@pytest.mark.parametrize("name", TOYS)
def test_toy_flow_schema_has_defaults_and_descriptions(name: str) -> None:
    flow = load_flow(name)
    assert flow.name == name
    schema = parameter_schema(flow).properties
    assert schema.keys() == inspect.signature(flow.fn).parameters.keys()
    for key, field in schema.items():
        assert "default" in field, key
        assert field["description"], key
        assert field["type"] in {"number", "integer", "string", "array"}, "nothing untyped"


def test_toy_docstring_describes_no_unknown_parameter() -> None:
    for name in TOYS:
        flow = load_flow(name)
        documented = (inspect.getdoc(flow.fn) or "").partition("Args:\n")[2]
        described = [line.split(":")[0].strip() for line in documented.splitlines() if ":" in line]
        assert described == list(inspect.signature(flow.fn).parameters), name


def test_validate_name_unknown_toy_raises_with_suggestion() -> None:
    assert validate_name("fit") == "fit"
    with pytest.raises(InputError, match=r"^unknown toy newron; did you mean neuron\?$"):
        validate_name("newron")
    with pytest.raises(InputError, match=rf"^unknown toy x; choose one of {', '.join(TOYS)}, all$"):
        validate_name("x")


def test_list_of_toys_imports_nothing_heavy() -> None:
    program = "import sys; from flows.toys.catalog import TOYS; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "prefect", "dvc", "matplotlib"} & set(result.stdout.split())
