"""The desk: a user's runs on the hosts of hosts.toml, each with its slots, and who waits for one.

line      whose turn it is, and where; pure
members   who runs and who waits, as files that the kernel lets go of with their process
place     a slot for a run: its host, after what waiting there was

Imported by the commands. There is no server: each run looks whose turn it is, under one lock, when something changes.
Members are this user's own on this machine, and trusted; what hosts say has been checked (hosts/survey.py).
"""
