"""repirl: process reward models learned from demonstrations by inverse reinforcement learning."""

__version__ = "0.1.0"
