"""What runs on an execute host: the agent of one job, its keeper and init, and the answers to a survey. Shipped.

Beside these stands what is run first: stage.py receives the modules, main.py or probe.py is then the entry. Imports
shim.wire and the other packages' wire and execute folders; nothing at home imports it. It runs as the login that ssh
gave it. It trusts home, which may have it run anything as that login; it trusts nothing that the job says.
"""
