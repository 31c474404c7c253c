"""edgespec's drafters in other programs, one module each. No other package imports them."""
