"""Claim: an exact synchronous step is faster than DDP's on the same cores, and near plain torch with all of them.

usage: python benchmarks/nets.py [--repeats 2] [--models mlp256 cnn ...]        needs torch (extra [torch])
Two workers of one thread, the same global batch, median seconds of a step after a warm-up, systems in turn; malloc is
tuned for all of them, the optimizer is fused for all.  "ours" is Processes(2), which engine="auto" takes for much work
on two cores.  Goals: DDP / plain torch with two threads.
"""

from __future__ import annotations

from _common import MALLOC, alone, header, in_turn, milliseconds, net_options, same_bits, save

GOALS = {"mlp256": (1.6, 0.65), "mlp2048": (1.1, 0.93), "cnn": (1.05, 0.93), "trf": (1.0, 0.93), "wide": (1.3, 0.93)}
SYSTEMS = ("plain-1", "plain-2", "ddp-2", "threads-2", "processes-2", "inexact-2")


def main() -> None:
    given = net_options(__doc__, 2, models=list(GOALS))
    lines = [header(), "", "model    " + "".join(f"{s:>13}" for s in SYSTEMS) + "      ms a step"]
    verdicts = []
    for model in given.models:
        found = in_turn(SYSTEMS, given.repeats, lambda system, model=model: alone("_net.py", system, model, env=MALLOC))
        ms = milliseconds(found)
        lines.append(f"{model:9}" + "".join(f"{ms[s]:13.2f}" for s in SYSTEMS))
        ours = ms["processes-2"]
        ddp, plain = ms["ddp-2"] / ours, ms["plain-2"] / ours
        goal = GOALS[model]
        same = same_bits([*found["threads-2"], *found["processes-2"]])
        verdicts.append(
            f"{model:9} ours {ours:.2f} ms: {ddp:.2f}x DDP (goal {goal[0]}x), {plain:.2f}x plain torch with 2 threads "
            f"(goal {goal[1]}x), exactness costs {ours / ms['inexact-2'] - 1:+.0%}, {same}"
        )
        print(verdicts[-1], flush=True)
    save("nets", "\n".join([*lines, "", *verdicts]))


if __name__ == "__main__":
    main()
