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
_HOTTEST, _COLDEST = 1e4, 1e-2
_SEARCHES = 60


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
    return float(-np.log(np.maximum(p_N, 1e-300)).mean())


def figures(p_NC: np.ndarray, classes: Sequence[Any], labels: Sequence[Any]) -> dict[str, Any]:
    """Accuracy, macro F1, log loss and calibration error of predictions, each label's row, and what was confused.

    Args:
        p_NC: a probability for each class.
        classes: the labels of the columns.
        labels: the true ones; one that training never saw is always an error, and has no part in the log loss.
    """
    at = {label: nth for nth, label in enumerate(classes)}
    true_N = np.array([at.get(label, -1) for label in labels])
    best_N = p_NC.argmax(1)
    right_N, known_N = best_N == true_N, true_N >= 0
    pairs = Counter(zip(labels, (classes[nth] for nth in best_N), strict=True))
    rows = _by_label(pairs)
    p_true_N = np.maximum(p_NC[np.flatnonzero(known_N), true_N[known_N]], 1e-300)
    return {
        "texts": len(labels),
        "accuracy": float(right_N.mean()),
        "macro_f1": float(np.mean([row["f1"] for row in rows])),
        "log_loss": float(-np.log(p_true_N).mean()) if known_N.any() else None,
        "calibration_error": _calibration_error(p_NC.max(1), right_N),
        "unseen_labels": sorted({str(label) for label in labels if label not in at}),
        "labels": rows,
        "confusions": [
            {"label": truth, "predicted": said, "texts": many}
            for (truth, said), many in pairs.most_common(_MOST_CONFUSIONS)
        ],
    }


def _by_label(pairs: Counter[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label that is true or predicted, 0 where one is undefined, as scikit-learn."""
    true, said, both = Counter[Any](), Counter[Any](), Counter[Any]()
    for (truth, predicted), many in pairs.items():
        true[truth] += many
        said[predicted] += many
        both[truth] += many if truth == predicted else 0
    return [
        {
            "label": label,
            "texts": true[label],
            "precision": both[label] / max(1, said[label]),
            "recall": both[label] / max(1, true[label]),
            "f1": 2 * both[label] / (true[label] + said[label]),
        }
        for label in sorted({*true, *said}, key=lambda label: (isinstance(label, str), label))
    ]


def _calibration_error(confidence_N: np.ndarray, right_N: np.ndarray) -> float:
    """How far confidence and accuracy are apart in bins of confidence, weighted by their texts (Guo et al. 2017)."""
    bin_N = np.minimum((confidence_N * _BINS).astype(int), _BINS - 1)
    gap_K = np.bincount(bin_N, confidence_N - right_N, _BINS)
    return float(np.abs(gap_K).sum() / len(right_N))
