"""Training as scikit-learn estimators: the features of a run, without its folder."""

from __future__ import annotations

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, compute_sample_weight, validation
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from jaxnet.estimators.base import Estimator
from jaxnet.tables.column import Column


class JaxnetClassifier(ClassifierMixin, Estimator):
    """A network that predicts classes, trained with the options of `jaxnet train`.

    Parameters have the names and defaults of `jaxnet.runs.Config`; `random_state` is its seed.
    batch_size: of more than the training rows, all of them. validation: the share held out, or None
    to train on all rows and keep the epoch of the lowest training loss. categorical: names of
    columns, or places in an array. class_weight: a dictionary, "balanced" or None.

    Fitted: classes_, model_ (a `jaxnet.runs.model.Model`), n_iter_ (the epochs made),
    n_features_in_, feature_names_in_.
    """

    _task = "classification"

    def __init__(
        self,
        *,
        hidden=(128,),
        activation="relu",
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=None,
        schedule="cosine",
        batch_size=None,
        epochs=None,
        patience=None,
        validation=0.2,
        categorical=(),
        numbers="auto",
        ensemble=1,
        dropout=0.0,
        label_smoothing=0.0,
        class_weight=None,
        random_state=0,
        dtype="float32",
    ):
        self.__dict__.update({k: v for k, v in locals().items() if k not in ("self", "__class__")})

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Make one pass over the rows, from where the last call ended; return self.

        The first call fits the encoding, for all later ones, and needs `classes`, all there are.
        """
        if classes is not None and not hasattr(self, "classes_"):
            self.classes_ = np.unique(classes)
        elif classes is not None and not np.array_equal(self.classes_, np.unique(classes)):
            raise ValueError(f"`classes` must be those of the first call, {self.classes_}")
        elif not hasattr(self, "classes_"):
            raise ValueError("`classes` must be given in the first call of partial_fit")
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X):
        """Return the class (N,) of each row."""
        places = self.predict_proba(X).argmax(axis=1)
        return self.classes_[places]

    def predict_proba(self, X):
        """Return the probabilities (N, classes) in the order of `classes_`."""
        check_is_fitted(self)
        return self.model_.probabilities(self._table(X)[0], unseen="zero")

    def _check_target(self, y, told):
        y = validation.column_or_1d(y, warn=True)
        check_classification_targets(y)
        if not told:
            self.classes_ = np.unique(y)
        if unknown := sorted(set(np.unique(y).tolist()) - set(self.classes_.tolist())):
            raise ValueError(f"`y` must hold the classes {self.classes_}, got {unknown[0]!r}")
        return y

    def _check_fit(self, y):
        if len(np.unique(y)) < 2:
            raise ValueError("`y` must hold 2 classes or more that weigh more than 0, got 1 class")

    def _as_column(self, y):
        return np.array([str(value) for value in y.tolist()], object)

    def _encoded(self, column):
        texts = tuple(str(value) for value in self.classes_.tolist())
        return Column(self._target, categories=texts, kind="text")

    def _weights(self, y, sample_weight):
        weights = super()._weights(y, sample_weight)
        if self.class_weight is None:
            return weights
        of_class = compute_sample_weight(self.class_weight, y)
        return of_class if weights is None else weights * of_class


class JaxnetRegressor(RegressorMixin, Estimator):
    """A network that predicts numbers (N,), or (N, D); as `JaxnetClassifier`, without classes."""

    _task = "regression"

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def partial_fit(self, X, y, sample_weight=None):
        """Make one pass over the rows, from where the last call ended; return self.

        The first call fits the encoding, for all later ones.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X):
        """Return the numbers, float64 (N,) or (N, D)."""
        check_is_fitted(self)
        return self.model_.predict(self._table(X)[0], unseen="zero")

    def _check_target(self, y, told):
        return check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")

    def _as_column(self, y):
        return y

    def _encoded(self, column):
        return column
