"""A saved process reward as a transformers folder, which plain transformers reads right or refuses.

A token classifier without a base measure is an ordinary one. With a base measure, `config.json` is of a type of its own:
`AutoModelForTokenClassification` loads it with `trust_remote_code=True`, by the file `modeling_repirl.py` beside it, and not
without. A language model (rewards of kind `implicit` and `written`) is an ordinary one for `AutoModelForCausalLM`; as a
classifier it has no labels, so that no head of random weights gives scores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from repirl.engines import modeling_repirl
from repirl.engines.loading import save_model
from repirl.paths import replace_file
from repirl.rewards.artifact import RewardContract, write_contract


def write_reward(folder: Path, model: Any, tokenizer: Any, contract: RewardContract) -> None:
    """Write weights (adapters merged), tokenizer and contract as one transformers folder; of several processes all have to
    call it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, model, tokenizer)
    path = folder / "config.json"
    changed = lambda of: (json.dumps(of(json.loads(path.read_text(encoding="utf-8"))), indent=2) + "\n").encode()
    if model.get_output_embeddings() is not None:
        replace_file(path, lambda file: file.write(changed(lambda plain: plain | {"id2label": {}, "label2id": {}})))
    elif getattr(model.config, "repirl_base_measure", 0.0):
        source = Path(modeling_repirl.__file__)
        replace_file(folder / source.name, lambda file: file.write(source.read_bytes()))
        replace_file(path, lambda file: file.write(changed(_residual)))
    write_contract(folder, contract)


def _residual(plain: dict[str, Any]) -> dict[str, Any]:
    """`config.json` of a reward with a base measure, from that of its token classifier."""
    module, model = Path(modeling_repirl.__file__).stem, modeling_repirl.ResidualEnergyForTokenClassification.__name__
    config = modeling_repirl.ResidualEnergyConfig
    own = {name: plain[name] for name in ("dtype", "id2label", "label2id", "transformers_version") if name in plain}
    auto_map = {"AutoConfig": f"{module}.{config.__name__}", "AutoModelForTokenClassification": f"{module}.{model}"}
    return {"architectures": [model], "auto_map": auto_map, "model_type": config.model_type, **own, "energy_config": plain}


def plain_config(folder: Path) -> PreTrainedConfig:
    """Of the model whose weights lie in a saved reward's folder. No code of the folder is run.

    OSError, ValueError or KeyError where config.json is none.
    """
    values, _ = PreTrainedConfig.get_config_dict(folder, local_files_only=True)
    if values.get("model_type") == modeling_repirl.ResidualEnergyConfig.model_type:
        return modeling_repirl.ResidualEnergyConfig.from_dict(values).plain()
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
