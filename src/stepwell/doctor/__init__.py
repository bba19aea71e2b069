"""Why a server is slow or out of memory: reads what it reports and says what to do.

Owns the names that engines give their metrics, the window over which they are read, findings
(symptom, diagnosis, action, proof), and the explanations of out-of-memory messages. Never changes
the server that it looks at. No torch. Sizes and bounds come from `plan`.
"""
