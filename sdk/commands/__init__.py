"""The commands of `embarq`: each calls the library and prints what it returned; nothing is computed here."""
