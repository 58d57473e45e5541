import onnx
import pytest
from onnx import helper

from tasks.onnx.onnx_model import MIN_OPSET, resolve_opset
from tasks.workspace.errors import InputError


def test_resolve_opset_auto_is_the_lowest() -> None:
    assert resolve_opset("auto") == MIN_OPSET
    assert resolve_opset(17) == 17


@pytest.mark.parametrize("opset", [1, 12, 99])
def test_resolve_opset_out_of_range_raises(opset: int) -> None:
    highest = onnx.defs.onnx_opset_version()
    with pytest.raises(InputError, match=rf"export\.opset {opset} is not supported; 13 to {highest} are"):
        resolve_opset(opset)


def test_min_opset_is_what_the_operators_need() -> None:
    """DequantizeLinear has one scale per channel (attribute `axis`) from 13 on."""
    assert "axis" in onnx.defs.get_schema("DequantizeLinear", MIN_OPSET).attributes
    assert "axis" not in onnx.defs.get_schema("DequantizeLinear", MIN_OPSET - 1).attributes
    assert helper.find_min_ir_version_for([helper.make_opsetid("", MIN_OPSET)]) == 7
