"""The command `cifarflow check-labels` lists doubtful labels before a retraining takes the images in."""

import click

from flows.cli.project import enter_project
from tasks.params import PARAMS, read_params


@click.command("check-labels")
def check_labels() -> None:
    """List the labels in incoming/ that the model doubts, and show the images in reports/incoming.html.

    Retraining does this itself, but takes the images in: check first, and move files that are wrong.

    \b
    Example:
      cifarflow check-labels
    """
    enter_project()
    from tasks.incoming.label_check import check_incoming_labels

    check = check_incoming_labels(read_params(PARAMS))
    for image in check.doubted:
        print(f"'{image['name']}': {image['predicted']} {image['confidence']:.1%}, not {image['actual']}")
    print(check)
