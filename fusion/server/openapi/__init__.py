"""OpenAPI: the document of the server's public API, written by hand.

https://spec.openapis.org/oas/v3.1.1
"""
