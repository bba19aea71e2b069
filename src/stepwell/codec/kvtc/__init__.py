"""KVTC: transform coding of a chunk of K,V (arXiv:2511.01815), faithful and improved.

    rotary, layout       keys without their rotary turn; rows of all layers and heads
    statistics           calibration in one streaming pass
    metric               which errors count how much
    matrix, transform    rows to decorrelated coefficients and back
    paper, paper_plan    `kvtc-paper`: the paper's quantiser, exact allocation, DEFLATE
    levels, quantizer    one step, dead zone, price on bits, symbols and escapes
    allocation           trains the ladder of steps: one sweep for all ratios
    ours                 `kvtc`: levels to entropy-coded bytes
    artifact             the calibration file

Owns: coefficients and their bytes. Does not own: running the model, what a block of the pool looks
like, tiers. Nothing here pickles.
"""
