"""edgespec's drafters in other programs. One file each; nothing else of edgespec imports them."""
