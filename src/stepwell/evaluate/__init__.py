"""Measuring: load generation, ceilings, memory accounting, and rivals side by side.

Owns: workloads and their arrival times, the clock that starts at the *scheduled* send, the HTTP
load client, the measured ceilings of the machine, the protocol by which contestants (Stepwell
itself and rivals, each a process of its own) run the same requests in turn, and the result file.
Does not own: the engine (driven through `engine.llm`), the server (started as a process), or what
a result means: `serve_bench` prints the ceiling, the value and the share, and the reader judges.

Load generation and the race import no torch; `worker` and `ceiling` do inside functions, and the
codecs' and the hierarchy's benches, which run the engine in this process, at the top.
"""
