from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from flows.toys.features import (
    ANGRY,
    FRIENDLY,
    count_words,
    features,
    make_features,
    split_words,
    train_neuron,
)

MESSAGES = [*FRIENDLY, *ANGRY]
LABELS = np.array([1.0] * len(FRIENDLY) + [0.0] * len(ANGRY))


def test_make_features_counts_by_hand() -> None:
    assert make_features(["Good, good! But never again!!"]).tolist() == [[2, 1, 3]]
    assert make_features(["goodness"]).tolist() == [[0, 0, 0]]


def test_count_words_equals_scikit_learn() -> None:
    vectorizer = CountVectorizer(token_pattern=r"[a-z']+")
    expected = vectorizer.fit_transform(MESSAGES).toarray()
    np.testing.assert_array_equal(count_words(MESSAGES, vectorizer.get_feature_names_out()), expected)
    assert split_words("It's a DAY!") == ["it's", "a", "day"]


def test_train_neuron_equals_scikit_learn() -> None:
    """Scikit-learn minimizes `C · Σ loss + 1/2 Σ w²`, so C is `1 / (decay · messages)`."""
    x = make_features(MESSAGES)
    neuron = train_neuron(x, LABELS, learning_rate=0.5, steps=20_000, decay=0.05)
    expected = LogisticRegression(C=1 / (0.05 * len(LABELS)), tol=1e-10, max_iter=1000).fit(x, LABELS)
    np.testing.assert_allclose(neuron.weights, expected.coef_[0], atol=1e-4)
    assert neuron.bias == pytest.approx(float(expected.intercept_[0]), abs=1e-4)


def test_learned_features_know_words_that_nobody_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert features.fn("the waiter was rude, I want a refund") < 0.1
    assert features.fn("unknown") == pytest.approx(features.fn("neverheard"))
