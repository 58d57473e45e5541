"""Count how many of CIFAR-10's known label errors confident learning finds with the exported model.

`cifar10_mturk.json` is in the folder `mturk` of https://github.com/cleanlab/label-errors. For 275 test images
it says how many of five people chose the given label, the guessed one, neither or both. An image counts as a
known error where fewer than three confirmed the given label. These are 54, as labelerrors.com counts them.

    python benchmarks/label_errors.py cifar10_mturk.json [probabilities.npy]

With `probabilities.npy`, `(10000, 10)` in the order of the test set, these replace the model's probabilities.
"""

import sys
from pathlib import Path

import numpy as np

from tasks.inference.onnx_classifier import load_model
from tasks.params import read_params
from tasks.reporting.gallery import find_label_errors
from tasks.workspace.files import read_json
from tasks.workspace.splits import load_splits


def main(votes: Path, probabilities_file: Path | None = None) -> None:
    paths = read_params(Path("params.yaml")).paths
    test = load_splits(Path(paths.splits)).test
    labels = test.labels.numpy()
    known = {row["id"] for row in read_json(votes) if row["mturk"]["given"] < 3}
    if probabilities_file is None:
        probabilities = load_model(Path(paths.onnx_model)).predict_proba(test.images.numpy())
    else:
        probabilities = np.load(probabilities_file, allow_pickle=True).astype(np.float32)
        probabilities /= probabilities.sum(1, keepdims=True)
    found = find_label_errors(labels, probabilities)
    accuracy = (probabilities.argmax(1) == labels).mean()
    print(f"accuracy {accuracy:.4f}; {len(found):,} labels in doubt; of {len(known)} known errors")
    for first in (50, 100, 200, 500, 1000, len(found)):
        print(f"  {len(known & set(found[:first].tolist()))} are among the first {first:5,}")


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
