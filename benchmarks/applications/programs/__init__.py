"""The applications: each module has an ASGI `app`, which uvicorn serves, or `run(sock, make_loop)`.

They are what the frameworks' own documents show, or what TechEmpower's rules ask for, as short as possible.
"""
