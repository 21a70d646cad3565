"""How good a run is: against a truth, under a published protocol, beside another run."""
