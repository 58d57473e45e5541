"""How a result says what it was computed on."""

_DESCRIPTIONS = {"sample": "a generated sample, not CIFAR-10", "folder": "images from a folder"}


def describe_dataset(dataset: str) -> str:
    """The entry `dataset` of `params.yaml` in words."""
    return _DESCRIPTIONS.get(dataset, dataset)
