"""What transformers by itself makes of saved rewards. As a script: JSON on stdin, and as the last line of stdout, where
transformers may ask before. It imports nothing of repirl."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import transformers


def read(folder: str, ids: list[int], auto: str, trust: bool | None) -> dict[str, Any]:
    """Logits [T, L] of a row of tokens as `auto` (`AutoModelForTokenClassification`, ...) loads the folder, or the error.

    `unread`: weights of the model that the folder has not, or the other way round.
    """
    load = getattr(transformers, auto).from_pretrained
    try:
        model, info = load(folder, output_loading_info=True, trust_remote_code=trust)
    except (ValueError, OSError) as error:
        return {"error": str(error)}
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0]
    return {"logits": logits.tolist(), "unread": sorted({*info["missing_keys"], *info["unexpected_keys"]})}


if __name__ == "__main__":
    found = [read(**case) for case in json.load(sys.stdin)]
    print(f"\n{json.dumps(found)}")
