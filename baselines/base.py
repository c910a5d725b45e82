"""Base: the starting policy, untouched: where every method begins."""

from repirl.config import Config
from repirl.methods.base import FitContext, Fitted, Method
from repirl.types import Budget


class BaseConfig(Config):
    """Nothing to set."""


class Base(Method[BaseConfig]):
    """No training at all."""

    name = "base"
    title = "base policy"
    source = "the starting policy"
    status = "exact"
    kind = "reference"
    recipes = {"tiny": BaseConfig()}

    def fit(self, context: FitContext, config: BaseConfig) -> Fitted:
        """Hand the starting policy on."""
        return Fitted(context.policy.path, None, Budget())
