"""Figures of a classifier on labelled texts, and the temperature that calibrates it.

Shapes: N texts, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

_BINS = 15  # of confidence, for the calibration error
_MOST_CONFUSIONS = 1_000  # pairs of truth and prediction that are told
_COLDEST, _HOTTEST, _SEARCHES = 1e-2, 1e4, 60  # temperatures
_LEAST = 1e-300  # a probability whose logarithm is finite


def probabilities(logits_NC: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """p_NC: the softmax of logits divided by a temperature."""
    scaled_NC = logits_NC / temperature
    p_NC: np.ndarray = np.exp(scaled_NC - scaled_NC.max(1, keepdims=True, initial=-np.inf))
    p_NC /= p_NC.sum(1, keepdims=True)
    return p_NC


def calibration_temperature(logits_NC: np.ndarray, classes_N: np.ndarray) -> float:
    """The temperature with the least log loss on held-out texts (Guo et al. 2017).

    >>> round(calibration_temperature(np.array([[9.0, 0], [9.0, 0], [9.0, 0], [0, 9.0]]), np.array([0, 0, 1, 1])), 2)
    8.19
    """
    low, high = np.log(_COLDEST), np.log(_HOTTEST)
    for _ in range(_SEARCHES):  # the loss is convex in the inverse of the temperature, so it falls and rises once
        left, right = low + (high - low) * 0.382, low + (high - low) * 0.618
        if log_loss(logits_NC, classes_N, np.exp(left)) <= log_loss(logits_NC, classes_N, np.exp(right)):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def log_loss(logits_NC: np.ndarray, classes_N: np.ndarray, temperature: float = 1.0) -> float:
    """Mean nats of the true classes."""
    p_N = probabilities(logits_NC, temperature)[np.arange(len(classes_N)), classes_N]
    return float(-np.log(np.maximum(p_N, _LEAST)).mean())


def figures(p_NC: np.ndarray, classes: Sequence[Any], labels: Sequence[Any]) -> dict[str, Any]:
    """Accuracy, macro F1, log loss and calibration error of predictions, each label's row, and what was confused.

    Precision, recall and F1 are 0 where they are undefined, as in scikit-learn.

    Args:
        p_NC: a probability for each class.
        classes: the labels of the columns.
        labels: the true ones; one that training never saw is always an error, and has no part in the log loss.
    """
    at = {label: nth for nth, label in enumerate(classes)}
    known = [(nth, at[label]) for nth, label in enumerate(labels) if label in at]
    predicted = [classes[nth] for nth in p_NC.argmax(1)]
    right_N = np.array([truth == said for truth, said in zip(labels, predicted, strict=True)])
    true, said, pairs = Counter(labels), Counter(predicted), Counter(zip(labels, predicted, strict=True))
    rows = [
        {
            "label": label,
            "texts": true[label],
            "precision": pairs[label, label] / max(1, said[label]),
            "recall": pairs[label, label] / max(1, true[label]),
            "f1": 2 * pairs[label, label] / (true[label] + said[label]),
        }
        for label in sorted({*true, *said}, key=lambda label: (isinstance(label, str), label))
    ]
    return {
        "texts": len(labels),
        "accuracy": float(right_N.mean()),
        "macro_f1": float(np.mean([row["f1"] for row in rows])),
        "log_loss": float(-np.log(np.maximum(p_NC[tuple(np.transpose(known))], _LEAST)).mean()) if known else None,
        "calibration_error": _calibration_error(p_NC.max(1), right_N),
        "unseen_labels": sorted({str(label) for label in labels if label not in at}),
        "labels": rows,
        "confusions": [
            {"label": truth, "predicted": predicted, "texts": many}
            for (truth, predicted), many in pairs.most_common(_MOST_CONFUSIONS)
        ],
    }


def _calibration_error(confidence_N: np.ndarray, right_N: np.ndarray) -> float:
    """How far confidence and accuracy are apart in bins of confidence, weighted by their texts (Guo et al. 2017)."""
    bin_N = np.minimum((confidence_N * _BINS).astype(int), _BINS - 1)
    return float(np.abs(np.bincount(bin_N, confidence_N - right_N, _BINS)).sum() / len(right_N))
