"""What the programs say while they are tested, kept and searched at the end: no secret, no address, no card number may be in it.

`child/sitecustomize.py` copies what every Python program that a test starts writes to standard error; `plugin` keeps that of the
programs that run inside of the tests, what gRPC and the HTTP pages answer, and PostgreSQL's own log; `search` looks through it.
"""
