import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from tasks.params import CompareConfig, Params
from tasks.registry.compare import Decision, bonett_price_interval, compare, mcnemar_exact

OPTIONS = CompareConfig(confidence=0.95, margin=0.0, max_latency_ratio=100.0, parity_atol=1e-5)
EQUAL = {"max_abs_diff": 1e-6, "argmax_agreement": 1.0}


@pytest.fixture
def worse(small_run: Params, tmp_path: Path) -> Path:
    """A champion that mistakes some classes: the last layer's bias favors one."""
    model = onnx.load(small_run.paths.onnx_model)
    for tensor in model.graph.initializer:
        if tensor.name == "fc3.bias":
            bias = numpy_helper.to_array(tensor).copy()
            bias[0] += 3
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    onnx.save(model, tmp_path / "worse.onnx")
    return tmp_path / "worse.onnx"


@pytest.fixture
def judge(small_run: Params) -> Callable[..., Decision]:
    def judge(challenger: Path | None, champion: Path | None, **changes: Any) -> Decision:
        ours = Path(small_run.paths.onnx_model)
        given = {key: changes.pop(key) for key in ("parity", "champion_val_sha256") if key in changes}
        return compare(
            challenger or ours,
            champion,
            Path(small_run.paths.splits),
            given.get("parity", EQUAL),
            OPTIONS.model_copy(update=changes),
            champion_val_sha256=given.get("champion_val_sha256"),
        )

    return judge


def test_the_first_model_is_promoted(judge: Callable[..., Decision]) -> None:
    decision = judge(None, None)
    assert (decision.promote, decision.reason) == (True, "the first model")
    assert decision.evidence.accuracy_gain is None


def test_a_gain_is_promoted_and_a_loss_is_not(judge: Callable[..., Decision], worse: Path) -> None:
    decision = judge(None, worse)
    found = decision.evidence
    assert decision.promote, decision.reason
    assert found.accuracy_gain is not None
    assert found.champion_val_accuracy is not None
    assert found.accuracy_gain == pytest.approx(found.challenger_val_accuracy - found.champion_val_accuracy)
    assert found.gain_interval is not None
    assert found.gain_interval[0] < found.accuracy_gain < found.gain_interval[1]
    back = judge(worse, Path(worse))
    assert (back.promote, back.evidence.accuracy_gain) == (False, 0)
    assert back.evidence.p_value == 1


def test_objections(judge: Callable[..., Decision], worse: Path, small_run: Params) -> None:
    ours = Path(small_run.paths.onnx_model)
    assert "on validation, and a gain is asked for" in judge(worse, ours).reason
    gain = judge(None, worse).evidence.accuracy_gain
    assert gain is not None
    assert f"{gain + 0.01:.2%} or more is asked for" in judge(None, worse, margin=gain + 0.01).reason
    assert "may be chance" in judge(None, worse, confidence=1 - 1e-300).reason
    assert "times as long as the champion" in judge(None, worse, max_latency_ratio=1e-6).reason
    assert "is another than the champion's" in judge(None, worse, champion_val_sha256="0" * 64).reason
    assert (
        "is not PyTorch's" in judge(None, None, parity={"max_abs_diff": 0.0, "argmax_agreement": 0.9}).reason
    )
    for decision in (judge(None, worse, margin=0.9), judge(None, worse, parity=EQUAL | {"max_abs_diff": 1})):
        assert not decision.promote


def test_the_test_split_takes_no_part(judge: Callable[..., Decision], worse: Path, small_run: Params) -> None:
    """Worse on test alone changes nothing: the decision is the same as on other test images."""
    from tasks.workspace.splits import load_tensors, save_tensors

    tensors, about = load_tensors(Path(small_run.paths.splits))
    tensors["test_labels"] = (tensors["test_labels"] + 1) % 10
    other = worse.with_name("splits")
    save_tensors(other, tensors, about)
    decision = compare(Path(small_run.paths.onnx_model), worse, other, EQUAL, OPTIONS)
    assert decision.promote
    assert decision.reason == judge(None, worse).reason
    assert decision.evidence.challenger_test_accuracy < 0.3


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_tail(better: int, worse: int) -> None:
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(better, n + 1)) / 2**n
    assert mcnemar_exact(better, worse) == pytest.approx(tail)


def test_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    p12, p21, n, hits, trials = 0.06, 0.04, 1000, 0, 2000
    for _ in range(trials):
        better, worse, _ = random.multinomial(n, [p12, p21, 1 - p12 - p21])
        low, high = bonett_price_interval(int(better), int(worse), n, 0.95)
        hits += low <= p12 - p21 <= high
    assert 0.935 < hits / trials < 0.965
