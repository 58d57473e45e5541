"""`describe_dataset` says in words which data set a result was computed on."""

_DESCRIPTIONS = {"sample": "a generated sample, not CIFAR-10", "folder": "images from a folder"}


def describe_dataset(dataset: str) -> str:
    """Return a description for the value of `dataset` in `params.yaml`."""
    return _DESCRIPTIONS.get(dataset, dataset)
