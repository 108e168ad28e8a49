"""Engines: systems that give places on hosts to jobs of ours, and of which each job can be entered by a stream.

condor    HTCondor: what it is told, what it tells, and its streams; slurm: the same of Slurm
dagman    DAGMan, HTCondor's own: what is written for it, and what it says of its nodes
asked     what both say of themselves and of their machines
personal  a personal HTCondor of one's own hosts, all of which runs here
allowed   how long a job may have its place; pure
told      what an engine tells of a job's place; pure
names     which destination is an engine's job

An engine runs a pilot (shim/execute/pilot.py), which keeps the place. rexec's own agent is its child there, and all
that there is between the two ends is as over ssh. Imported by shim/submit/hosts, by shim/submit/batch and by the
commands. The engine is trusted as ssh is: it says who a host is; what comes through a stream of its is checked where
that is read, and what it says of its jobs is read as declared shapes.
"""
