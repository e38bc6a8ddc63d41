"""The parts of `scripts/chaos`: real workers and servers under load, faults, and an outside ledger.

    graphs      workflows whose results are known beforehand
    load        what is published, when, and how it must end
    plan        load and faults from one seed
    journal     what happened when, as a file of JSON lines
    servers     the private RabbitMQ nodes and the Redis
    cluster     three RabbitMQ nodes that are one
    roles       users with least permissions
    proxy       a wire that can be cut, silenced and slowed (a process of its own)
    links       our end of that process
    workers     worker processes and who starts them again
    producers   publish the load, with confirms; foreign ones and the command line
    faults      what is done to whom
    witness     executions (lines that tasks write) and ends (what Redis announces)
    ledger      accepted against ended: the comparison
    letters     dead letters against ends
    report      the ledger as text
    run         all of it in order
    sabotage    whether the ledger notices what must not be
    tests       the same without servers, for what only faults bring about
    delays      the precision of delays, on its own

Nothing here looks into Gleitzeit: only docs/wire-format.md, the command line, and files that
tasks write are used.
"""


class Broken(Exception):
    """The run cannot go on; the message says why."""
