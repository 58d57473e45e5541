"""Labels that a model does not believe: confident learning (Northcutt et al. 2021) by cleanlab.

https://arxiv.org/abs/1911.00068. The probabilities have to be held out: a model that was trained on these
images may have learned their wrong labels.
"""

import numpy as np
from numpy.typing import NDArray


def find_label_errors(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Positions of the likely label errors of `labels` `(N,)`, the most certain first.

    A label is doubted where the model believes in another class at least as much as it does on average in
    that class's own images. They are sorted by the normalized margin, the label's probability minus that of
    the most probable other class.
    """
    if len(np.unique(labels)) < 2:
        return np.empty(0, np.int64)  # nothing to compare with
    from cleanlab.filter import find_label_issues  # takes seconds

    issues: NDArray[np.int64] = find_label_issues(
        labels,
        probabilities.astype(np.float64),
        filter_by="confident_learning",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )
    return issues
