"""scikit-learn's own checks of estimators.

Of a classifier that says it reads texts (its tags), scikit-learn checks no more than that it can be cloned, since its
data are numbers. So numbers are written as words here, and every check reaches `Classifier` through them.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is no dependency")

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from lmlab.classify import Classifier


class OnNumbers(ClassifierMixin, BaseEstimator):
    """Reads a row of numbers as a text: a word a column, of the half standard deviations from its mean."""

    def fit(self, X, y):
        X = validate_data(self, X)
        self.mean_, self.spread_ = X.mean(0), X.std(0) + 1e-9
        self.classifier_ = Classifier().fit(self._texts(X), y)
        self.classes_ = self.classifier_.classes_
        return self

    def predict(self, X):
        return self._asked("predict", X)

    def predict_proba(self, X):
        return self._asked("predict_proba", X)

    def _asked(self, method, X):
        check_is_fitted(self)
        return getattr(self.classifier_, method)(self._texts(validate_data(self, X, reset=False)))

    def _texts(self, X):
        places = np.clip(np.round(2 * (X - self.mean_) / self.spread_), -6, 6).astype(int) + 6
        return [" ".join(f"f{column}v{place}" for column, place in enumerate(row)) for row in places]


def unlike(estimator):
    """What fails, and why that is right for a classifier of texts."""
    return {"check_supervised_y_2d": "labels in a column are read without a warning"}


@parametrize_with_checks([OnNumbers()], expected_failed_checks=unlike)
def test_through_numbers(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:Can't test estimator:sklearn.exceptions.SkipTestWarning")
def test_as_it_is():
    found = check_estimator(Classifier(), on_fail=None, on_skip=None)
    assert [each["status"] for each in found] == ["passed"] * len(found) != []
