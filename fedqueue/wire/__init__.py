"""The wire contract as other languages read it: JSON Schemas and an AsyncAPI document, made of `fedqueue.messages`.

`python -m fedqueue.wire FOLDER` writes them; docs/wire.md says how they are used.
"""
