"""Batches: many jobs of one command, each of which gets a place on some host when there is one, from an engine.

story       what has become of each job, as the journal tells; pure. journal: it in the supervisor's hands
record      a batch on the disk: what was asked for, and its journal
places      where the jobs get their places: the desk here, or HTCondor; cluster: Slurm; dag: DAGMan
personal_places  the same where HTCondor is a personal one
arrays      which task of which of Slurm's arrays is which job's; pure
runs        one job while it runs: a `rexec CMD` of its own; serving: one in a process that serves many
moving      one that can be checkpointed, and outlives the supervisor; departures: it leaves an engine's place
supervisor  all jobs of a batch, from the first to the last; process: it as a process of its own
asking      what others ask of it, and how the answer comes

A job that waits is a number in a file: no process, no thread. Imported by the commands. A batch's directory is this
user's, and trusted; no job sees it (shim/submit/protect.py). What an engine says is checked in shim/submit/engines.
"""
