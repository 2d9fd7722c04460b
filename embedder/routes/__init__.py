"""HTTP in, HTTP out: one module for each thing that is asked."""
