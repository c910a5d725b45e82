"""What `repirl scale` prints: one object for `--json`, and tables from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from repirl.errors import UserError

if TYPE_CHECKING:
    from rich.console import Group

    from repirl.evals.pools import GradedPool
    from repirl.evals.scaling import Scaling


def payload_of(pool: GradedPool, found: Scaling, parameters: dict[str, int]) -> dict[str, Any]:
    """Curves, and what N samples of a problem cost: tokens of policy and reward, and 2 x parameters x tokens FLOPs."""
    counted = [sample.tokens for row in pool.rows for sample in row.samples]
    each = None if None in counted else sum(cast("list[int]", counted)) / len(counted)
    curves = []
    for curve in found.curves:
        scored = pool.scored_tokens.get(curve.reward or "")
        reward_each = None if scored is None else scored / len(counted)
        points = []
        for point in curve.points:
            n, over = point.samples, point.over_majority
            policy_flops = _flops(parameters.get("policy"), each)
            reward_flops = 0.0 if curve.reward is None else _flops(parameters.get(curve.reward), reward_each)
            both = None if policy_flops is None or reward_flops is None else n * (policy_flops + reward_flops)
            points.append(
                {
                    "n": n,
                    "accuracy": asdict(point.accuracy),
                    "over_majority": None if over is None else asdict(over.interval) | {"p_value": over.p_value},
                    "policy_tokens": None if each is None else n * each,
                    "reward_tokens": None if reward_each is None else n * reward_each,
                    "flops": both,
                }
            )
        curves.append({"selector": curve.selector, "reward": curve.reward, "aggregation": curve.aggregation, "points": points})
    return {
        "problems": found.problems,
        "samples": found.samples,
        "left_out": found.left_out,
        "counts": pool.counts(),
        "unscored": {name: dict(reasons) for name, reasons in pool.unscored.items()},
        "squashed": list(found.squashed),
        "parameters": parameters,
        "curves": curves,
    }


AXES = {"n": "samples N", "tokens": "tokens of a problem (policy and reward)", "flops": "FLOPs of a problem"}
"""What curves can be drawn against."""


def costs_of(payload: dict[str, Any], against: str) -> dict[tuple[str, str | None, str | None], list[float]]:
    """What each point of each curve costs, in tokens or FLOPs. UserError where that is not known."""
    found = {}
    for curve in payload["curves"]:
        points = curve["points"]
        if against == "tokens" and curve["reward"] is None:
            costs = [point["policy_tokens"] for point in points]
        elif against == "tokens":
            pairs = [(point["policy_tokens"], point["reward_tokens"]) for point in points]
            costs = [None if None in pair else sum(pair) for pair in pairs]
        else:
            costs = [point["flops"] for point in points]
        if None in costs:
            raise UserError(f"the pool does not say what {against} it took", curve["reward"] or "policy", "draw against n")
        found[curve["selector"], curve["reward"], curve["aggregation"]] = costs
    return found


def _flops(parameters: int | None, tokens: float | None) -> float | None:
    return None if parameters is None or tokens is None else 2.0 * parameters * tokens


def tables(payload: dict[str, Any]) -> Group:
    from rich.console import Group

    from repirl.cli.tables import Sheet

    numbers = [point["n"] for point in payload["curves"][0]["points"]]
    title = f"accuracy in percent, {payload['problems']} problems, subsets of N of {payload['samples']} samples"
    at, interval, over = [f"N={n}" for n in numbers], "95% interval", "- majority"
    below = {interval: at[-1]}
    table = Sheet("selector", "reward", "scores", *at, interval, over, title=title, right=at, below=below, optional=at[1:-1])
    selector = ""
    for curve in payload["curves"]:
        if selector not in ("", curve["selector"]):
            table.section()
        selector = curve["selector"]
        last = curve["points"][-1]
        gain = last["over_majority"]
        table.add(
            selector,
            curve["reward"] or "",
            curve["aggregation"] or "",
            *(f"{100 * point['accuracy']['value']:.1f}" for point in curve["points"]),
            f"[{100 * last['accuracy']['low']:.1f}, {100 * last['accuracy']['high']:.1f}]",
            "" if gain is None else f"{100 * gain['value']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]",
        )
    return Group(table, *_lines(payload))


def _lines(payload: dict[str, Any]) -> list[str]:
    lines = [", ".join(f"{count} {name}" for name, count in payload["counts"].items() if count)]
    if payload["left_out"]:
        lines.append(f"{payload['left_out']} problems left out: fewer than {payload['samples']} graded samples")
    lines += [
        f"{reward}: {count} samples are unscored: {reason}"
        for reward, reasons in payload["unscored"].items()
        for reason, count in reasons.items()
    ]
    if payload["squashed"]:
        lines.append(f"scores outside of [0, 1], so products and votes take their sigmoid: {', '.join(payload['squashed'])}")
    for curve in payload["curves"]:
        last = curve["points"][-1]
        if (
            last["flops"] is not None
            and curve["aggregation"] in (None, "mean")
            and curve["selector"] in ("majority", "best-of-N")
        ):
            tokens = f"{last['policy_tokens']:.0f} tokens of the policy"
            scored = "" if last["reward_tokens"] is None else f", {last['reward_tokens']:.0f} of the reward"
            name = " ".join(part for part in (curve["selector"], curve["reward"]) if part)
            lines.append(f"{name}, a problem with N={last['n']}: {tokens}{scored}, {last['flops']:.3g} FLOPs")
    for one in payload["origin"]:
        gap = f", {len(one['differing'])} problems differ" if one["differing"] else ""
        gap += f" (in {one['unmarked']} a sample marks no answer: the origin takes its last number)" if one["unmarked"] else ""
        lines.append(
            f"the origin's {one['rule']}@{one['samples']}: {one['theirs']} of {one['problems']} right by its choice, "
            f"{one['ours']} by ours among the same first {one['samples']}{gap}"
        )
    for one in payload["later"]:
        rho, over = one["correlation"], one["over_length"]
        text = f"later solved, by rank correlation with {one['name']} on {one['problems']} problems that were failed always: "
        text += f"{rho['value']:+.2f} [{rho['low']:+.2f}, {rho['high']:+.2f}]"
        gap = None if over is None else over["interval"]
        lines.append(
            text + ("" if gap is None else f"; over length {gap['value']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]")
        )
    return lines
