"""avg@n as an `evaluate` module: `evaluate.load("benchmarks/metrics/avg_at_n")`."""

import datasets
import evaluate
import numpy as np

from repirl.evals.metrics import metric_values
from repirl.stats import clustered_interval

_DESCRIPTION = """\
Share of correct samples of a problem, averaged over problems: the same as pass@1, with a 95% interval from a bootstrap over
problems (samples of one problem stay together).
"""

_INPUTS = """\
predictions: for each problem the verdicts of its samples, the same number for all: 1 correct, 0 not, NaN could not be graded.
Returns `avg@<n>`, `ci_low`, `ci_high`, and `problems`, the number of those with a graded sample.
"""


class AvgAtN(evaluate.Metric):
    """One definition with `repirl eval`: both call `repirl.evals.metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64"))}),
        )

    def _compute(self, predictions):
        name = f"avg@{len(predictions[0])}"
        values = list(metric_values(name, {str(index): row for index, row in enumerate(predictions)}).values())
        interval = clustered_interval(values)
        measured = int((~np.isnan(values)).sum())
        return {name: interval.value, "ci_low": interval.low, "ci_high": interval.high, "problems": measured}
