"""maj@k as an `evaluate` module: `evaluate.load("benchmarks/metrics/maj_at_k")`."""

import datasets
import evaluate
import numpy as np

from repirl.evals.metrics import metric_values

_DESCRIPTION = """\
Chance that the majority answer of k samples of a problem is correct, averaged over problems. Over all subsets of k
samples where they are few, else over 200 seeded ones. Answers that mean the same are one (`1/2` and `0.5`), by the
comparison with which answers are graded, in worker processes.
"""

_INPUTS = """\
predictions: for each problem the final answer of each sample, as text; empty for none, which does not vote.
references: for each problem the verdict of each sample: 1 correct, 0 not, NaN could not be graded (left out).
k: at most the number of samples of every problem. Default: the number of samples of the first one.
ties: `split` (default) gives the share of the tied answers that are correct, `lowest-index` takes the one sampled
    first, `random` a seeded draw.
seed: of the subsets and of random ties. Default 0.
Returns `maj@<k>` (with other ties `maj@<k>:<ties>`), the mean over problems with at least k graded samples, NaN if there
is none; and `problems`, how many these are.
"""

_CITATION = "Wang et al., Self-Consistency Improves Chain of Thought Reasoning in Language Models, arXiv 2203.11171"


class MajAtK(evaluate.Metric):
    """One definition with `repirl eval`: both call `repirl.evals.metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("string")),
                    "references": datasets.Sequence(datasets.Value("float64")),
                }
            ),
        )

    def _compute(self, predictions, references, k=None, ties="split", seed=0):
        name = f"maj@{len(predictions[0]) if k is None else k}" + ("" if ties == "split" else f":{ties}")
        verdicts = {str(index): row for index, row in enumerate(references)}
        answers = {str(index): row for index, row in enumerate(predictions)}
        values = np.array(list(metric_values(name, verdicts, answers, seed=seed).values()))
        measured = values[~np.isnan(values)]
        return {name: float(measured.mean()) if measured.size else float("nan"), "problems": int(measured.size)}
