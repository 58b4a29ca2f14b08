"""The process that a command runs in: who leads it, and where its temporary files lie."""
