"""How one run is trained: set up, trained, saved, resumed."""
