"""The graph: its types (`ir`), its ops and what they mean (`ops`), the importers, the interpreter, the verifier and the text form."""
