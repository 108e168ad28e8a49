"""The door for Python programs: what `from shim import …` gives, and what the commands of shim/cli are written on,
as far as they do the same (docs/decisions/python-door.md).

Nothing in shim/submit imports it. It trusts its caller as the caller trusts itself, and a host no more than the rest of
shim/submit does. What is here prints nothing, and changes nothing of the process that calls it: no signal's handler, no
umask, limit, directory, terminal or standard stream. docs/python.md is its manual, shim/__init__.pyi its list.
"""
