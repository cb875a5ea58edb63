"""Floor 3: history in, tonight's levels out. Pure functions."""
