"""The job's keeper and init: namespaces, root and ids, the job's start and end, and its tree. Shipped.

The agent imports it, and talks to the two processes by messages.py alone. From the moment that init has entered the
job's root all files are the submit machine's, so it imports before that what it will need. Init trusts the agent, and
nothing of the job's: it looks at processes by their numbers in /proc only, and takes no word of theirs.
"""
