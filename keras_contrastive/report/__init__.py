"""What a run has reached: measures by representation, a verdict with advice, and a page to look at."""

from keras_contrastive.report.measures import (
    NEIGHBOURS,
    Evaluation,
    evaluate,
    labelled_rows,
    measure,
    table,
)
from keras_contrastive.report.page import page
from keras_contrastive.report.verdict import Run, Verdict, advice, verdict, warnings

__all__ = [
    "NEIGHBOURS",
    "Evaluation",
    "Run",
    "Verdict",
    "advice",
    "evaluate",
    "labelled_rows",
    "measure",
    "page",
    "table",
    "verdict",
    "warnings",
]
