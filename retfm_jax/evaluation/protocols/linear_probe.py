"""Linear probe: logistic regression on frozen embeddings, with KeepFIT's published settings."""

import numpy as np
from jaxtyping import Float

from retfm_jax import extras
from retfm_jax.evaluation.protocols.few_shot import Predictor, Support
from retfm_jax.evaluation.protocols.supervised import OnEmbeddings

with extras.needed("eval"):
    from sklearn.linear_model import LogisticRegression

#: Inverse strength of the L2 penalty and largest number of iterations, as published.
C, MAX_ITERATIONS = 0.316, 1000


def linear_probe(support: Support) -> Predictor:
    """Fits class-balanced logistic regression; findings that may occur together get one each.

    A class that the support lacks, or that all of it has, is predicted as constant.

    Args:
      support: what is fitted; with `exclusive` it has at least two classes.
    """
    if support.exclusive:
        fitted = _regression().fit(support.features, support.labels.argmax(1))

        def predict(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n classes"]:
            scores = np.zeros((len(features), support.labels.shape[1]))
            scores[:, fitted.classes_] = fitted.predict_proba(features)
            return scores

        return predict
    columns = []
    for labels in support.labels.T:
        known = labels >= 0
        both = len(np.unique(labels[known])) == 2
        columns.append(_regression().fit(support.features[known], labels[known]) if both else None)
    constant = (support.labels == 1).mean(0)

    def predict_each(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n classes"]:
        return np.stack(
            [
                np.full(len(features), share)
                if column is None
                else column.predict_proba(features)[:, 1]
                for column, share in zip(columns, constant, strict=True)
            ],
            axis=1,
        )

    return predict_each


def _regression() -> LogisticRegression:
    return LogisticRegression(C=C, class_weight="balanced", max_iter=MAX_ITERATIONS)


class LinearProbe(OnEmbeddings):
    """Logistic regression on embeddings."""

    name, title = "linear_probe", "linear probe"

    def learn(self, support: Support) -> Predictor:
        return linear_probe(support)


class UnprojectedLinearProbe(LinearProbe):
    """Logistic regression on the image tower's features before any projection."""

    name, title = "linear_probe_unprojected", "linear probe before projection"
    unprojected = True
