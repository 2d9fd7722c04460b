"""What goes over the wire, one module a resource, its requests and its answers together.

Requests are pydantic models that forbid unknown fields, answers typed dicts. Every optional field of a request accepts
null, which LiteLLM sends for what its caller left out.
"""
