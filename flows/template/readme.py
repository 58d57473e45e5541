"""Write the README of a project of one's own: what it is, what it learns from, and where its results are."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tasks.dataset.folder import SPLITS, list_images
from tasks.reporting.markdown import escape_markdown, format_row
from tasks.workspace.files import write_text

MAX_ROWS = 50
COMMANDS = """\
## Commands

```sh
make run                           # sets up .venv and runs the pipeline: from the images to a measured model
. .venv/bin/activate               # once per shell; all commands below need it
cifarflow predict IMAGE            # classifies images
cifarflow demo                     # serves a local page that classifies an image and shows why
cifarflow run --set train.epochs=5 # runs again with another parameter
cifarflow retrain                  # trains on incoming/CLASS/ as well, and decides which model serves
cifarflow upgrade URL              # takes a later version of cifarflow, from its Git repository
```

## Results

| file | what it holds |
| --- | --- |
| `reports/index.html` | the page of the last run: accuracy, errors, doubted labels, speed |
| `reports/metrics.json` | accuracy with its interval, per class and in all |
| `reports/decisions/index.html` | each retraining and its decision |
| `artifacts/model.onnx` | the model of the last run |
| `registry/champion.onnx` | the model that serves, once a retraining has promoted one |

`params.yaml` has every parameter. `data.dvc` records the images in `data/`; after a change, `dvc add data`
records them again.
"""


def write_readme(project: Path, about: Mapping[str, str]) -> None:
    """Write README.md, which speaks of the images in `project / "data"` and of what `about` says.

    `about` has the texts `name`, `description`, `license` and `owner`; an empty one leaves its line out.
    """
    counts = Counter((image.label, image.split) for image in list_images(project / "data").files)
    labels = sorted({label for label, _ in counts})
    splits = [name for name in ("", *SPLITS) if any(split == name for _, split in counts)]
    total = f"{counts.total():,} images"
    lines = [f"# {escape_markdown(about['name'])}", ""]
    if about["description"]:
        lines += [escape_markdown(about["description"]), ""]
    lines += [f"This project learns {len(labels):,} classes. It was made with {total} of its own:", ""]
    lines += [format_row(["class", *(name or "images" for name in splits)])]
    lines += [f"| --- |{' ---: |' * len(splits)}"]
    lines += [format_row([name, *(f"{counts[name, s]:,}" for s in splits)]) for name in labels[:MAX_ROWS]]
    if len(labels) > MAX_ROWS:
        lines += [format_row([f"{len(labels) - MAX_ROWS:,} more classes", *("" for _ in splits)])]
    lines += ["", COMMANDS]
    lines += [
        "The code is [cifarflow](docs/datasets.md#images-of-your-own) (license: `LICENSE-cifarflow`).",
        "The figures in `docs/` are those of CIFAR-10.",
    ]
    if about["license"]:
        lines += [f"The models are under the license {escape_markdown(about['license'])}."]
    if about["owner"]:
        lines += [f"{escape_markdown(about['owner'])} answers for this project."]
    write_text(project / "README.md", "\n".join(lines) + "\n")
