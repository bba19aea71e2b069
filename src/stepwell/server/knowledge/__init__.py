"""The tenants' knowledge bases behind the HTTP edge.

Owns who may do what to them over HTTP, what a request is given and where in its messages that
stands, what each session and each reply were given before, and the review page. What knowledge is,
how it is gated, found and rendered is `stepwell.knowledge`; without its extra installed the server
runs and has none (`wish`, `ports` and `weave` import nothing of it).
"""
