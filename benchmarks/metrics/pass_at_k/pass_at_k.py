"""Unbiased pass@k as an `evaluate` module: `evaluate.load("benchmarks/metrics/pass_at_k")`."""

import datasets
import evaluate
import numpy as np

from repirl.evals.metrics import metric_values

_DESCRIPTION = """\
Chance that at least one of k samples of a problem is correct: 1 - C(n - c, k) / C(n, k) for n samples of which c are
correct, averaged over problems. Never any() over k of a bigger pool.
"""

_INPUTS = """\
predictions: for each problem the verdicts of all its samples: 1 correct, 0 not, NaN could not be graded.
k: a number or a list of numbers, each at most the number of samples of every problem. Default 1.
Returns `pass@<k>` for each k: the mean over problems with at least k graded samples (NaN if there is none); and
`problems`, k -> how many these are, as `pass@<k>/problems`.
"""

_CITATION = "Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374"


class PassAtK(evaluate.Metric):
    """One definition with `repirl eval`: both call `repirl.evals.metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64"))}),
        )

    def _compute(self, predictions, k=1):
        verdicts = {str(index): row for index, row in enumerate(predictions)}
        out = {}
        for one in [k] if isinstance(k, int) else k:
            values = np.array(list(metric_values(f"pass@{one}", verdicts).values()))
            measured = values[~np.isnan(values)]
            out[f"pass@{one}"] = float(measured.mean()) if measured.size else float("nan")
            out[f"pass@{one}/problems"] = int(measured.size)
        return out
