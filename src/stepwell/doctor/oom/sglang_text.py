"""SGLang's messages: too little left for its pool, a pool that is full, a pool that miscounts."""

from __future__ import annotations

import re

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.advice import lack_steps
from stepwell.doctor.oom.reader import Reader, Sighting, Weight
from stepwell.doctor.oom.words import Explanation, Holder, Phase, Step

_INIT = re.compile(r"Not enough memory\.? Please try to increase --mem-fraction-static")
_FULL = re.compile(
    r"(?P<what>Prefill|Decode) out of memory\. Try to lower your batch size\.\s*"
    r"(?:Try to allocate (?P<asked>\d+) tokens\.\s*)?(?:Avai?l?i?able tokens: (?P<left>\d+))?"
)
_RETRACT = re.compile(
    r"(?:Decode out of memory happened|KV cache pool is full)\.[^#\n]*#retracted_reqs: (\d+)"
)
_LEAK = re.compile(
    r"(?P<pool>token_to_kv_pool_allocator|req_to_token_pool|mamba_pool|pool) memory leak detected!"
    r"(?P<rest>.{0,600})",
    re.DOTALL,
)
_SLOTS = re.compile(
    r"alloc_req_slots runs out of memory\.[^\n]*?available_size\(\)=(\d+), num_reqs=(\d+)"
)
_CAPTURE = re.compile(r"Capture cuda graph failed: (?:CUDA|HIP)[^\n]{0,20}out of memory[^\n]*")


def _init(sight: Sighting) -> Explanation:
    left = sight.facts.sizes.get("left after loading")
    share = sight.facts.settings.get("mem_fraction_static")
    weights = sight.facts.sizes.get("weights")
    total = None if left is None or weights is None else left + weights
    why = (
        "After loading, what is left of the device is less than the part that "
        "--mem-fraction-static keeps free for activations and graphs (1 minus the fraction, of "
        "the whole device), so the KV pool would have no room."
    )
    told = "up to 0.95"
    if left is not None and total:
        spare = left / total
        told = f"above {1 - spare:.2f}, such as {1 - spare / 2:.2f}"
    return Explanation(
        kind="sglang_init",
        source="SGLang, start",
        title="nothing is left for the KV pool",
        why=why,
        steps=(
            Step(f"Raise --mem-fraction-static, {told}"
                 + (f" (now {share:g})." if share is not None else "."),
                 "each 0.01 gives a hundredth of the device to the pool. This is the start: out of "
                 "memory while serving needs the opposite."),
            Step("Lower --chunked-prefill-size and --cuda-graph-max-bs when raising it.",
                 "less has to stay free beside the pool"),
            Step("Split the model (--tp 2) or load fewer bits.",
                 "half or a quarter of the weights"),
        ),
        text=sight.text,
        phase=Phase.KV_CACHE,
        holders=(Holder("weights", weights, "" if weights else "the text does not say"),
                 Holder("left after loading", left, "" if left else "the text does not say")),
    )  # fmt: skip


def _full(sight: Sighting) -> Explanation:
    asked, left = sight.group("asked"), sight.group("left")
    enough = bool(asked and left) and int(left) >= int(asked)
    decode = sight.group("what") == "Decode"
    why = "The KV pool had no room for the next tokens and nothing in it could be evicted."
    if enough:
        why = (
            f"{left} tokens are counted as free and {asked} were asked for: the free tokens lie in "
            "pages that other requests began (--page-size above 1), or the pool's books are wrong."
        )
    steps = [
        Step(
            "Lower --max-running-requests." if decode else "Lower --chunked-prefill-size.",
            "fewer tokens are needed at once",
        ),
        Step("Raise --mem-fraction-static if the device has memory left, or use --tp 2 or "
             "--kv-cache-dtype fp8_e5m2.", "a larger pool; 8 bits hold twice the tokens"),
        Step("Raise --schedule-conservativeness (1.3).",
             "requests are admitted with more room for what they may still generate"),
    ]  # fmt: skip
    if enough:
        steps.insert(0, Step("Set --page-size 1, and use a newer SGLang.",
                             "tokens then need no page of their own"))  # fmt: skip
    return Explanation(
        kind="sglang_pool_full",
        source="SGLang, serving",
        title=f"the KV pool is full in {'decode' if decode else 'prefill'}",
        why=why,
        steps=tuple(steps),
        text=sight.text,
        phase=Phase.SERVING,
        holders=(Holder("running requests", None, "the pool; the device itself is not full"),),
        fragmentation="Tokens free in part-used pages: internal fragmentation." if enough else "",
        evidence={k: float(v) for k, v in (("asked_tokens", asked), ("free_tokens", left)) if v},
    )


def _retract(sight: Sighting) -> Explanation:
    return Explanation(
        kind="sglang_retract",
        source="SGLang, serving",
        title="requests were set back because the KV pool was full; the server went on",
        why="More requests were admitted than the pool holds with what they generate. Those set "
        "back are computed again later: time is lost, nothing failed.",
        steps=(
            Step("Raise --schedule-conservativeness (1.3) or lower --max-running-requests.",
                 "fewer are set back; a little less throughput while answers are short"),
            Step("Raise --mem-fraction-static if memory is left, or keep KV in 8 bits.",
                 "a larger pool"),
        ),
        text=sight.text,
        phase=Phase.SERVING,
        holders=(Holder("running requests", None, "the pool"),),
        evidence={"retracted_requests": float(sight.match[1])},
    )  # fmt: skip


def _leak(sight: Sighting) -> Explanation:
    numbers = {
        name: int(value)
        for name, value in re.findall(
            r"(available_size|evictable_size|protected_size|max_total_num_tokens|total_size)"
            r"(?:\(\))?=(\d+)",
            sight.group("rest"),
        )
    }
    total = numbers.get("max_total_num_tokens") or numbers.get("total_size")
    counted = sum(numbers.get(k, 0) for k in ("available_size", "evictable_size", "protected_size"))
    if "evictable_size" in numbers and total and numbers.get("available_size", 0) >= total:
        counted = numbers["available_size"]  # older text: the sum itself is called available_size
    lost = None if total is None else total - counted
    told = "" if lost is None else f" {abs(lost):,} slots are {'lost' if lost > 0 else 'too many'}."
    return Explanation(
        kind="sglang_leak",
        source="SGLang, self-check",
        title="the pool's books do not add up; SGLang stops itself",
        why="In an idle moment free, evictable and protected slots must add up to the pool."
        f"{told} Memory is not short: a count is wrong, an error of the engine (seen with page "
        "sizes above 1, speculative decoding, hybrid models, aborted requests).",
        steps=(
            Step("Update SGLang; look for the versions in the issues on «memory leak detected».",
                 "most cases were mended in a later release"),
            Step("Until then: --page-size 1, without speculative decoding, or "
                 "--disable-radix-cache.", "leaves out the paths on which it was seen"),
            Step("Report it with the numbers of the message; no memory setting mends it.",
                 "raising or lowering --mem-fraction-static changes nothing"),
        ),
        text=sight.text,
        phase=Phase.SERVING,
        holders=(Holder("slots that no one owns", None,
                        "" if lost is None else f"{abs(lost):,} tokens"),),
        evidence={f"{name}": float(value) for name, value in numbers.items()}
        | ({} if lost is None else {"lost_slots": float(lost)}),
    )  # fmt: skip


def _slots(sight: Sighting) -> Explanation:
    return Explanation(
        kind="sglang_slots",
        source="SGLang, serving",
        title="no request slot is left; the device's memory is not the question",
        why=f"{sight.match[2]} requests were to start and {sight.match[1]} slots were free in the "
        "table of running requests: its size is --max-running-requests.",
        steps=(
            Step("Raise --max-running-requests above what is sent at once, or lower what is sent.",
                 "a slot takes an index a token, far less than KV"),
            Step("Update SGLang: slots that were not given back are an error.",
                 "a limit should delay requests, not crash"),
        ),
        text=sight.text,
        phase=Phase.SERVING,
        holders=(Holder("running requests", None, "slots, not bytes"),),
        evidence={"free_slots": float(sight.match[1]), "wanted_slots": float(sight.match[2])},
    )  # fmt: skip


def _capture(sight: Sighting) -> Explanation:
    left = sight.facts.sizes.get("left after the KV pool")
    return Explanation(
        kind="sglang_capture",
        source="SGLang, start",
        title="CUDA graphs did not fit beside the KV pool",
        why="Graphs are captured after the pool is allocated, from what --mem-fraction-static "
        "left" + (f": {format_bytes(left)}." if left else "."),
        steps=lack_steps("sglang", Phase.GRAPHS, sight.facts),
        text=sight.text,
        phase=Phase.GRAPHS,
        holders=(Holder("left after the KV pool", left, "" if left else "the text does not say"),),
    )


READERS = (
    Reader("sglang_init", r"Not enough memory\.? Please", _INIT, _init, span=2),
    Reader("sglang_retract", r"retracted_reqs", _RETRACT, _retract, Weight.EVENT, span=1),
    Reader("sglang_pool_full", r"(?:Prefill|Decode) out of memory\. Try", _FULL, _full),
    Reader("sglang_leak", "memory leak detected!", _LEAK, _leak, span=4),
    Reader("sglang_slots", "alloc_req_slots runs out", _SLOTS, _slots, span=3),
    Reader("sglang_capture", "Capture cuda graph failed", _CAPTURE, _capture, Weight.EVENT, span=1),
)  # fmt: skip
