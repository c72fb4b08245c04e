"""What the FL servers of others have in common when a hub aggregates: rounds that they lead, facts that they tell."""
