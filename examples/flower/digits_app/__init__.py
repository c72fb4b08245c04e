"""A Flower app: ten participants, the digits that scikit-learn brings, a network in plain numpy."""
