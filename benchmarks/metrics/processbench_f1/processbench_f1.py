"""ProcessBench F1 as an `evaluate` module: `evaluate.load("benchmarks/metrics/processbench_f1")`."""

import datasets
import evaluate

from repirl.evals.prm_quality import first_error_quality

_DESCRIPTION = """\
Accuracy on erroneous solutions (the exact index of the first wrong step), accuracy on correct ones (-1), and their
harmonic mean, in percent; over several subsets the unweighted mean of their F1.
"""

_INPUTS = """\
predictions: 0-based index of the first step that is judged wrong, -1 for none; any other negative number stands for an
    output that could not be read and is wrong in both groups.
references: 0-based index of the first wrong step, -1 for none.
subsets: optional, the name of each solution's subset.
Returns `f1`, and without `subsets` also `acc_error`, `acc_correct`, else `<subset>/f1` and so on. A quotient 0/0 is 0 and
its name is listed in `undefined`.
"""

_CITATION = "Zheng et al., ProcessBench: Identifying Process Errors in Mathematical Reasoning, arXiv 2412.06559"


class ProcessBenchF1(evaluate.Metric):
    """One definition with `repirl judge`: both call `repirl.evals.prm_quality`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references, subsets=None):
        if subsets is None:
            found = first_error_quality(predictions, references)
            return {name: getattr(found, name) for name in ("f1", "acc_error", "acc_correct")} | {
                "undefined": list(found.undefined)
            }
        if len(subsets) != len(references):
            raise ValueError(f"{len(subsets)} subsets for {len(references)} solutions")
        out, undefined = {}, []
        for subset in dict.fromkeys(subsets):
            rows = [i for i, name in enumerate(subsets) if name == subset]
            found = first_error_quality([predictions[i] for i in rows], [references[i] for i in rows])
            out |= {f"{subset}/{name}": getattr(found, name) for name in ("f1", "acc_error", "acc_correct")}
            undefined += [f"{subset}/{name}" for name in found.undefined]
        mean = sum(out[f"{subset}/f1"] for subset in dict.fromkeys(subsets)) / len(set(subsets))
        return {"f1": mean} | out | {"undefined": undefined}
