"""Whether a policy gets its prompts through its chat template: as asked, else where it has one."""

from __future__ import annotations

from typing import Annotated

import typer

from repirl.cli.engine_choice import OPENAI, TORCH
from repirl.cli.output import note

ChatFlag = Annotated[
    bool | None,
    typer.Option(
        help="Prompts go through the chat template, the policy's or the server's.", show_default="if the policy has one"
    ),
]


def chat_for(
    asked: bool | None, policy: str, revision: str | None = None, engine: str = TORCH, what: str = "this evaluation"
) -> bool:
    """As asked; else whether the policy's tokenizer has a template. One line on stderr if it has one that is left out.

    Of a model behind a server nothing is known: its template is used where it is asked for.
    """
    if engine == OPENAI:
        return bool(asked)
    from repirl.engines.loading import load_tokenizer, policy_dir
    from repirl.rollouts.prompts import has_template, plain_prompts

    tokenizer = load_tokenizer(policy_dir(policy, revision))
    chat = has_template(tokenizer) if asked is None else asked
    if not chat and (said := plain_prompts(tokenizer, what)) is not None:
        note(said)
    return chat
