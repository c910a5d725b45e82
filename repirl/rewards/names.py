"""Process rewards that go by a name, and formats of those that others published: what they are, in words."""

from __future__ import annotations

NAMED_REWARDS = {
    "random": ("independent noise for every token", "knows nothing on purpose"),
    "constant": ("the same for every token", "knows nothing on purpose"),
    "length": ("longer solutions score more", "knows nothing on purpose"),
    "confidence": ("the log-probabilities of the policy of --policy", "knows nothing but the policy"),
    "oracle": ("the exact checker of the embedded families", "knows the truth; for problems of these alone"),
}
"""Name -> what it is, what it knows. `rewards/load.py` makes them."""

PUBLISHED_FORMATS = {
    "qwen-prm": ("Qwen2.5-Math-PRM", "told by its config.json"),
    "trl": ("TRL's PRMTrainer: token classification with two labels", "told by its config.json"),
    "math-shepherd": ("Math-Shepherd: a causal model that scores a step's tag", "the prefix must be written"),
    "implicit": ("ImplicitPRM, EurusPRM: a pair of language models", "the prefix must be written, with reference="),
    "generative": ("any instruction model, asked in words", "the prefix must be written"),
}
"""Format -> what it is, how it is known. `rewards/published.py` reads them."""
