"""Every name that `params.yaml` may give is a data set, and its object says what it is."""

from pathlib import Path
from typing import get_args

import pytest

from tasks.dataset.catalog import DatasetName, open_dataset
from tasks.params import DownloadConfig

NAMES = get_args(DatasetName)


@pytest.mark.parametrize("name", NAMES)
def test_open_dataset_knows_every_name_that_params_allow(name: str) -> None:
    assert open_dataset(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_set_names_its_sources(name: str, tmp_path: Path) -> None:
    """`download.sources` and the like are keys of params.yaml; a typing error would show in no other test."""
    missing = open_dataset(name).find_missing(tmp_path)
    assert (missing is None) == (name in {"folder", "sample"})
    if missing is not None:
        assert missing.sources or missing.sources_key in DownloadConfig.model_fields
        (tmp_path / missing.folder).mkdir()
        assert open_dataset(name).find_missing(tmp_path) is None  # what is there is never replaced


def test_descriptions_say_what_results_must_not_be_taken_for() -> None:
    described = {name: open_dataset(name).description for name in NAMES}
    assert described == {
        "CIFAR-10": "CIFAR-10",
        "CIFAR-100": "CIFAR-100",
        "folder": "images from a folder",
        "sample": "a generated sample, not CIFAR-10",
    }
    assert [name for name in NAMES if open_dataset(name).warning] == ["sample"]
