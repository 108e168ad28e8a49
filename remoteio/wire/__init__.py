"""What goes over the link between home and an execute host: frames, the kernel's FUSE messages, what is told with them.

For both ends, which import it; it imports neither, and is shipped. It trusts nobody: what it reads it checks
against its declared shape, and raises ProtocolError.
"""
