"""What the threads that serve a host's requests for files may ask of the kernel: by design little more than files.

Imported by whoever has a session with a host (shim/submit), and by the export for the types of what it is given. It
trusts no code that serves a host: where the export errs, this holds. It is of threads, and of all that they start; the
others of the process go on as ever (docs/decisions/second-wall.md says what that is worth).
"""
