"""The demonstration: real federated learning, by real processes, through a hub of its own.

Participants are ordinary clients of the hub; the judge reads what the hub wrote down, not what it says.
"""
