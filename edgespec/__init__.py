"""edgespec: language models on laptops and phones, faster, without changing a word of the answer."""

__version__ = "0.1.0"
