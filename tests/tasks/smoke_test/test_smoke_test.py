from pathlib import Path

import numpy as np
import pytest

from tasks.inference.onnx_classifier import load_model
from tasks.params import Params
from tasks.smoke_test import smoke_test
from tasks.smoke_test.smoke_test import ask, find_problem, generate_images


def test_models_that_answer_as_before_have_no_problem(small_run: Params) -> None:
    files = Path(small_run.paths.onnx_model), Path(small_run.paths.int8_model)
    answers = {file: ask(load_model(file)) for file in files}
    for of_model in answers.values():
        assert len(of_model) == 16
        assert len({probability for _, probability in of_model}) > 4, "the images tell models apart"
    assert find_problem(answers) == ""
    assert find_problem({files[0]: ()}) == "", "an earlier version recorded no answers"


def test_other_answers_are_a_problem(small_run: Params) -> None:
    model = Path(small_run.paths.onnx_model)
    answers = ask(load_model(model))
    answers[3] = (answers[3][0], answers[3][1] - 0.02)
    problem = find_problem({model: answers})
    assert problem.endswith("differ by up to 0.02 (allowed: 0.01)")
    assert problem.startswith(f"{model} answers otherwise than when it was compared")


def test_file_that_cannot_be_loaded_is_a_problem_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "champion.onnx"
    file.write_bytes(b"no model")
    problem = find_problem({file: ()})
    assert problem.startswith(
        f"the process that uses {file} failed with exit code 1: {file} cannot be loaded"
    )
    assert "\n" not in problem


def test_process_that_does_not_answer_is_ended(small_run: Params) -> None:
    model = Path(small_run.paths.onnx_model)
    assert find_problem({model: ()}, timeout_s=0.01) == f"{model} has not answered within 0.01 s"


@pytest.mark.parametrize(
    ("measured", "problem"),
    [
        ({"latency_ms": 1000.0, "memory_mb": 4000.0}, ""),
        ({"latency_ms": 1001.0}, "model takes 1,001 ms for an image (allowed: 1,000)"),
        ({"memory_mb": 4001.0}, "model takes 4,001 MB of memory (allowed: 4,000)"),
        ({"probabilities": [[0.0, float("nan")]]}, "model answers with numbers that are no probabilities"),
        ({"probabilities": [[0.0, 0.98]]}, "model answers otherwise than when it was compared"),
    ],
)
def test_limits(measured: dict[str, object], problem: str) -> None:
    used = {"probabilities": [[0.0, 1.0]], "latency_ms": 1.0, "memory_mb": 100.0, **measured}
    found = smoke_test._judge(Path("model"), used, [(1, 1.0)])
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_generated_images_are_the_same_everywhere_and_of_any_size() -> None:
    images = generate_images(30)
    assert images.shape == (16, 30, 30, 3)
    assert images.dtype == np.uint8
    assert images[0, 0, 0].tolist() == images[0, 7, 7].tolist() == [95, 130, 194]
    assert images[15, 29, 29].tolist() == [185, 11, 245]
    np.testing.assert_array_equal(images, generate_images(30))
