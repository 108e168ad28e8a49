"""Whether the machine's owner is there, and what that means for a job. Shipped.

sources.py has all that tell of input (each a `Source`), step.py the rules, load.py what else a policy looks at; word.py
what the owner has written down, and admission.py whether a job may begin by that. The agent, its entry and the probe
import it; it imports none of these, nor init. It only looks: it grabs no device, and changes nothing.
What a bus or a display answers is another program's word, which is checked and trusted with one thing alone: how long
the owner has been idle.
"""
