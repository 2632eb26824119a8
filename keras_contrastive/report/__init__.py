"""What a run has reached: measures by representation, a verdict with advice, and pages to look at."""

from keras_contrastive.report.gallery import (
    Picture,
    groups_page,
    neighbours_page,
    thumbnail,
)
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
    "Picture",
    "Run",
    "Verdict",
    "advice",
    "evaluate",
    "groups_page",
    "labelled_rows",
    "measure",
    "neighbours_page",
    "page",
    "table",
    "thumbnail",
    "verdict",
    "warnings",
]
