"""KVTC: transform coding of a chunk of K,V (arXiv:2511.01815), faithful and improved.

    rotary, layout       keys without their rotary turn; rows of all layers and heads
    statistics, gather   calibration in one streaming pass, exact or sketched
    metric               which errors count how much
    matrix, matrix_code  projection matrices in few bits
    transform            rows to decorrelated coefficients and back
    paper, paper_plan    `kvtc-paper`: the paper's quantiser, exact allocation, DEFLATE
    levels, cells        symbols and escapes; which interval becomes which level
    quantizer            one step, dead zone, price on bits, reconstruction
    allocation           trains the ladder of steps: one sweep for all ratios
    ours                 `kvtc`: levels to entropy-coded bytes
    train, control       statistics to a calibration; ratio or error to a step
    calibration          transforms and ladders of one model; rows to bytes by them
    container, artifact  the calibration file, every number checked

Owns: coefficients and their bytes. Does not own: running the model, what a block of the pool looks
like, tiers. Nothing here pickles.
"""
