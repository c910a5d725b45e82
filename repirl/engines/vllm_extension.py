"""What runs inside vLLM's workers: weights are replaced where they lie, piece by piece.

A process of vLLM imports this file by itself, also where repirl is not installed: it needs vLLM, torch and safetensors alone.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import Any

OWNER = "REPIRL_VLLM_OWNER"
"""Variable of the environment: the process with which one that imports this file is to end."""
SCORE_BIAS = "score.bias"


def end_with_owner() -> None:
    """End this worker, and with it the engine that cannot do without, once the process that `OWNER` names is no more. (vLLM
    itself does not notice when that is killed.)"""
    if not (owner := os.environ.get(OWNER)):
        return

    def watch() -> None:
        try:
            select.select([os.pidfd_open(int(owner))], [], [])  # also when nobody has asked for its exit code yet
        except ProcessLookupError:
            pass  # it is gone already
        except (AttributeError, OSError):
            return  # no Linux, or one that does not allow it
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


end_with_owner()


class RepirlWorker:
    """Methods that vLLM adds to each of its workers (`worker_extension_cls`).

    A sync is `repirl_begin_weights`, `repirl_load_weights` for each file, `repirl_end_weights`, `repirl_refresh_tied_head`;
    then the engine forgets cached prefixes. Between the first and the last nothing may be sampled.
    """

    model_runner: Any
    vllm_config: Any
    _repirl_missing: set[str]
    _repirl_bias: Any

    def repirl_begin_weights(self) -> None:
        """Make the layers ready to take weights again."""
        from vllm.config import set_current_vllm_config  # pyright: ignore[reportMissingImports]
        from vllm.model_executor.model_loader import reload  # pyright: ignore[reportMissingImports]

        model = self.model_runner.get_model()
        self._repirl_bias = None
        score = getattr(model, "score", None)
        if score is not None and getattr(score, "bias", None) is not None:
            # vLLM 0.32 would put the new bias on the meta device, where the layer waits for its weights.
            self._repirl_bias = score.bias.data
            score.bias = None
        self._repirl_missing = {name for name, _ in model.named_parameters()}
        with set_current_vllm_config(self.vllm_config):
            reload.initialize_layerwise_reload(model)

    def repirl_load_weights(self, path: str) -> None:
        """Take over a safetensors file with some of the weights, under a checkpoint's names. It may go afterwards."""
        from safetensors import safe_open
        from vllm.config import set_current_vllm_config  # pyright: ignore[reportMissingImports]

        model = self.model_runner.get_model()
        with safe_open(path, framework="pt") as file, set_current_vllm_config(self.vllm_config):
            names = set(file.keys())
            if self._repirl_bias is not None and SCORE_BIAS in names:
                self._repirl_bias.copy_(file.get_tensor(SCORE_BIAS))
                names.remove(SCORE_BIAS)
            self._repirl_missing -= model.load_weights((name, file.get_tensor(name)) for name in sorted(names))

    def repirl_end_weights(self) -> list[str]:
        """Put the layers back to work. Weights that were in none of the files, by vLLM's names: they are the old ones."""
        from torch import nn
        from vllm.config import set_current_vllm_config  # pyright: ignore[reportMissingImports]
        from vllm.model_executor.model_loader import reload  # pyright: ignore[reportMissingImports]

        model = self.model_runner.get_model()
        with set_current_vllm_config(self.vllm_config):
            reload.finalize_layerwise_reload(model, self.vllm_config.model_config)
        if self._repirl_bias is not None:
            model.score.bias = nn.Parameter(self._repirl_bias, requires_grad=False)
        return sorted(self._repirl_missing)

    def repirl_refresh_tied_head(self) -> None:
        """An output layer that shares the embedding's weights keeps, on a CPU, a packed copy of them: make it anew."""
        from vllm.model_executor.layers import vocab_parallel_embedding  # pyright: ignore[reportMissingImports]

        for module in self.model_runner.get_model().modules():
            if isinstance(module, vocab_parallel_embedding.ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
