"""What both ends know of an image: its manifest, its messages, CRIU's formats. Shipped.

Imported by both ends, and by shim. It opens no link and runs no program. Whatever it parses may come from the
other end, of which each trusts nothing: a parser takes what its docstring says, within limits, and raises an error of
checkpoint/errors.py for all else.
"""
