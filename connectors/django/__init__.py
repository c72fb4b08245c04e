"""An existing FMA deployment's database, and the hub's tables beside it: no Django needed (docs/decisions/0009)."""
