"""A host's part of saving and restoring. Shipped: standard library only, Python 3.9 on. Imported by shim/execute alone.

It asks criu, which it starts only through what it is handed, and reads and writes the image's files in the spool. It
trusts the home that its agent serves for what the job is; not for bytes: what comes is checked against its hashes.
"""
