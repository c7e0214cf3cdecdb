"""One folder an op: schema, fake and autograd in ``__init__.py``, the truth in ``reference.py``."""
