"""The commands: ``rexec CMD``, and a module for each family of the others. Nobody imports them.

Only here is click imported, and only here and in shim/submit/foreground is this process's own state changed (signals,
limits, terminal) and something shown to a person. What a command does is done by shim/submit; what it says when that
fails is the exception's text, one sentence (program.py). Words of the command line are the user's own, and trusted;
what hosts have said goes through remoteio/printable.py before it is shown.
"""

import gc

gc.set_threshold(10_000)  # to look for garbage among what is only just imported takes a tenth of a start
