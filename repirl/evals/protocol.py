"""How a policy is evaluated: how often each problem is sampled, in which way, and which metrics follow."""

from __future__ import annotations

from pydantic import Field

from repirl.config import Config
from repirl.errors import UserError
from repirl.grading.math.grader import Extraction

GREEDY, SAMPLED = "greedy", "sampled"


class EvalProtocol(Config):
    """How a policy is evaluated."""

    samples: int = Field(default=8, ge=0)
    """Completions of each problem at `temperature`; 0 for none."""
    temperature: float = Field(default=1.0, gt=0)
    greedy: bool = True
    """Also the one greedy completion of each problem."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """None: what the benchmark says."""
    seed: int = 0
    limit: int | None = Field(default=None, ge=1)
    """Only the first problems of the benchmark."""
    chat_template: bool = False
    extraction: Extraction = "strict"
    """What counts as an answer where none is marked: nothing, or (`flexible`) the last formula or number."""

    def parts(self) -> dict[str, int]:
        """Protocol part -> completions of each problem."""
        parts = ({GREEDY: 1} if self.greedy else {}) | ({SAMPLED: self.samples} if self.samples else {})
        if not parts:
            raise UserError("nothing to evaluate", "samples=0, greedy=False", "ask for samples, or for greedy")
        return parts

    def metric_names(self) -> list[str]:
        """`greedy`; `avg@n`; for n > 1 also pass@2, pass@4, ... up to n (pass@1 is avg@n)."""
        names = [GREEDY] if self.greedy else []
        names += [f"avg@{self.samples}"] if self.samples else []
        return names + [f"pass@{2**i}" for i in range(1, max(1, self.samples).bit_length())]
