"""What home and the execute host have in common: the words between them, and what runs at both ends. Shipped.

Imported by shim.submit, shim.cli and shim.execute; imports none of them. It trusts neither end: what comes from the
other is checked where it is parsed.
"""
