"""The command line, `python -m worker`: one module a subject; heavy imports wait for the command that needs them."""
