"""The measured parts of docs/modes.md, each from benchmarks/results/; a part whose result is missing is empty.

`scripts/refresh_pages.py` puts them between the page's ``<!-- measured: NAME -->`` and ``<!-- end of measured -->``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable

from _measured import Reached, Results
from draw_modes import FIGURES, RIVALS

CONTROL = "synchronous, dealt, 2 shards"
BASE, CLAIMED = "synchronous, dealt", "synchronous, claimed"
ASYNC, BOUND = "asynchronous, claimed", "staleness 4, claimed"
SLOW_LINK = {
    "AllReduce": "`tutti.AllReduce()`",
    "ddp": "torch's DDP on gloo",
    "Int8": "`tutti.AllReduce(compress=tutti.Int8())`",
    "TopK + Int8": "`tutti.AllReduce(compress=(tutti.TopK(0.05), tutti.Int8()))`",
    "auto": '`tutti.AllReduce(compress="auto")`',
    "LocalSGD 16": '`tutti.LocalSGD(16, "nesterov")`',
    "LocalSGD 16 + Int8": '`tutti.LocalSGD(16, "nesterov", compress=tutti.Int8())`',
}
NETS = {
    "mlp256": "small dense net, batch 256",
    "mlp2048": "small dense net, batch 2,048",
    "wide": "two dense layers of 4,096, batch 64",
}
MODES = {
    "synchronous, dealt": "`tutti.AllReduce(claim=False)`",
    "synchronous, dealt, 2 shards": "`tutti.AllReduce(claim=False)`, `n_shards=2`",
    "synchronous, claimed": "`tutti.AllReduce()`",
    "staleness 4, dealt": "`tutti.ParameterServer(staleness=4, claim=False)`",
    "staleness 4, claimed": "`tutti.ParameterServer(staleness=4)`",
    "asynchronous, dealt": "`tutti.ParameterServer(staleness=math.inf, claim=False)`",
    "asynchronous, claimed": "`tutti.ParameterServer(staleness=math.inf)`",
}


def prose(*parts: str) -> list[str]:
    return textwrap.wrap(" ".join(parts), 118, break_on_hyphens=False)


def plot(results: Results, name: str, says: str) -> list[str]:
    return ["", f"![{says}](img/{name}.svg)"] if FIGURES[name](results) else []


def sooner(reached: dict[str, Reached], mode: str, base: str) -> float | None:
    """Return how many times sooner than ``base`` a mode reached the target; None if it is not known."""
    if mode not in reached or base not in reached:
        return None
    own, other = reached[mode].seconds, reached[base].seconds
    return other / own if math.isfinite(own) and math.isfinite(other) else None


def seconds(value: float) -> str:
    return f"{value:.2f} s" if math.isfinite(value) else "not reached"


def runs(results: Results, name: str, default: int) -> str:
    """Return how many runs a number stands for, by the command that made it."""
    found = results.find(name, r"^command .*--repeats (\d+)")
    n = int(found[0]) if found else default
    return f"`{name}.txt`, a single run" if n == 1 else f"`{name}.txt`, medians of {n} runs"


def coarse(reached: dict[str, Reached]) -> str:
    """Return what the control tells, where it was run."""
    if CONTROL not in reached:
        return ""
    return " With `n_shards=2` the synchronous way has pieces of work as large as the parameter server's."


def race(reached: dict[str, Reached], names: dict[str, str], bases: dict[str, str], target: float) -> list[str]:
    """Return a table: who, seconds to the target, times sooner than each base, the loss at the end."""
    head = ["strategy", f"loss {target:g} after", *(f"sooner than {name}" for name in bases.values()), "final loss"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for mode, r in reached.items():
        ratios = [sooner(reached, mode, base) for base in bases]
        cells = [names.get(mode, mode), seconds(r.seconds), *("" if x is None else f"{x:.2f}x" for x in ratios)]
        lines.append(f"| {' | '.join([*cells, f'{r.loss:.4f}'])} |")
    return lines


# sections


def nets(results: Results) -> list[str]:
    pattern = r"ours [\d.]+ ms: ([\d.]+)x DDP.*?([\d.]+)x plain.*costs \+(\d+)%"
    steps = [tuple(map(float, row)) for row in results.rows("nets", pattern)]
    sums = results.find("transport", r"^all_reduce 10 MB +copied ([\d.]+) ms: ([\d.]+)x gloo")
    if not steps or not sums:
        return []
    ddp, plain, costs = zip(*steps, strict=True)
    return prose(
        f"Steps of {len(steps)} nets are {min(ddp):.2f} to {max(ddp):.2f} times as fast as with DDP on gloo, and",
        f"{min(plain):.2f} to {max(plain):.2f} times as fast as in plain torch with two threads; a sum of 10 MB takes",
        f"{sums[0]:.1f} ms, {sums[1]:.1f} times less than gloo's. The promise of equal bits costs {min(costs):.0f} to",
        f"{max(costs):.0f} % of a step against `exact=False` (`nets.txt`, `transport.txt`).",
    )


def straggler_gain(results: Results) -> float | None:
    found = results.find("straggler", r"^with a straggler ([\d.]+)x faster")
    return None if found is None else found[0]


def straggler(results: Results) -> list[str]:
    rows, gain = results.straggler(), straggler_gain(results)
    if gain is None:
        return []
    (dealt, claimed), (even, own) = rows["one of two four times slower"], rows["no straggler"]
    lines = prose(
        f"With one of two workers four times slower a step takes {claimed:.1f} ms in place of {dealt:.1f} ms, and is",
        f"{gain:.1f} times faster. With both alike it takes {own:.1f} ms in place of {even:.1f} ms",
        "(`straggler.txt`).",
    )
    return lines + plot(
        results, "straggler", "Milliseconds a step, shards dealt or claimed, with a straggler and without"
    )


def staleness_slow(results: Results) -> list[str]:
    reached = results.staleness("slow")
    if not reached:
        return []
    lines = race(reached, MODES, {BASE: "synchronous, dealt", CLAIMED: "claimed"}, results.target("staleness"))
    lines += ["", f"One of two workers four times slower ({runs(results, 'staleness', 3)}).{coarse(reached)}"]
    return lines + plot(results, "staleness_slow", "Loss over seconds of each mode with one slow worker")


def staleness_random(results: Results) -> list[str]:
    reached = results.staleness("random")
    if not reached:
        return []
    lines = race(reached, MODES, {BASE: "synchronous, dealt"}, results.target("staleness"))
    lines += ["", "Both workers pause at random, exponentially, for a step on average"]
    lines += [f"({runs(results, 'staleness', 3)}).{coarse(reached)}"]
    return lines + plot(results, "staleness_random", "Loss over seconds of each mode with random delays")


def bound(results: Results) -> list[str]:
    reached = results.staleness("slow")
    dealt, free, claimed = (reached.get(m) for m in ("staleness 4, dealt", "asynchronous, dealt", CLAIMED))
    if not (dealt and free and claimed and BASE in reached):
        return []
    parts = [
        f"Measured above: with rows dealt in advance, staleness 4 needs {seconds(dealt.seconds)} to the target and no",
        f"bound at all {seconds(free.seconds)}; claimed shards need {seconds(claimed.seconds)}, synchronously, in",
        f"place of {seconds(reached[BASE].seconds)}.",
    ]
    if control := reached.get(CONTROL):
        parts += [
            "With the work cut as coarsely as theirs (`n_shards=2`) the synchronous way with dealt rows needs",
            f"{seconds(control.seconds)}: that is {control.seconds / dealt.seconds:.2f} times what staleness 4 needs.",
        ]
    return prose(*parts)


def updates(results: Results) -> list[str]:
    rows = results.rows("updates", r"^(\S+) +ours-async ([\d.]+)x the best rival, (\S+) ")
    if not rows:
        return []
    lines = ["| net | updates a second | best rival | times as many |", "|---|---|---|---|"]
    for net, ratio, rival in rows:
        own = results.updates()[net]["ours-async"]
        way = "asynchronous" if rival.endswith("-async") else "synchronous"
        lines.append(f"| {NETS[net]} (`{net}`) | {own:,.0f} | {RIVALS[rival.split('-')[0]]}, {way} | {ratio}x |")
    lines += ["", "Two workers on two cores; the rivals' server is a third process (`updates.txt`)."]
    return lines + plot(results, "updates", "Updates a second of parameter servers")


def slow_link(results: Results) -> list[str]:
    reached = results.slow_link()
    if not reached:
        return []
    lines = race(reached, SLOW_LINK, {"AllReduce": "AllReduce", "ddp": "DDP"}, results.target("slow_link"))
    lines += ["", "Two hosts, 100 Mbit/s and 20 ms each way, a dense net of 235,000 weights, AdamW"]
    lines += [f"({runs(results, 'slow_link', 1)})."]
    return lines + plot(results, "slow_link", "Loss over seconds between two hosts on a slow link")


def local_sgd(results: Results) -> list[str]:
    found = results.local_sgd()
    if not found:
        return []
    lines = ["| strategy, `n_shards=2` | MB sent | rows a second | loss on training rows | accuracy on others |"]
    lines.append("|---|---|---|---|---|")
    for (shards, name), row in found.items():
        if shards == 2:
            cells = f"{row['MB']:.0f} | {row['speed']:,.0f} | {row['loss']:.4f} | {row['accuracy']:.3f}"
            lines.append(f"| {name} | {cells} |")
    lines += [
        "",
        "One host, over gloo (`local_sgd.txt`): the speed is what fewer steps and merges save, not what a link does.",
    ]
    return lines + plot(results, "local_sgd", "Rows a second and MB sent by local steps")


def compress(results: Results) -> list[str]:
    forms = results.forms()
    if not forms:
        return []
    lines = []
    if {"none", "int8", "top5+int8"} <= forms.keys():
        (_, loss, share), whole, both = forms["none"], forms["int8"], forms["top5+int8"]
        lines = prose(
            f"`Int8()` sends {4 / whole[0]:.1f} times less and ends at a loss of {whole[1]:.4f} (plain: {loss:.4f});",
            f"`(TopK(0.05), Int8())` sends {4 / both[0]:.0f} times less and ends at {both[1]:.4f}, with an accuracy of",
            f"{both[2]:.3f} in place of {share:.3f} (`compress.txt`, small digits).",
        )
    return lines + plot(results, "compress", "Bytes for each number and final loss of each form of updates")


def auto(results: Results) -> list[str]:
    pattern = r"^auto +[\d.]+ +[\d.]+ +ms a step without and with, ([-+][\d.]+) %"
    found = results.find("compress", pattern)
    pairs = results.find("compress", pattern + r"; (\d+) pairs from (-?[\d.]+) to (-?[\d.]+) %")
    if found is None:
        return []
    many = (
        "" if pairs is None else f"; median of {pairs[1]:.0f} pairs of runs, from {pairs[2]:+.1f} to {pairs[3]:+.1f} %"
    )
    more = "longer" if found[0] >= 0 else "less"
    return prose(f'In shared memory a step with "auto" takes {abs(found[0]):.1f} % {more} (`compress.txt`{many}).')


def link(results: Results) -> list[str]:
    found = results.link()
    fast = "1000 Mbit/s 1 ms"
    if (fast, "TLS") not in found:
        return []
    (tls, share), (plain, _) = found[fast, "TLS"], found[fast, "plain"]
    lines = prose(
        f"Encrypted, a sum of 25 MB over 1 Gbit/s uses {share:.0f} % of the link and takes {tls / plain:.2f} times as",
        "long as in plain text, which only this measurement speaks between hosts (`link.txt`).",
    )
    return lines + plot(results, "link", "Share of the link that a sum of 25 MB uses")


# the table on top


def gains(results: Results) -> dict[str, str]:
    """Return what was measured for each situation, in a few words; nothing where there is no result."""
    found: dict[str, str] = {}
    ratios = [float(r) for (r,) in results.rows("nets", r"ours [\d.]+ ms: ([\d.]+)x DDP")]
    if ratios:
        found["alike"] = f"a net's step {min(ratios):.2f} to {max(ratios):.2f} times as fast as DDP's"
    if gain := straggler_gain(results):
        found["slow"] = f"a step {gain:.1f} times faster than with dealt shards"
    slow, random, reached = results.staleness("slow"), results.staleness("random"), results.slow_link()
    first, second = sooner(slow, ASYNC, BASE), sooner(slow, ASYNC, CLAIMED)
    if first and second:
        found["free"] = f"target {first:.1f} times sooner than dealt, {second:.1f} times than claimed shards; "
        found["free"] += "in part by larger pieces of work"
    if ratio := sooner(random, BOUND, BASE):
        found["delays"] = f"target {ratio:.1f} times sooner than dealt shards"
    for key, system in (("lossy", "TopK + Int8"), ("rare", "LocalSGD 16 + Int8"), ("auto", "auto")):
        if ratio := sooner(reached, system, "AllReduce"):
            found[key] = f"target {ratio:.1f} times sooner than plain `AllReduce`"
    sent, forms = results.local_sgd(), results.forms()
    if "rare" not in found and sent:
        found["rare"] = (
            f"{sent[2, 'AllReduce']['MB'] / sent[2, 'nesterov, H = 16']['MB']:.1f} times less sent, before `Int8`"
        )
    if "lossy" not in found and "top5+int8" in forms:
        found["lossy"] = f"{4 / forms['top5+int8'][0]:.0f} times fewer bytes a number"
    if share := results.link().get(("1000 Mbit/s 1 ms", "TLS")):
        found["hosts"] = f"{share[1]:.0f} % of 1 Gbit/s, encrypted"
    return found


ROWS = (
    (
        "alike",
        "workers are alike, on one host",
        "strategy=tutti.AllReduce()",
        "nobody waits long",
        "equal bits take a part of each step; `exact=False` gives them up",
    ),
    (
        "slow",
        "one worker is slower, now or for good",
        "strategy=tutti.AllReduce(), n_shards=8",
        "the others do its work",
        "more shards than workers: smaller parts of a batch",
    ),
    (
        "free",
        "it is, and bits may differ from run to run",
        "strategy=tutti.ParameterServer(staleness=math.inf)",
        "nobody waits",
        "bits depend on timing; gradients of older weights",
    ),
    (
        "delays",
        "delays come and go",
        "strategy=tutti.ParameterServer(staleness=4)",
        "a delay is waited for only if it is long",
        "bits depend on timing; no help if one is slow for good",
    ),
    (
        "rare",
        "the link is slow: merge rarely",
        'strategy=tutti.LocalSGD(16, "nesterov", compress=tutti.Int8())',
        "far fewer merges",
        "another path; an optimizer for each shard",
    ),
    (
        "lossy",
        "the link is slow: merge every step",
        "strategy=tutti.AllReduce(compress=(tutti.TopK(0.05), tutti.Int8()))",
        "fewer bytes",
        "a little loss; time to encode; few shards",
    ),
    (
        "auto",
        "the link is not known",
        'strategy=tutti.AllReduce(compress="auto")',
        "measured before the first round",
        "a moment at the start; off in shared memory",
    ),
    (
        "hosts",
        "workers are on several hosts",
        'engine=tutti.Hosts(4, listen="10.0.0.1:4711")',
        "the same bits as on one host",
        "processor time: all of it is encrypted",
    ),
)


def decisions(results: Results) -> list[str]:
    found = gains(results)
    lines = ["| situation | write | gain | it costs |", "|---|---|---|---|"]
    return lines + [
        f"| {when} | `{code}` | {found.get(key, words)} | {cost} |" for key, when, code, words, cost in ROWS
    ]


BLOCKS: dict[str, Callable[[Results], list[str]]] = {
    f.__name__: f
    for f in (
        decisions, nets, straggler, staleness_slow, staleness_random, bound, updates, slow_link, local_sgd, compress,
        auto, link,
    )
}  # fmt: skip


def block(name: str, results: Results | None = None) -> str:
    """Return the lines of a measured part, each ended."""
    return "".join(f"{line}\n" for line in BLOCKS[name](results or Results()))
