from pathlib import Path

from tasks.inference import read_model
from tasks.params import Params


def test_it_is_a_model_of_this_pipeline(small_run: Params) -> None:
    read_model(Path(small_run.paths.int8_model))
