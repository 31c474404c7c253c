"""Grammars in llama.cpp's GBNF: made from a JSON schema, and checked before llama.cpp sees them."""

from edgespec.grammar.check import check_grammar
from edgespec.grammar.json_schema import schema_to_grammar

__all__ = ["check_grammar", "schema_to_grammar"]
