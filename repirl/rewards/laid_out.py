"""Process rewards that read a solution in a layout of their own: problem and steps become the tokens that a published model
was trained on, and each step is scored at one token. (How published models are found and loaded: `published.py`.)

Positions are counted, never guessed: what a solution's tokens hold at other places than the ends of its S steps, and would
read as an end, makes it `CannotLayOut`. Scores are P(right), so 0.5 is where wrong begins.
Shapes: S steps, N completion tokens of a batch laid end to end, T tokens of a rollout.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from repirl.engines.modeling_repirl import adjusted_logits
from repirl.errors import UserError
from repirl.rewards.base import StepReward
from repirl.rollouts.batching import has_known_head, hidden_states, map_rows
from repirl.rollouts.packing import TokenBatch, TokenRow, padding_id
from repirl.rollouts.steps import StepSegmentation, step_end_tokens, step_texts
from repirl.tasks.step_formats import TAG
from repirl.types import Budget, RolloutGroup


class CannotLayOut(ValueError):
    """Why a solution has no unambiguous form in a layout."""


HOLDS_TAG = "the text itself holds the reward's mark of a step's end"
MERGED_TAG = "the mark of a step's end is not a token of its own"


@dataclass(frozen=True, slots=True, eq=False)
class StepRow:
    """A solution's tokens, and `ends_S` int64 [S]: which tokens of `row.response_ids` its steps are scored at."""

    row: TokenRow
    ends_S: np.ndarray


class LaidOutReward(StepReward):
    """A frozen reward with a layout. `segmentation` only says how a policy's rollouts are cut; given steps are taken as they
    are."""

    probabilities = True

    def __init__(self, model: Any, tokenizer: Any, segmentation: StepSegmentation) -> None:
        super().__init__(tokenizer, segmentation, "last")
        self.model = model

    @abstractmethod
    def lay_out(self, problem: str, steps: Sequence[str]) -> StepRow:
        """The tokens of problem and steps; CannotLayOut where a step's end cannot be told from other tokens."""

    @abstractmethod
    def right_probabilities(self, batch: TokenBatch) -> Tensor:
        """float32 [N]: P(right) as it would be read at each completion token of the batch."""

    def step_probabilities(self, rows: Sequence[StepRow]) -> list[np.ndarray]:
        """P(right) float32 [S] of every row's steps; the rows count as scored tokens."""
        self.budget += Budget(scored_tokens=sum(len(one.row) for one in rows))
        pad_id = padding_id(self.tokenizer)
        found = map_rows(self.model, [one.row for one in rows], self.right_probabilities, pad_id=pad_id, share=False)
        return [values.numpy()[one.ends_S] for values, one in zip(found, rows, strict=True)]

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        """A policy's rollouts, in whatever tokens: their texts are laid out, and a step's score lies on its last token.

        Without score (NaN throughout): what has no steps or cannot be laid out, and a rollout with a token in two steps.
        """
        rollouts = [(group.problem.prompt, rollout) for group in groups for rollout in group.rollouts]
        found = [np.full(len(rollout.token_ids), np.nan, dtype=np.float32) for _, rollout in rollouts]
        rows: dict[int, tuple[StepRow, np.ndarray]] = {}
        for i, (prompt, rollout) in enumerate(rollouts):
            steps = step_texts(rollout.text, self.segmentation)
            ends_S = step_end_tokens(self.tokenizer, rollout.token_ids, self.segmentation, rollout.text)
            if steps and len(steps) == len(ends_S):
                try:
                    rows[i] = self.lay_out(prompt, steps), ends_S
                except CannotLayOut:
                    continue
        scores = self.step_probabilities([row for row, _ in rows.values()])
        for (i, (_, ends_S)), scores_S in zip(rows.items(), scores, strict=True):
            found[i][ends_S] = scores_S
        return found


# ------------------------------------------------------------------------------------------------ tags


def _at_tags(ids: Sequence[int], before: Sequence[int], tag: int, num_steps: int) -> StepRow:
    """The row whose steps end at the tokens `tag`; `before` are the tokens of the text before the first step.

    The caller has made sure that the texts do not hold the tag: then as many tags as steps are the steps' own.
    """
    places = np.flatnonzero(np.asarray(ids, dtype=np.int64) == tag)
    if len(places) != num_steps:
        raise CannotLayOut(MERGED_TAG)
    # Tokens may merge where problem and solution meet: the solution begins where the two first differ.
    pairs = zip(ids, before, strict=False)
    start = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(before)))
    return StepRow(TokenRow(ids[:start], ids[start:]), places - start)


def _refuse_tag(tag: str, texts: Sequence[str]) -> None:
    if any(tag in text for text in texts):
        raise CannotLayOut(HOLDS_TAG)


class MathShepherdReward(LaidOutReward):
    """Math-Shepherd's published model (arXiv 2312.08935, docs/recipes.md B3): a causal language model that says `+` or `-`.

    The text is `QUESTION Step 1: ... ки\\nStep 2: ... ки`; a step is worth softmax(logits of +, -)[+] at its tag's token.
    A step that does not begin with `Step N:` gets it.
    """

    name = "math-shepherd"

    def __init__(self, model: Any, tokenizer: Any, segmentation: StepSegmentation) -> None:
        super().__init__(model, tokenizer, segmentation)
        self.tag = _token_after_a_word(tokenizer, TAG)
        self.candidates = [_token_after_a_word(tokenizer, sign) for sign in ("+", "-")]

    def lay_out(self, problem: str, steps: Sequence[str]) -> StepRow:
        _refuse_tag(TAG, [problem, *steps])
        numbered = [step.strip() for step in steps]
        numbered = [step if _NUMBERED.match(step) else f"Step {i}: {step}" for i, step in enumerate(numbered, 1)]
        text = f"{problem.strip()} " + "\n".join(f"{step} {TAG}" for step in numbered)
        ids, before = (self.tokenizer(one)["input_ids"] for one in (text, problem.strip()))
        return _at_tags(ids, before, self.tag, len(steps))

    def right_probabilities(self, batch: TokenBatch) -> Tensor:
        mask_BT = batch.response_mask_BT
        if has_known_head(self.model):
            # Two rows of the output layer instead of the whole vocabulary.
            head = self.model.get_output_embeddings()
            bias = None if getattr(head, "bias", None) is None else head.bias[self.candidates]
            states_NH = hidden_states(self.model.base_model, batch)[mask_BT]
            two_N2 = adjusted_logits(self.model.config, functional.linear(states_NH, head.weight[self.candidates], bias))
        else:
            logits = self.model(input_ids=batch.ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False).logits
            two_N2 = logits[mask_BT][:, self.candidates]
        return two_N2.float().softmax(-1)[:, 0]


_NUMBERED = re.compile(r"Step \d+\s*:")


def _token_after_a_word(tokenizer: Any, text: str) -> int:
    """The one token that `text` is after a word and a space; UserError if it is several, or unknown.

    (A sentencepiece tokenizer has the space in the token, a byte-level one too, others have it apart.)
    """
    last = tokenizer(f"a {text}", add_special_tokens=False)["input_ids"][-1]
    if tokenizer.decode([last]).strip() != text:
        todo = "the folder is no PRM of this format, or its tokenizer is another model's"
        raise UserError(f"the tokenizer has no single token for {text!r}", tokenizer.name_or_path, todo)
    return int(last)


# ----------------------------------------------------------------------------------------- classifiers


class QwenProcessModel(nn.Module):
    """The weights' layout of Qwen2.5-Math-PRM (docs/recipes.md B6): a backbone, and Linear, ReLU, Linear to 2 labels."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.config = backbone.config
        self.model = backbone
        width = self.config.hidden_size
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


class QwenReward(LaidOutReward):
    """Qwen2.5-Math-PRM (arXiv 2501.07301, docs/recipes.md B6): a chat whose assistant closes each step with `<extra_0>`.

    A step is worth softmax[1] at its `<extra_0>`, gathered by index.
    """

    name = "qwen-prm"
    TAG = "<extra_0>"
    SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."

    def __init__(self, model: Any, tokenizer: Any, segmentation: StepSegmentation) -> None:
        super().__init__(model, tokenizer, segmentation)
        ids = tokenizer(self.TAG, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            todo = "the folder is no PRM of this format, or its tokenizer is another model's"
            raise UserError(f"the tokenizer has no single token for {self.TAG!r}", tokenizer.name_or_path, todo)
        if not getattr(tokenizer, "chat_template", None):
            raise UserError("the tokenizer has no chat template", tokenizer.name_or_path, "use the PRM's own tokenizer")
        self.tag = int(ids[0])

    def lay_out(self, problem: str, steps: Sequence[str]) -> StepRow:
        _refuse_tag(self.TAG, [problem, *steps])
        asked = [{"role": "system", "content": self.SYSTEM}, {"role": "user", "content": problem}]
        answer = {"role": "assistant", "content": "".join(step + self.TAG for step in steps)}
        apply = self.tokenizer.apply_chat_template
        texts = apply([*asked, answer], tokenize=False), apply(asked, tokenize=False, add_generation_prompt=True)
        ids, before = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        return _at_tags(ids, before, self.tag, len(steps))

    def right_probabilities(self, batch: TokenBatch) -> Tensor:
        states_NH = hidden_states(self.model.model, batch)[batch.response_mask_BT]
        return self.model.score(states_NH).float().softmax(-1)[:, 1]


class TRLReward(LaidOutReward):
    """A token classifier as TRL's PRMTrainer trains it (docs/recipes.md B5): 2 labels, softmax[1] at each step's end.

    Problem and steps are tokenised one by one and the separator's tokens appended to each step, so that nothing merges and
    a separator inside a step is no end; BOS comes first if the tokenizer has one. A step is read at the separator's last
    token.
    """

    name = "trl"

    def __init__(self, model: Any, tokenizer: Any, segmentation: StepSegmentation, separator: str = "\n") -> None:
        super().__init__(model, tokenizer, segmentation)
        self.separator_ids = self._ids(separator)
        if not self.separator_ids:
            raise UserError("the separator has no tokens", separator, "name the one that the PRM was trained with")

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def lay_out(self, problem: str, steps: Sequence[str]) -> StepRow:
        bos = self.tokenizer.bos_token_id
        prompt = [*([] if bos is None else [bos]), *self._ids(problem)]
        pieces = [[*self._ids(step), *self.separator_ids] for step in steps]
        return StepRow(TokenRow(prompt, [i for piece in pieces for i in piece]), np.cumsum([*map(len, pieces)]) - 1)

    def right_probabilities(self, batch: TokenBatch) -> Tensor:
        logits_BT2 = self.model(input_ids=batch.ids_BT, attention_mask=batch.attention_mask_BT).logits
        return logits_BT2[batch.response_mask_BT].float().softmax(-1)[:, 1]
