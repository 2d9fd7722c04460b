"""The use cases: rules, transactions and the order of steps, the same for every front door."""
